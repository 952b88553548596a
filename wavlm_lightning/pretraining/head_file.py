"""File of the pre-training head in an export: the objectives' projections, codewords and quantisers, and their codebooks.

The decoders of masked frames (`model.copies`) belong to it.

Teachers are left out of it: they are as large as the encoder, and a run that goes on makes new ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from wavlm_lightning.encoder.checkpoints.tensor_files import CheckpointError, check_finite, write_tensors
from wavlm_lightning.pretraining.objectives import Teacher
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import write_json
from wavlm_lightning.system.reading import check_file, read_json, reading, shown
from wavlm_lightning.upstreams.run_checkpoints import newest_checkpoint, read_entries, read_run_checkpoint

WEIGHTS, DESCRIPTION = "pretraining_head.safetensors", "pretraining_head.json"
PREFIX, DECODERS = "objectives.", "decoders."
PREDICTED = "predicted"  # key of a run's checkpoint: for each objective the hash of its codebook; null without one
TEACHERS = "teachers"  # key of a run's checkpoint: the beginnings of the names of their weights


def write_head(
    folder: Path,
    state: dict[str, Tensor],
    codebooks: dict[str, dict[str, Any]],
    predicted: Sequence[str | None] | None = None,
) -> None:
    """Write the objectives' and decoders' part of a module's state dict into the folder of an exported encoder.

    `codebooks` holds, by label set, size and hash of the codebooks that the head predicts; `predicted` for each objective the
    hash of its own, None if it is not known, as in runs of older versions.
    """
    head = {name: value.contiguous() for name, value in state.items() if name.startswith((PREFIX, DECODERS))}
    write_tensors(folder / WEIGHTS, head)
    write_json(folder / DESCRIPTION, {"codebooks": codebooks, **({} if predicted is None else {PREDICTED: predicted})})


def forget_export(folder: Path) -> None:
    """Remove what an earlier export to this folder would say of the new one: its configuration and its pre-training head.

    `config.json` is written last, so that a folder with one is complete.
    """
    for name in ("config.json", WEIGHTS, DESCRIPTION):
        (folder / name).unlink(missing_ok=True)


def without_teachers(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of a run's checkpoint without the teachers that its objectives keep."""
    state = checkpoint["state_dict"]
    teachers = tuple(f"{name}." for name in checkpoint.get(TEACHERS, ()))
    return {name: value for name, value in state.items() if not name.startswith(teachers)}


def read_head(source: Path) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """The part of the state dict that is objectives and decoders, and the codebooks, from a run folder, a `.ckpt` or an export.

    Raises:
        UserError: there is no head.
    """
    if (path := _of_run(source)) is not None:
        checkpoint = read_run_checkpoint(path)
        parts = (PREFIX, DECODERS)
        state = {name: value for name, value in without_teachers(checkpoint).items() if name.startswith(parts)}
        return state, checkpoint.get("codebooks", {})
    for name in (WEIGHTS, DESCRIPTION):
        check_file(source / name, "a file of a pre-training head")
    if (source / WEIGHTS).is_file():
        again = "export it again"
        books = read_json(source / DESCRIPTION, "the codebooks of a pre-training head", again).get("codebooks")
        if not isinstance(books, dict) or not all(
            isinstance(book, dict) and "sha256" in book for book in books.values()
        ):
            raise UserError(f"{source / DESCRIPTION}: lists no codebooks with their sha256; {again}")
        with reading(source / WEIGHTS, "the weights of a pre-training head", again):
            state = load_file(source / WEIGHTS)
        try:
            check_finite(state, source / WEIGHTS)
        except CheckpointError as error:
            raise UserError(str(error)) from error
        return state, books
    raise UserError(
        f"{source}: no pre-training head there; set model.keep_head: false, or give a run or a folder of `wavlm export`"
    )


def read_predicted(source: Path) -> list[str | None] | None:
    """`predicted` of a head that `read_head` has read, as of `write_head`."""
    path = _of_run(source)
    found = (
        read_json(source / DESCRIPTION, "the codebooks of a pre-training head", "export it again")
        if path is None
        else read_entries(path)
    )
    predicted = found.get(PREDICTED)
    if predicted is not None and not isinstance(predicted, list):
        raise UserError(
            f"{path or source / DESCRIPTION}: `{PREDICTED}` is {shown(predicted)}, not a list of hashes; export it again"
        )
    return predicted


def _of_run(source: Path) -> Path | None:
    """The checkpoint of a run; None for an export. A run folder with an export in it has both: `load_encoder` reads the run."""
    path = newest_checkpoint(source)
    return path if path.suffix == ".ckpt" and path.exists() else None


def take_head(
    objectives: nn.ModuleList,
    decoders: nn.ModuleDict | None,
    source: Path,
    codebooks: dict[str, dict[str, Any]],
    predicted: Sequence[str | None],
) -> None:
    """Load the head of `source` into objectives that have been built for `codebooks`, and into the decoders if there are some.

    Raises:
        UserError: there is no head, or it predicts other labels, or it belongs to other objectives or decoders.
    """
    state, books = read_head(source)
    try:
        check_finite(state, source)
    except CheckpointError as error:
        raise UserError(f"model.keep_head: {error}") from error
    if [book["sha256"] for book in books.values()] != [book["sha256"] for book in codebooks.values()]:
        raise UserError(
            f"model.keep_head: the head of {source} predicts another codebook than data.labels; "
            "label the corpus with that codebook, or set model.keep_head: false"
        )
    theirs = read_predicted(source)
    if theirs is not None and len(theirs) == len(predicted) and theirs != list(predicted):
        differ = [str(place) for place, their in enumerate(theirs) if their != predicted[place]]
        raise UserError(
            f"model.keep_head: objectives {', '.join(differ)} (counted from 0) predict other labels of data.labels than in the "
            f"run of {source}; give each the labels that it had, or set model.keep_head: false"
        )
    kept = {
        f"{name}.{key}": value
        for name, each in objectives.named_modules()
        if isinstance(each, Teacher)
        for key, value in each.state_dict().items()
    }
    filling = {name.removeprefix(DECODERS): value for name, value in state.items() if name.startswith(DECODERS)}
    own = {} if decoders is None else decoders.state_dict()
    if {name: value.shape for name, value in filling.items()} != {name: value.shape for name, value in own.items()}:
        raise UserError(
            f"model.keep_head: the head of {source} does not have the decoders of masked frames that "
            "model.copies asks for; give the model.copies of that run, or set model.keep_head: false"
        )
    if decoders is not None:
        decoders.load_state_dict(filling)
    predicting = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
    try:
        objectives.load_state_dict({**kept, **predicting})
    except RuntimeError as error:
        raise UserError(
            f"model.keep_head: the head of {source} has other objectives than this configuration; use the same, "
            f"or set model.keep_head: false ({str(error).splitlines()[-1].strip()})"
        ) from error
