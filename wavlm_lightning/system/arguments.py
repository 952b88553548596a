"""Number types of command-line options: whole numbers, positive numbers, shares."""

from __future__ import annotations

import argparse
import math


def whole(text: str) -> int:
    """A whole number from 1 up, for `argparse`."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of 1 or more, not {text!r}")
    return value


def positive(text: str) -> float:
    """A finite number above 0, for `argparse`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def share(text: str) -> float:
    """A number above 0 and up to 1, for `argparse`."""
    value = positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, not {text}")
    return value
