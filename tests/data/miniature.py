"""What the tests of corpus recipes share: little recordings, and the command that prepares them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from wavlm_lightning.cli import main


def sound(path: Path, seconds: float = 0.3, level: float = 0.3) -> Path:
    """A recording of noise at 16 kHz, another for every path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(path.name.encode()))
    soundfile.write(path, level * rng.uniform(-1, 1, round(seconds * 16_000)), 16_000)
    return path


def prepare(recipe: str, folder: Path, out: Path, *more: object) -> int:
    """Exit status of `wavlm prepare`."""
    arguments = ["prepare", recipe, str(folder), "--out", str(out), "--workers", "1"]
    return main([*arguments, *(str(argument) for argument in more)])


def refusal(capsys, recipe: str, folder: Path, out: Path, *more: object) -> str:
    """The one sentence on standard error with which a recipe refuses; nothing is written."""
    capsys.readouterr()
    assert prepare(recipe, folder, out, *more) == 2
    message = capsys.readouterr().err
    assert message.startswith("wavlm prepare: ") and message.count("\n") == 1
    assert not (out / "corpus.json").exists()
    return message
