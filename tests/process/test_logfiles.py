"""Log files: one for each process, exchanged when large, and never a reason for anything else to fail."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import pytest
from honcho.printer import Message

from backend.process import logfiles
from backend.process.logfiles import LogFiles


def line(text: bytes | str, name: str = "rest.1") -> Message:
    return Message("line", text, datetime(2026, 1, 2, 3, 4, 5, 678_000), name, "36")


def test_each_process_has_a_file_with_times_and_without_colours(tmp_path: Path) -> None:
    files = LogFiles(tmp_path / "new/logs", pytest.fail)
    files.hear(line(b"\033[1mone\033[0m %s\r\ntwo\n"))
    files.hear(line(b"caf\xe9", "executor.2"))
    files.hear(line("Ready.\n", "system"))
    files.close()
    found = {path.name: path.read_text() for path in (tmp_path / "new/logs").iterdir()}
    times = {name: re.sub(r"(?m)^2026-01-02T03:04:05\.678\S+ ", "> ", text) for name, text in found.items()}
    assert times == {
        "rest.log": "> one %s\n> two\n",
        "executor.2.log": "> caf\ufffd\n",
        "system.log": "> Ready.\n",
    }


def test_a_large_file_is_exchanged_and_five_old_ones_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfiles, "LARGEST", 200)
    files = LogFiles(tmp_path, pytest.fail)
    for number in range(40):
        files.hear(line(f"line {number} {'x' * 40}\n".encode()))
    files.close()
    names = ["rest.log", *(f"rest.log.{number}" for number in range(1, 6))]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    kept = "".join((tmp_path / name).read_text() for name in reversed(names))
    numbers = [int(number) for number in re.findall(r"line (\d+) ", kept)]
    assert numbers == list(range(40 - len(numbers), 40))


def test_what_goes_on_after_a_restart_is_added(tmp_path: Path) -> None:
    for text in (b"one\n", b"two\n"):
        files = LogFiles(tmp_path, pytest.fail)
        files.hear(line(text))
        files.close()
    assert len((tmp_path / "rest.log").read_text().splitlines()) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_a_full_disk_is_told_once_and_others_are_written_on(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "rest.log").symlink_to("/dev/full")
    files = LogFiles(tmp_path, said.append)
    for _ in range(3):
        files.hear(line(b"lost\n"))
        files.hear(line(b"kept\n", "db.1"))
    files.close()
    [sentence] = said
    assert sentence.startswith(f"cannot write {tmp_path}/rest.log (No space left on device): ")
    assert (tmp_path / "db.log").read_text().count("kept") == 3


def test_a_folder_that_goes_away_is_told_once_and_written_to_when_it_is_back(tmp_path: Path) -> None:
    said: list[str] = []
    folder = tmp_path / "logs"
    files = LogFiles(folder, said.append)
    folder.rmdir()
    files.hear(line(b"lost\n"))
    files.hear(line(b"lost, too\n"))
    folder.mkdir()
    files.hear(line(b"kept\n"))
    files.close()
    assert len(said) == 1
    assert (folder / "rest.log").read_text().endswith(" kept\n")


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        LogFiles(tmp_path / "file", pytest.fail)
