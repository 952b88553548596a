"""A process of a run has died: what the others meet, in words."""

from __future__ import annotations

LOST_PEER = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Timed out waiting",
    "NCCL",
    "timed out",
)
"""In what gloo, nccl and the store between processes say when one of them is gone."""


def lost_process(error: BaseException | None) -> str | None:
    """What to tell the user if an error, or one before it, means that another process of the run is gone."""
    while error is not None:
        text = str(error)
        if text.startswith("DataLoader worker"):
            return (
                "a process that reads audio has died (killed for want of memory? see the messages above); go on with "
                f"--ckpt_path last, with a lower data.num_workers if it happens again ({text.splitlines()[0]})"
            )
        if any(sign in text for sign in LOST_PEER):
            return (
                "another process of this run has died or fallen silent, see its own messages; "
                f"start all of them again with --ckpt_path last ({text.splitlines()[0]})"
            )
        error = error.__cause__ or error.__context__
    return None
