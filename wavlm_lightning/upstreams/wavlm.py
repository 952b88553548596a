"""WavLM as an upstream: with random weights, from a released checkpoint, or from a pre-training run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from wavlm_lightning.encoder import CheckpointError, Layers, WavLM, WavLMConfig
from wavlm_lightning.encoder.checkpoints.formats import ENCODER_KEY
from wavlm_lightning.encoder.config import MEL_FIELDS, PRESETS
from wavlm_lightning.encoder.cpu import linears
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.name_hints import nearest
from wavlm_lightning.system.progress import say
from wavlm_lightning.system.reading import reading
from wavlm_lightning.upstreams.base import Upstream
from wavlm_lightning.upstreams.fine_tuning import FineTuning
from wavlm_lightning.upstreams.run_checkpoints import (
    HEAD_KEY,
    RECORD_KEY,
    newest_checkpoint,
    read_entries,
    read_run_checkpoint,  # noqa: F401 - an older import path
)

# Dropouts of `FineTuning` -> fields of `WavLMConfig`.
DROPOUT_FIELDS = {
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "input_dropout": "dropout_input",
    "layer_drop": "layer_drop",
}


RANDOM = "random:"
"""In front of a preset: an encoder with fresh weights."""


def preset_of(source: str | Path) -> str | None:
    """The preset of a source of random weights: `base` for `random:base` and, as older versions wrote it, for `base`.

    Raises:
        UserError: there is no such preset.
    """
    name = str(source)
    if not name.startswith(RANDOM):
        return name if name in PRESETS else None
    if (preset := name.removeprefix(RANDOM)) in PRESETS:
        return preset
    raise UserError(
        f"{name}: there is no preset {preset!r}{nearest(preset, PRESETS)}; take one of {', '.join(PRESETS)}"
    )


def random_label(preset: str, frozen: bool = True) -> str:
    """What tables, cards and reports call a preset's fresh weights, or what a task has made of them."""
    return f"random weights ({preset})" if frozen else f"trained from random weights ({preset})"


@cache  # once for each word and process
def note_old_word(preset: str) -> None:
    """Say on standard error that a bare preset as an upstream means random weights."""
    if rank_zero_only.rank in (None, 0):
        say(f"note: the upstream {preset!r} has random weights; write {RANDOM}{preset}, which says so")


def load_encoder(source: str | Path, overrides: dict[str, Any] | None = None) -> WavLM:
    """Load or build an encoder.

    Args:
        source: `random:` and a preset for fresh weights (`random:base`; the preset alone works, too), a Hugging Face
            directory, a unilm `.pt` file, a `.ckpt` of a pre-training run (one file, or the folder that FSDP2 writes), or
            the folder of such a run, whose newest checkpoint is loaded. Also a `.ckpt` or the folder of a head's run that
            trained its encoder, whose best checkpoint is loaded.
        overrides: configuration fields to change, such as dropouts.

    Raises:
        UserError: the source does not exist or is not readable as an encoder.
    """
    overrides = overrides or {}
    if (preset := preset_of(source)) is not None:
        try:
            return WavLM(WavLMConfig.preset(preset, **overrides))
        except (TypeError, ValueError) as error:
            raise UserError(f"encoder {source!r}: {error}") from error
    path = newest_checkpoint(Path(source))
    if not path.exists():
        raise UserError(
            f"{source}: no such file or folder; give a checkpoint, or {RANDOM} and one of {', '.join(PRESETS)}"
        )
    with reading(path, "an encoder"):
        try:
            if path.suffix == ".ckpt":
                return _from_lightning(path, overrides)
            return WavLM.from_pretrained(path, **overrides)
        except CheckpointError as error:
            raise UserError(str(error)) from error


def _from_lightning(path: Path, overrides: dict[str, Any]) -> WavLM:
    checkpoint = read_entries(path)
    record = checkpoint.get(RECORD_KEY)
    if ENCODER_KEY not in checkpoint:
        if record is not None:
            raise UserError(
                f"{path}: its encoder is a {record['class'].rpartition('.')[2]}, not a WavLM that can be rebuilt"
            )
        if HEAD_KEY in checkpoint:
            raise UserError(
                f"{path}: does not contain an encoder, because its head was trained on a frozen one; give that encoder"
            )
        raise UserError(f"{path}: does not contain an encoder; give a checkpoint of a pre-training run")
    try:
        return WavLM.from_pretrained(path, **overrides)
    except CheckpointError as error:
        if not overrides or "does not fit its configuration" not in str(error):
            raise
        raise UserError(
            f"{path}: its weights do not fit the fields that were changed ({', '.join(overrides)}); do not change fields that "
            "set the shape of the encoder"
        ) from error


class WavLMUpstream(Upstream):
    """A WavLM encoder and all its hidden states.

    Args:
        source: see `load_encoder`; `random:base` and the other presets give random weights.
        label: name in tables; the source by default, and `random weights (base)` for `random:base`.
        overrides: configuration fields to change.
        seed: for random weights; a preset with the same seed gives the same encoder.
        frozen: False trains the encoder with the head.
        differentiable: let gradients pass a frozen encoder to the waveform.
        fine_tuning: how the encoder is trained, if it is not frozen.

    Example:
        >>> WavLMUpstream("runs/demo/pretrain").num_layers
        5
    """

    source_argument: ClassVar[str | None] = "source"

    def __init__(
        self,
        source: str = "random:base",
        label: str | None = None,
        overrides: dict[str, Any] | None = None,
        seed: int = 0,
        frozen: bool = True,
        differentiable: bool = False,
        fine_tuning: FineTuning | None = None,
    ) -> None:
        super().__init__(frozen, differentiable, fine_tuning)
        if fine_tuning is not None:
            overrides = {**(overrides or {}), **fine_tuning.dropouts(DROPOUT_FIELDS, overrides or {})}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = load_encoder(source, overrides)
        self.labelled = tuple(self.encoder.labelled)
        config = self.encoder.config
        self.random = preset_of(source)
        if self.random is not None and not str(source).startswith(RANDOM):
            note_old_word(self.random)
        self.label = label or (str(source) if self.random is None else random_label(self.random, frozen))
        self.dim, self.num_layers, self.frame_rate = config.dim, config.layers + 1, config.frame_rate
        self.shortest = config.receptive_field
        self.freeze()
        if differentiable:
            self.encoder.feature_grad_mult = 1.0  # the gradient of the waveform is wanted as it is
        elif frozen:
            # Pack weights for oneDNN only on request: choosing the library by a timing would make two runs differ in the
            # last bits.
            self.encoder.prepare_for_inference(packed={"plain": False, "onednn": True}.get(linears.in_use()))
        elif fine_tuning is not None:
            self.encoder.encoder.run_layers(fine_tuning.activation_checkpointing, fine_tuning.compile)

    def freeze(self) -> None:
        super().freeze()
        if self.trained and self.encoder.feature_grad_mult == 0:
            if self.fine_tuning is not None and self.fine_tuning.convolutions:
                raise UserError(
                    f"upstream.fine_tuning.convolutions is true, but feature_grad_mult of {self.label} is 0, so that they "
                    "would get no gradient; set upstream.overrides.feature_grad_mult"
                )
            self.encoder.feature_extractor.requires_grad_(False)  # otherwise DDP waits for its gradients

    def blocks(self) -> list[nn.Module]:
        return list(self.encoder.encoder.layers)

    def waveform_convolutions(self) -> nn.Module:
        return self.encoder.feature_extractor

    def after_blocks(self) -> list[nn.Module]:
        return [self.encoder.encoder.layer_norm] if self.encoder.config.pre_norm else []

    @property
    def mask_embedding(self) -> nn.Parameter:
        return self.encoder.masked_spec_embed

    def settings(self) -> str:
        fields = self.encoder.config.to_dict()
        if fields["front_end"] == "waveform":  # so that features that older versions kept are found
            fields = {name: value for name, value in fields.items() if name not in ("front_end", *MEL_FIELDS)}
        return str(sorted(fields.items()))

    def layers(self, waveforms: Tensor, lengths: Tensor) -> Layers:
        keep = None if self._keep is None else [number % self.num_layers for number in self._keep]
        return self.encode(waveforms, lengths, keep)

    def encode(self, waveforms: Tensor, lengths: Tensor, keep: Sequence[int] | None = None) -> Layers:
        """The hidden states named by `keep`, or all, `(layers, batch, frames, dim)`; in training with masks and LayerDrop."""
        features, frames = self.encoder.features(waveforms, lengths)
        projected = self.mask_inputs(self.encoder.project(features)[0], frames)
        dropped = self.dropped_layers(self.encoder.config.layer_drop)
        return self.encoder.contextualise(projected, frames, keep=keep, dropped=dropped)

    def checkpoint_entries(self, prefix: str = "upstream.") -> dict[str, Any]:
        entries = super().checkpoint_entries(prefix)
        return entries if self.source_argument is None else {**entries, ENCODER_KEY: self.encoder.config.to_dict()}
