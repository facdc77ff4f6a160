"""Lines that are JSON objects are text for people; all others are left as they are."""

from __future__ import annotations

import pytest

from backend.process.structured import readable


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ('{"level":30,"time":1,"pid":7,"msg":"listening","port":80}', "info listening pid=7 port=80"),
        ('{"event": "run ended", "level": "warning", "timestamp": "x", "run": null}', "warning run ended run=null"),
        ('{"message": "x", "severity": "ERROR", "who": "a b", "empty": ""}', 'error x who="a b" empty=""'),
        ('{"msg": {"a": 1}, "list": ["ä"]}', '{"a": 1} list=["ä"]'),
        ('{"event": "failed", "exception": "Traceback\\n  line\\n"}', "failed\nexception:\n    Traceback\n      line"),
        ('{"level": "info", "port": 80}', '{"level": "info", "port": 80}'),
        ('{"msg": "torn', '{"msg": "torn'),
        ('{"a": ' * 5000, '{"a": ' * 5000),
        (' {"msg": "indented"}', ' {"msg": "indented"}'),
        ("[1]", "[1]"),
    ],
)
def test_what_loggers_write_is_readable(line: str, shown: str) -> None:
    assert readable(line, colour=False) == shown


def test_only_objects_are_rendered_among_other_lines() -> None:
    assert readable('one\n{"msg": "two"}\nthree\n', colour=False) == "one\ntwo\nthree\n"


def test_the_level_has_a_colour_on_a_terminal() -> None:
    assert readable('{"level": 50, "msg": "x", "a": 1}', colour=True) == "\033[31merror\033[0m x \033[36ma=\033[0m1"
