"""What a trained head was trained on: the data module of its run folder."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
from jsonargparse import ArgumentError, ArgumentParser

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.run_folder import require_run_config
from wavlm_lightning.tasks import TaskData
from wavlm_lightning.workflows.fit import yaml_loader  # noqa: F401 - bounds what the parser reads
from wavlm_lightning.workflows.fit.parser_errors import user_error


def data_of_run(run: Path, corpus: Path | None) -> TaskData:
    """The data module with which a head was trained, not yet set up.

    Args:
        run: its run folder.
        corpus: where the corpus is now, if not where the run says.

    Raises:
        UserError: the run has no data, or a data module other than `TaskData`.
    """
    content = require_run_config(run)
    if not isinstance(section := content.get("data"), dict):
        raise UserError(f"{run}: its config.yaml has no data; name the run folder of a head")
    if corpus is not None:
        section = {**section, "init_args": {**(section.get("init_args") or {}), "corpus": str(corpus)}}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(pl.LightningDataModule, "data")
    try:
        data = parser.instantiate_classes(parser.parse_object({"data": section})).data
    except (ArgumentError, ValueError) as error:
        if (said := user_error(error, [])) is None:
            raise
        raise UserError(f"{run}: {said}") from error
    if not isinstance(data, TaskData):
        raise UserError(f"{run}: its data module is {type(data).__name__}; give a run of TaskData")
    return data
