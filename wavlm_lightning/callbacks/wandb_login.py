"""Whether this machine is logged in at Weights & Biases. A file of its own: `wavlm doctor` runs it without Lightning."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from urllib.parse import urlparse


def logged_in() -> bool:
    """Whether W&B has a key on this machine, from variables and netrc files; nothing is sent."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    for path in (os.environ.get("NETRC"), Path.home() / ".netrc", Path.home() / "_netrc"):
        try:
            if path and netrc.netrc(str(path)).authenticators(host) is not None:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
