"""Whether this machine is logged in at Weights & Biases, and whether its server answers.

A file of its own: `wavlm doctor` runs it without Lightning.
"""

from __future__ import annotations

import netrc
import os
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlparse

SERVER = "https://api.wandb.ai"
PATIENCE_SECONDS = 5.0


def server() -> str:
    """Address of the W&B server: WANDB_BASE_URL or the public one."""
    return os.environ.get("WANDB_BASE_URL") or SERVER


def logged_in() -> bool:
    """Whether W&B has a key on this machine, from variables and netrc files; nothing is sent."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(server()).hostname or ""
    for path in (os.environ.get("NETRC"), Path.home() / ".netrc", Path.home() / "_netrc"):
        try:
            if path and netrc.netrc(str(path)).authenticators(host) is not None:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def unreachable(address: str | None = None, seconds: float = PATIENCE_SECONDS) -> str | None:
    """Why the W&B server does not answer within some seconds; None if it does, whatever it says. No key is sent."""
    try:
        urllib.request.urlopen(address or server(), timeout=seconds).close()
    except urllib.error.HTTPError:
        return None  # an answer
    except (OSError, ValueError) as error:  # URLError and timeouts are OSErrors
        return str(getattr(error, "reason", error)) or type(error).__name__
    except Exception as error:  # http.client's: something else listens there
        return f"{type(error).__name__} {error}"
    return None
