"""Progress bars with the same look everywhere."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(**arguments: Any) -> tqdm:
    """A tqdm bar with tqdm's arguments, on standard error; updated every 10 seconds at most if that is a file."""
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(mininterval=interval, maxinterval=max(interval, 10.0), dynamic_ncols=True, **arguments)
