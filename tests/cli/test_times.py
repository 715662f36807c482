"""Lengths of time on the command line."""

from __future__ import annotations

import argparse
from datetime import timedelta

import pytest

from vmaccess.cli.times import in_words, lifetime, spelt


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10m", 600), ("1h", 3600), ("90m", 5400), ("1h30m", 5400), ("7d", 7 * 86400), ("600s", 600), ("49710d", 49710 * 86400)],
)
def test_lifetimes(text: str, seconds: int) -> None:
    assert lifetime(text) == timedelta(seconds=seconds)
    assert lifetime(spelt(lifetime(text))) == lifetime(text)


@pytest.mark.parametrize(
    "text", ["", "9m", "1", "h", "-1h", "1.5h", "1w", "1h ", "49711d", "999999999d", "9999999999d", "999999999d" * 4, "٣h"]
)
def test_impossible_lifetimes(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        lifetime(text)


@pytest.mark.parametrize(
    ("minutes", "words"), [(0, "0 min"), (10, "10 min"), (90, "1 h 30 min"), (1440, "1 d"), (1501, "1 d 1 h 1 min")]
)
def test_lengths_in_words(minutes: int, words: str) -> None:
    assert in_words(timedelta(minutes=minutes)) == words
