"""Loggers of a run: curves as CSV always, and Lightning's `CSVLogger` and `TensorBoardLogger` in the run folder by default.

Both of these demand a `save_dir` and write to `save_dir/lightning_logs/version_N`. Where none is given, it is set to an empty
text before LightningCLI parses (`in_run_folder`), which `config.yaml` keeps and which stands for the run folder
(`placed_loggers`): a run may move. Named so, `CSVLogger` is `curves/` itself, and TensorBoard writes to `tensorboard/`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wavlm_lightning.callbacks.curves import Curves
from wavlm_lightning.callbacks.joint_heads import CurvesOfHeads
from wavlm_lightning.system.errors import UserError, pip_install
from wavlm_lightning.system.paths import is_file
from wavlm_lightning.system.run_folder import CURVES
from wavlm_lightning.system.yaml_files import Multiplying
from wavlm_lightning.workflows.fit.joint_heads import read_yaml

OPTION = "--trainer.logger"
FOLDERS = {"CSVLogger": "csv", "TensorBoardLogger": "tensorboard"}  # class of Lightning -> its folder in the run folder
LIGHTNINGS = "lightning_logs"  # its default name of a folder


def in_run_folder(options: Sequence[str]) -> list[str]:
    """Give loggers of `FOLDERS` without a `save_dir` an empty one, in the options of a command and in its YAML files."""
    left: list[str] = []
    words = iter(options)
    for word in words:
        option, joined, value = word.partition("=")
        if option not in (OPTION, "-c", "--config"):
            left.append(word)
            continue
        if not joined:
            value = next(words, "")
        changed = _in_value(value) if option == OPTION else _in_file(value)
        left += [f"{option}={changed}"] if joined else [option, changed]
    return left


def _in_value(value: str) -> str:
    content = read_yaml(value)
    filled = _filled(content)
    return value if filled == content else json.dumps(filled)


def _in_file(value: str) -> str:
    """The path unchanged, or the content with the folders: `-c` takes a configuration as text, too."""
    with contextlib.suppress(
        OSError, UnicodeDecodeError, Multiplying
    ):  # `take_lists` has said so, or LightningCLI will
        content = read_yaml(Path(value).read_text(encoding="utf-8") if is_file(Path(value)) else value)
        trainer = content.get("trainer") if isinstance(content, dict) else None
        asked = trainer.get("logger") if isinstance(trainer, dict) else None
        if isinstance(trainer, dict) and (filled := _filled(asked)) != asked:
            return json.dumps({**content, "trainer": {**trainer, "logger": filled}}, default=str)
    return value


def _filled(value: Any) -> Any:
    if isinstance(value, list):
        return [_filled(each) for each in value]
    block = {"class_path": value} if isinstance(value, str) else value
    if not isinstance(block, dict) or _kind(block.get("class_path")) is None:
        return value
    given = block.get("init_args") or {}
    if not isinstance(given, dict) or {**block, **given}.get("save_dir") is not None:
        return value
    return {**block, "init_args": {**given, "save_dir": ""}}


def _kind(path: Any) -> str | None:
    """The key of `FOLDERS` that a class path, or a name without a module, means."""
    package, _, name = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    return name if name in FOLDERS and (not package or package.startswith("lightning.pytorch.loggers")) else None


@contextlib.contextmanager
def placed_loggers(trainer: Any, root: Path) -> Iterator[None]:
    """Replace empty folders in the parsed section `trainer` by those in the run folder `root`, while loggers are built.

    Raises:
        UserError: TensorBoard is asked for and not installed.
    """
    asked = trainer.get("logger")
    listed = isinstance(asked, list)
    placed = [_placed(each, root) for each in (asked if listed else [asked])]
    trainer["logger"] = placed if listed else placed[0]
    try:
        yield
    finally:
        trainer["logger"] = asked


def _placed(block: Any, root: Path) -> Any:
    kind = _kind(block.get("class_path")) if hasattr(block, "get") else None
    if kind is None:
        return block
    if kind == "TensorBoardLogger" and not (find_spec("tensorboard") or find_spec("tensorboardX")):
        raise UserError(f"trainer.logger: TensorBoardLogger needs TensorBoard: {pip_install('tensorboard')}")
    if block.init_args.save_dir != "":
        return block
    block = block.clone()
    given = block.init_args
    given["save_dir"] = str(root)
    plain = given["name"] == LIGHTNINGS
    if plain:
        given["name"] = FOLDERS[kind]
    if kind == "CSVLogger" and plain and given["version"] is None and not given["prefix"]:
        block["class_path"], given["name"] = f"{Curves.__module__}.{Curves.__name__}", CURVES
    return block


def curve_loggers(asked: Any, root: Path, fitting: bool, labels: tuple[str, ...] = ()) -> Any:
    """Add the curves as CSV (of several heads, by label) to the value of `trainer.logger`; False switches all off."""
    if asked is False:
        return False
    named = [] if asked in (None, True) else list(asked) if isinstance(asked, list) else [asked]
    others = [each for each in named if not (isinstance(each, Curves) and Path(each.root_dir) == root / CURVES)]
    if not fitting:
        return others or False
    if labels:
        return [*others, CurvesOfHeads(root, labels)]
    ours = [each for each in named if each not in others]
    return [*others, *(ours[:1] or [Curves(root, name=CURVES, flush_logs_every_n_steps=100)])]
