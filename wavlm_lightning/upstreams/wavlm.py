"""WavLM as an upstream: with random weights, from a released checkpoint, or from a pre-training run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavlm_lightning.encoder import CheckpointError, Layers, WavLM, WavLMConfig
from wavlm_lightning.encoder.checkpoints.sharded_files import read_sharded
from wavlm_lightning.encoder.config import PRESETS
from wavlm_lightning.encoder.cpu import linears
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.upstreams.base import Upstream

ENCODER_KEY = "wavlm_config"  # of the encoder's configuration in a pre-training checkpoint


def load_encoder(source: str | Path, overrides: dict[str, Any] | None = None) -> WavLM:
    """Load or build an encoder.

    Args:
        source: a preset name (random weights), a Hugging Face directory, a unilm `.pt` file, a `.ckpt` of a
            pre-training run (one file, or the folder that FSDP2 writes), or the folder of such a run, whose
            newest checkpoint is loaded.
        overrides: configuration fields to change, such as dropouts.

    Raises:
        UserError: the source does not exist or is not readable as an encoder.
    """
    overrides = overrides or {}
    if str(source) in PRESETS:
        try:
            return WavLM(WavLMConfig.preset(str(source), **overrides))
        except (TypeError, ValueError) as error:
            raise UserError(f"encoder {source!r}: {error}") from error
    path = newest_checkpoint(Path(source))
    if not path.exists():
        raise UserError(f"{source}: no such file or folder; give a checkpoint or one of {', '.join(PRESETS)}")
    try:
        if path.suffix == ".ckpt":
            return _from_lightning(path, overrides)
        return WavLM.from_pretrained(path, **overrides)
    except CheckpointError as error:
        raise UserError(str(error)) from error


def newest_checkpoint(path: Path) -> Path:
    """The newest checkpoint of a run folder, or the only one of an average; any other path unchanged."""
    found = (path / "checkpoints" / name for name in ("last.ckpt", "best.ckpt"))
    return next((file for file in found if file.exists()), path)


def read_run_checkpoint(path: Path) -> dict[str, Any]:
    """Read the checkpoint of a run (a file, or the folder of a sharded run) to the CPU.

    A sharded checkpoint comes without the optimiser's state. A UserError says if the checkpoint is not readable.
    """
    if path.is_dir():
        try:
            return read_sharded(path)
        except CheckpointError as error:
            raise UserError(str(error)) from error
    try:
        # Memory-mapped, because two thirds of a file are optimiser state.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: not readable as a checkpoint; is it cut short? ({type(error).__name__})") from error


def _from_lightning(path: Path, overrides: dict[str, Any]) -> WavLM:
    checkpoint = read_run_checkpoint(path)
    if ENCODER_KEY not in checkpoint:
        raise UserError(f"{path}: does not contain an encoder; give a checkpoint of a pre-training run")
    encoder = WavLM(WavLMConfig.from_dict({**checkpoint[ENCODER_KEY], **overrides}))
    prefix = "encoder."
    state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    try:
        encoder.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"{path}: its weights do not fit the fields that were changed ({', '.join(overrides) or 'none'}); do not "
            "change fields that set the shape of the encoder"
        ) from error
    return encoder


class WavLMUpstream(Upstream):
    """A WavLM encoder and all its hidden states.

    Args:
        source: see `load_encoder`; a preset name gives random weights.
        label: name in tables; the source by default.
        overrides: configuration fields to change.
        seed: for random weights; a preset with the same seed gives the same encoder.
        frozen: False trains the encoder with the head.

    Example:
        >>> WavLMUpstream("runs/demo/pretrain").num_layers
        5
    """

    def __init__(
        self,
        source: str = "base",
        label: str | None = None,
        overrides: dict[str, Any] | None = None,
        seed: int = 0,
        frozen: bool = True,
    ) -> None:
        super().__init__(frozen)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = load_encoder(source, overrides)
        config = self.encoder.config
        self.label = label or str(source)
        self.dim, self.num_layers, self.frame_rate = config.dim, config.layers + 1, config.frame_rate
        self.freeze()
        if frozen:
            # Pack weights for oneDNN only on request: choosing the library by a timing would make two runs differ in the
            # last bits.
            self.encoder.prepare_for_inference(packed={"plain": False, "onednn": True}.get(linears.in_use()))

    def settings(self) -> str:
        return str(sorted(self.encoder.config.to_dict().items()))

    def layers(self, waveforms: Tensor, lengths: Tensor) -> Layers:
        return self.encoder(waveforms, lengths)
