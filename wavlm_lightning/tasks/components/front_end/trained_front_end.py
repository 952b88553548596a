"""The front-end of another run, which a new run begins with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.front_end.network import FrontEnd
from wavlm_lightning.tasks.start_from import check_fit, checkpoint_of
from wavlm_lightning.upstreams.wavlm import read_run_checkpoint

# What the names of its weights begin with: in a run that trains it alone, and in one that has it before an encoder.
PREFIXES = ("front_end.", "upstream.front_end.")
KEY = "model.front_end_from"


def take_front_end(front_end: FrontEnd, run: str) -> dict[str, Any]:
    """Copy the weights of the front-end of a run, a folder or a checkpoint; returns what the result card says of it.

    Raises:
        UserError: no such run, it has no front-end, or one of another class or size; nothing is copied.
    """
    path: Path = checkpoint_of(run, KEY)
    found = read_run_checkpoint(path)
    theirs = {
        name.removeprefix(prefix): value
        for name, value in found["state_dict"].items()
        for prefix in PREFIXES
        if name.startswith(prefix)
    }
    if not theirs:
        raise UserError(
            f"{KEY} {run}: {path} has no front-end; give a run of FrontEndEnhancement, or one with model.front_end"
        )
    own = front_end.state_dict()
    check_fit(theirs, own, f"{KEY} {run}: its front-end", "give model.front_end the class and arguments of that run")
    for name, value in theirs.items():
        own[name].copy_(value)
    return {"checkpoint": str(path), "with": "front-end", "step": int(found["global_step"])}
