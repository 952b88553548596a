"""The files of a run folder: config.yaml, checkpoints/best.ckpt and last.ckpt, curves/version_N/metrics.csv, card.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import OLD
from wavlm_lightning.system.paths import is_file
from wavlm_lightning.system.yaml_files import read_yaml

LAST, BEST = "last", "best"  # names of a run's checkpoints, also for `--ckpt_path`
CONFIG = "config.yaml"
CARD = "card.json"
CURVES = "curves"


def checkpoint(run: Path, name: str) -> Path:
    """Path of the checkpoint `LAST` or `BEST`: a file, or the folder of a sharded one. It may not exist."""
    return run / "checkpoints" / f"{name}.ckpt"


def can_resume(run: Path) -> bool:
    """Whether a run folder has a `last.ckpt`, or one that was being replaced when the run was killed: `wavlm fit` restores it."""
    newest = checkpoint(run, LAST)
    return newest.exists() or newest.with_name(newest.name + OLD).exists()


def is_run(path: Path) -> bool:
    """Whether a path, which may be anything, is a run folder."""
    return is_file(path / CONFIG)


def heads_inside(run: Path) -> list[Path]:
    """The run folders of the heads of a run of several (lists, `--also`), which has no best checkpoint itself; else none."""
    if not is_run(run) or checkpoint(run, BEST).exists():
        return []
    return sorted(path.parent for path in run.glob(f"*/{CONFIG}") if checkpoint(path.parent, BEST).exists())


def check_one_head(run: Path) -> None:
    """Raise a `UserError` that names the heads if a path, which may be anything, is a run of several."""
    if heads := heads_inside(run):
        raise UserError(f"{run}: a run of several heads; give the folder of one of them: {', '.join(map(str, heads))}")


def curve_files(run: Path) -> list[Path]:
    """The CSV files of a run's curves, oldest start first; a resumed run has one for each start."""
    return sorted((run / CURVES).glob("version_*/metrics.csv"), key=_version)


def _version(path: Path) -> tuple[int, str]:
    number = path.parent.name.removeprefix("version_")  # version_10 comes after version_9
    return (int(number) if number.isdigit() else -1, number)


def read_run_config(run: Path) -> dict[str, Any]:
    """The content of a run's `config.yaml`; empty if the file is missing or not readable as a mapping."""
    try:
        return require_run_config(run)
    except UserError:
        return {}


def require_run_config(run: Path) -> dict[str, Any]:
    """The content of a run's `config.yaml`; a `UserError` if the file is missing or not readable as a mapping."""
    return read_yaml(run / CONFIG, "the configuration of a run", "copy it again, or train the run again", dict)


def init_args(config: Mapping[str, Any], section: str) -> dict[str, Any]:
    """The constructor arguments in a section (`model`, `data`) of a configuration; empty if there are none."""
    block = config.get(section)
    arguments = block.get("init_args") if isinstance(block, Mapping) else None
    return arguments if isinstance(arguments, dict) else {}
