"""The weights with which a new run begins: head, encoder or both of another run (two-stage training)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from wavlm_lightning.encoder.checkpoints.labels_seen import LABELLED, joined
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.run_folder import BEST, LAST, checkpoint
from wavlm_lightning.tasks.checkpoint import HeadCheckpoint
from wavlm_lightning.upstreams.wavlm import read_run_checkpoint

Part = Literal["head", "encoder", "both"]
UPSTREAM = "upstream."  # what the encoder's weights begin with in a checkpoint


def start_from_run(task: HeadCheckpoint, run: str, part: Part) -> dict[str, Any]:
    """Copy the weights of another run's checkpoint into a task that has been built; every weight must find its place.

    The task's `added_parts` keep their initial weights if the other run, of a task without them, has none.

    Args:
        task: of a new run, before its first update.
        run: folder of the other run, whose `best.ckpt` is read (`last.ckpt` if it has no best one), or a checkpoint.
        part: `head` (with the weighted sum of layers), `encoder` or `both`.

    Returns:
        What the result card says of it: checkpoint, part and the update at which it was written.

    Raises:
        UserError: no such run, it does not hold the part, or its weights do not fit; nothing is copied.
    """
    path = checkpoint_of(run)
    found = read_run_checkpoint(path)
    where, kept = f"model.start_from {run}", found.get("task")
    if kept is None:
        raise UserError(
            f"{where}: {path} holds no single head but {'several' if 'heads' in found else 'a pre-training'}; "
            + (
                "give the folder of one of its heads"
                if "heads" in found
                else "set model.upstream.source to that run, and leave model.start_from out"
            )
        )
    task.upgrade(found)
    state: dict[str, Tensor] = {}
    if part in ("encoder", "both"):
        state |= _encoder(task, found["state_dict"], kept, where, part)
    if part in ("head", "both"):
        if kept["labels"] != task.labels:
            raise UserError(
                f"{where}: its labels differ ({_difference(kept['labels'], task.labels)}), so that the last layer of the "
                "head does not fit; set model.start_with: encoder, or train on a corpus with the same labels"
            )
        head = {name: value for name, value in found["state_dict"].items() if not name.startswith(UPSTREAM)}
        own = {name: value for name, value in task.state_dict().items() if not name.startswith(UPSTREAM)}
        added = task.added_parts
        if not any(name.startswith(added) for name in head):  # that of another task, which has no such part
            own = {name: value for name, value in own.items() if not name.startswith(added)}
        check_fit(head, own, f"{where}: its head", "give the model the arguments of that run, or start_with: encoder")
        state |= head
    own = task.state_dict()
    if part in ("encoder", "both"):
        task.upstream.labelled = tuple(joined(task.upstream.labelled, found.get(LABELLED)))
    for name, value in state.items():
        own[name].copy_(value)  # in place, whatever device and type the new run has
    return {"checkpoint": str(path), "with": part, "step": int(found["global_step"])}


def checkpoint_of(run: str, key: str = "model.start_from") -> Path:
    """The best or last checkpoint of a run folder, or the one that is named; a `UserError` that names `key` if there is none."""
    path = Path(run)
    if path.suffix != ".ckpt":
        found = [checkpoint(path, name) for name in (BEST, LAST)]
        path = next((file for file in found if file.exists()), found[0])
    if not path.exists():
        raise UserError(
            f"{key} {run}: no checkpoint {path}; give the folder of a run that has been fitted, or null to resume "
            "a run that has begun already"
        )
    return path


def _encoder(
    task: HeadCheckpoint, state: Mapping[str, Tensor], kept: Mapping[str, Any], where: str, part: Part
) -> dict[str, Tensor]:
    """The encoder's weights; empty if both runs hold the same frozen one, which no checkpoint stores."""
    encoder = {name: value for name, value in state.items() if name.startswith(UPSTREAM)}
    if not encoder:
        if part == "both" and kept["upstream_sha256"] == task.upstream.source_fingerprint():
            return {}
        raise UserError(
            f"{where}: its encoder was frozen, so that the checkpoint does not hold it; set model.upstream to that of the run "
            "and model.start_with: head"
        )
    if kept["upstream_sha256"] is not None:  # a part of it is trained, a front-end, and the rest came from its source
        if task.upstream.frozen:
            raise UserError(
                f"{where}: it has a front-end, which this model lacks; set model.front_end to that of the run, or "
                "model.start_with: head"
            )
        if kept["upstream_sha256"] != task.upstream.source_fingerprint():
            raise UserError(
                f"{where}: its head was trained on another encoder; set model.upstream to that of the run, or model.start_with: "
                "head"
            )
    if task.upstream.frozen:  # its features may be cached already, and what is frozen comes from its source alone
        raise UserError(
            f"{where}: its encoder was trained, and a frozen one cannot start from it; set model.upstream.source to that run "
            "and model.start_with: head, or set model.upstream.frozen: false"
        )
    own = {
        name: value
        for name, value in task.state_dict().items()
        if name.startswith(UPSTREAM) and not task.comes_from_source(name)
    }
    check_fit(encoder, own, f"{where}: its encoder", "set model.upstream to that of the run, or start_with: head")
    return encoder


def check_fit(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], what: str, remedy: str) -> None:
    """Refuse weights `theirs` of other names or shapes than `ours`, naming the first that differs; `what` begins the sentence."""
    for name in [*ours, *theirs]:
        reason = ""
        if name not in theirs:
            reason = f"lacks {name}"
        elif name not in ours:
            reason = f"has {name}, which this model lacks"
        elif theirs[name].shape != ours[name].shape:
            reason = f"has {name} of shape {tuple(theirs[name].shape)}, this model of {tuple(ours[name].shape)}"
        if reason:
            raise UserError(f"{what} does not fit: it {reason}; {remedy}")


def _difference(theirs: Any, ours: Any) -> str:
    if len(theirs) != len(ours):
        return f"{len(theirs)} there, {len(ours)} here"
    pairs = zip(theirs, ours, strict=True)
    first = next(((one, other) for one, other in pairs if one != other), None)
    return "in their values" if first is None else f"{first[0]!r} there, {first[1]!r} here"
