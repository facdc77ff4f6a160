"""The last lines are kept, within bounds, and followers get all that comes or are told what they missed."""

from __future__ import annotations

import threading
from collections.abc import Collection
from datetime import datetime

from honcho.printer import Message

from backend.process import tail
from backend.process.tail import Follower, Tail


def say(kept: Tail, text: str, name: str = "a.1") -> None:
    kept.hear(Message("line", text.encode(), datetime.now(), name, None))


def follower(kept: Tail, lines: int, names: Collection[str] | None = None) -> Follower:
    following = Follower(names, lambda: None)
    kept.follow(following, lines)
    return following


def last(kept: Tail, lines: int, names: Collection[str] | None = None) -> str:
    pieces, missed = follower(kept, lines, names).take()
    assert missed == 0
    return b"".join(piece.text for piece in pieces).decode()


def test_so_many_last_lines_are_given_in_the_order_they_were_said() -> None:
    kept = Tail()
    for text, name in (("1\n2\n3\n", "a.1"), ("4\n", "b.1"), ("5\n6\n", "a.1")):
        say(kept, text, name)
    assert last(kept, 4) == "3\n4\n5\n6\n"
    assert last(kept, 3, ["a.1"]) == "3\n5\n6\n"
    assert last(kept, 0) == ""
    assert last(kept, 100) == "1\n2\n3\n4\n5\n6\n"


def test_one_that_says_much_takes_no_room_from_others() -> None:
    kept = Tail()
    say(kept, "quiet\n", "quiet.1")
    for number in range(10_000):
        say(kept, f"{number} {'x' * 1000}\n", "loud.1")
    assert last(kept, 10**6, ["quiet.1"]) == "quiet\n"
    loud = last(kept, 10**6, ["loud.1"])
    assert tail.KEPT * 0.8 < len(loud) <= tail.KEPT
    assert loud.splitlines()[-1].startswith("9999 ")


def test_many_short_pieces_are_bounded_too() -> None:
    kept = Tail()
    for _ in range(20_000):
        say(kept, "\n")
    assert len(last(kept, 10**6)) <= tail.KEPT / tail.OVERHEAD


def test_one_that_does_not_read_is_told_how_many_lines_it_missed() -> None:
    kept = Tail()
    following = follower(kept, 0)
    for _ in range(3):
        say(kept, "x" * 500_000 + "\n")
    say(kept, "one\ntwo\n")
    pieces, missed = following.take()
    assert (len(pieces), missed) == (2, 3)
    say(kept, "again\n")
    pieces, missed = following.take()
    assert ([piece.text for piece in pieces], missed) == ([b"again\n"], 0)


def test_nothing_is_lost_or_doubled_between_the_last_lines_and_those_that_follow() -> None:
    kept = Tail()
    speaking = threading.Thread(target=lambda: [say(kept, f"{number}\n") for number in range(3000)])
    speaking.start()
    following = follower(kept, 10**6)
    speaking.join()
    pieces, _ = following.take()
    assert [int(piece.text) for piece in pieces] == list(range(3000))


def test_a_follower_is_woken_once_for_all_that_waits() -> None:
    woken: list[int] = []
    kept = Tail()
    following = Follower(None, lambda: woken.append(1))
    kept.follow(following, 0)
    for _ in range(3):
        say(kept, "x\n")
    assert woken == [1]
    following.take()
    say(kept, "x\n")
    assert woken == [1, 1]
