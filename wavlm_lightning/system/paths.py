"""Folders outside the working directory."""

import os
from pathlib import Path


def cache_directory() -> Path:
    """The user's cache folder: $WAVLM_CACHE, or `wavlm_lightning` in $XDG_CACHE_HOME or ~/.cache; it may not exist."""
    if own := os.environ.get("WAVLM_CACHE"):
        return Path(own).expanduser().absolute()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home).expanduser().absolute() / "wavlm_lightning"
