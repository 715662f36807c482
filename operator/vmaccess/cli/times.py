"""Lengths of time as a person writes and reads them."""

from __future__ import annotations

import argparse
import re
from datetime import datetime, timedelta

MINIMUM = timedelta(minutes=10)  # of the TokenRequest API, kubernetes pkg/apis/authentication/validation
MAXIMUM = timedelta(seconds=1 << 32)
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def lifetime(text: str) -> timedelta:
    """A lifetime that Kubernetes makes tokens for, such as 30m or 1h30m; argparse's error else."""
    if not text or not re.fullmatch(r"([0-9]{1,9}[dhms])+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: write for example 30m, 8h, 7d or 1h30m")
    seconds = sum(int(count) * _UNITS[unit] for count, unit in re.findall(r"([0-9]+)([dhms])", text))
    if not MINIMUM.total_seconds() <= seconds <= MAXIMUM.total_seconds():
        raise argparse.ArgumentTypeError(f"{text} is not possible: Kubernetes makes tokens for 10m up to {MAXIMUM.days}d")
    return timedelta(seconds=seconds)


def spelt(length: timedelta) -> str:
    """What `lifetime` reads as this length, in whole seconds."""
    minutes, seconds = divmod(length.seconds, 60)
    parts = ((length.days, "d"), (minutes // 60, "h"), (minutes % 60, "m"), (seconds, "s"))
    return "".join(f"{count}{unit}" for count, unit in parts if count)


def in_words(length: timedelta) -> str:
    """Such as `1 h 30 min`, to the minute."""
    minutes = round(length.total_seconds() / 60)
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    return " ".join(f"{count} {unit}" for count, unit in ((days, "d"), (hours, "h"), (minutes, "min")) if count) or "0 min"


def moment(time: datetime) -> str:
    """Such as `2027-01-31 18:00:00 UTC`; `time` is in UTC."""
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"
