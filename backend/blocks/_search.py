"""Searching by regular expression. Apart, because importing `regex` takes as long as importing all blocks."""

from __future__ import annotations

import regex


def search(
    pattern: str, text: str, case_sensitive: bool, dot_all: bool, group: int, limit: int, seconds: float | None = None
) -> list[str]:
    """Return a group of each of the first `limit` matches.

    Raises ValueError with a sentence about the pattern, and mostly TimeoutError after `seconds`: within some single
    steps `regex` does not look at the clock.
    """
    try:
        compiled = regex.compile(
            pattern, (0 if case_sensitive else regex.IGNORECASE) | (regex.DOTALL if dot_all else 0)
        )
    except (regex.error, RecursionError, OverflowError) as error:
        raise ValueError(f"The pattern is not a regular expression: {error}.") from None
    if not 0 <= group <= compiled.groups:
        raise ValueError(f"The pattern has no group {group}: it has {compiled.groups}.")
    matches = compiled.finditer(text, timeout=seconds)
    return [match.group(group) or "" for match, _ in zip(matches, range(limit), strict=False)]
