"""From pipes to the terminal, in process: whole lines, bounded queues."""

from __future__ import annotations

import io
import os
import queue
import re
import threading
from datetime import datetime

import pytest
from honcho.printer import Message

from backend.process import output
from backend.process.output import Events, JsonPrinter, PiecePrinter, notice, whole_lines


def pieces(*writes: bytes) -> list[bytes]:
    read, write = os.pipe()
    for data in writes:
        os.write(write, data)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        return list(whole_lines(pipe))


def line(data: bytes, name: str = "a") -> Message:
    return Message("line", data, datetime(2026, 1, 2, 3, 4, 5), name, "36")


def printed(printer: type[PiecePrinter] | type[JsonPrinter], message: Message, **options: object) -> str:
    written = io.StringIO()
    printer(written, **options).write(message)
    return written.getvalue()


def test_lines_are_never_torn_and_the_last_needs_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "PIECE", 5)
    assert pieces(b"ab\ncdefghij\nk\n", b"l") == [b"ab\n", b"cdefghij\nk\n", b"l"]


def test_a_line_without_end_is_passed_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "LONGEST_LINE", 10)
    monkeypatch.setattr(output, "PIECE", 8)
    assert pieces(b"x" * 30) == [b"x" * 16, b"x" * 14]


def test_one_that_says_much_waits_alone() -> None:
    events = Events()
    for _ in range(output.WAITING_PIECES):
        events.put(line(b"x\n"))
    blocked = threading.Thread(target=events.put, args=[line(b"one more\n")])
    blocked.start()
    events.put(line(b"another process\n", name="b"))
    events.put(notice("signal handlers never wait"))
    assert blocked.is_alive()
    events.get(0)
    blocked.join(timeout=10)
    assert not blocked.is_alive()


def test_all_that_was_put_is_read_before_the_end_is() -> None:
    events = Events()
    events.put(notice("one"))
    events.close()
    events.put(notice("two, by the loop itself"))
    assert [events.get(0).data, events.get(0).data] == ["one", "two, by the loop itself"]
    for _ in range(2):
        with pytest.raises(queue.Empty):
            events.get(0)


def test_an_error_of_the_crew_is_raised_in_the_loop() -> None:
    events = Events()
    events.close(OSError("no more processes"))
    with pytest.raises(OSError, match="no more processes"):
        events.get(0)


def test_each_line_of_a_piece_gets_the_prefix() -> None:
    assert printed(PiecePrinter, line(b"one\r\n\ntwo\n"), width=3, colour=False) == (
        "03:04:05 a   | one\n03:04:05 a   | \n03:04:05 a   | two\n"
    )


def test_colour_is_only_in_the_prefix() -> None:
    assert printed(PiecePrinter, line(b"one\n"), colour=True) == "\033[0m\033[36m03:04:05 a | \033[0mone\n"


def test_for_machines_processes_are_passed_through_and_notices_are_objects() -> None:
    assert printed(JsonPrinter, line(b'{"event": "x"}\n')) == '{"event": "x"}\n'
    assert printed(JsonPrinter, notice("\nReady.\n")).endswith('"level": "info", "event": "Ready."}\n')


def test_what_is_private_is_shown_and_given_to_nobody_else() -> None:
    written, heard = io.StringIO(), list[Message]()
    printer = JsonPrinter(written)
    printer.also, printer.private = [heard.append], re.compile(rb"key_\w+")
    printer.write(line(b"made key_123, once"))
    assert written.getvalue() == "made key_123, once\n"
    assert [each.data.decode() for each in heard] == ["made …, once"]
