"""Location of the shipped configurations, in a checkout and in an installed package."""

from __future__ import annotations

from pathlib import Path

from wavlm_lightning.system.errors import UserError


def configs_folder() -> Path:
    """The folder `configs`: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "configs", package / "configs"):
        if (folder / "pretrain").is_dir():
            return folder
    raise UserError("the folder `configs` is missing beside and inside the package; install wavlm_lightning again")


def resolve_config(argument: str) -> str:
    """Make `-c configs/...` work from any directory: a missing path is looked up in `configs_folder`."""
    if argument.startswith("configs/") and argument.endswith(".yaml") and not Path(argument).exists():
        path = configs_folder().parent / argument
        return str(path) if path.exists() else argument
    return argument
