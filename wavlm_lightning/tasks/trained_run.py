"""A trained head as an object: what the folder of a run of `wavlm fit` says of it, built and loaded."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from jsonargparse import ArgumentError, ArgumentParser

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.plugins import class_folders, open_class_paths
from wavlm_lightning.system.reading import read_text, reason_of
from wavlm_lightning.system.run_folder import BEST, CONFIG, check_one_head, checkpoint, init_args, require_run_config
from wavlm_lightning.tasks.base import Task
from wavlm_lightning.upstreams.run_checkpoints import RECORD_KEY, read_run_checkpoint

EXPECTED = "give the run folder of a head that `wavlm fit` has trained"


def trained_task(run: Path) -> tuple[Task, dict[str, Any], float]:
    """The task of a run folder on the CPU, `processing` of its corpus, and the gain of its data module in dB.

    Raises:
        UserError: the folder holds no head, or its checkpoint does not fit its configuration.
        ArgumentError: the parser's complaint about the configuration; a `ValueError` of the same kind.
    """
    check_one_head(run)
    config, best = run / CONFIG, checkpoint(run, BEST)
    for path in (config, best):
        if not path.exists():
            raise UserError(f"{path}: no such file; {EXPECTED}")
    content = require_run_config(run)
    if "model" not in content:
        raise UserError(f"{config}: has no model; {EXPECTED}")
    open_class_paths(read_text(config, "the configuration of a run"), class_folders(run))
    state = read_run_checkpoint(best)
    model_config = _with_trained_encoder(content["model"], state, best)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(pl.LightningModule, "model")
    model = parser.instantiate_classes(parser.parse_object({"model": model_config})).model
    if not isinstance(model, Task):
        raise UserError(f"{run}: holds {type(model).__name__}, which is not a head; {EXPECTED}")
    try:
        model.on_load_checkpoint(state)
        model.load_state_dict(state["state_dict"])
    except UserError as error:  # a task knows no path
        raise UserError(str(error) if str(run) in str(error) else f"{best}: {error}") from error
    processing, gain_db = state["task"].get("processing", {}), init_args(content, "data").get("gain_db") or 0.0
    model.trained_level = 10 ** ((gain_db + processing.get("gain_db", 0.0)) / 20)
    return model, processing, gain_db


def run_of_key(key: str, run: str | Path) -> Task:
    """The task of a run that a key of another head names: every error is a `UserError` that begins with the key."""
    where = f"{key} {run}"
    try:
        return trained_task(Path(run))[0]
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except (ArgumentError, ValueError) as error:
        said: BaseException | None = error
        while said is not None and not isinstance(said, UserError):  # the parser wraps what a constructor says
            said = said.__cause__ or said.__context__
        raise UserError(
            f"{where}: " + (str(said) if said else f"its head cannot be built ({reason_of(error)})")
        ) from error


def _with_trained_encoder(config: Any, state: dict[str, Any], path: Path) -> Any:
    """The section `model` of a run's configuration; an encoder that the run has trained comes from its checkpoint.

    The source that it started from may be gone. `state` is the content of the checkpoint at `path`.
    """
    record = state.get(RECORD_KEY)
    block = (config.get("init_args") or {}).get("upstream") if isinstance(config, dict) else None
    if record is None or record["argument"] is None or not isinstance(block, dict):
        return config
    config = copy.deepcopy(config)
    block = config["init_args"]["upstream"]
    while isinstance(
        inner := block.get("init_args", {}).get("upstream"), dict
    ):  # a choice of layers of another upstream
        block = inner
    block["init_args"] = {**block.get("init_args", {}), record["argument"]: str(path), "label": record["label"]}
    return config
