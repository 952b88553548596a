"""One set of random weights in our encoder and in those of the peers."""

from __future__ import annotations

import importlib
import logging
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.encoder.checkpoints.unilm import FIELDS, rename
from wavlm_lightning.encoder.cpu import linears
from wavlm_lightning.system.errors import UserError

OURS, PLAIN, COMPILED = "ours", "ours, as loaded", "ours, compiled"
TRANSFORMERS, TORCHAUDIO, ORIGINAL = "transformers", "torchaudio", "original"
NO_CHANCE = {
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "dropout_input": 0.0,
    "layer_drop": 0.0,
    "feature_grad_mult": 1.0,  # torchaudio and transformers know no other for WavLM
    "normalize_waveform": False,
}


@dataclass(frozen=True)
class Contender:
    """An encoder as the benchmark sees it.

    Attributes:
        name: what the table calls it.
        module: for its parameters and its mode.
        states: waveforms `(batch, samples)` to all hidden states, the last one last.
        linears: how fp32 products on the CPU are computed (`wavlm_lightning.encoder.cpu.linears`); for ours alone.
    """

    name: str
    module: nn.Module
    states: Callable[[Tensor], Any]
    linears: str = "plain"

    def infer(self, waveforms: Tensor, bf16: bool) -> Tensor:
        """All hidden states without gradients; returns the last."""
        linears.use(self.linears)
        with torch.no_grad(), precision(waveforms, bf16):
            return self.states(waveforms)[-1]

    def train(self, waveforms: Tensor, bf16: bool) -> Tensor:
        """Forward and backward pass, without an update."""
        linears.use(self.linears)
        self.module.zero_grad(set_to_none=True)
        with precision(waveforms, bf16):
            last = self.states(waveforms)[-1]
        loss = last.float().square().mean()
        loss.backward()
        return loss.detach()


def precision(waveforms: Tensor, bf16: bool) -> Any:
    """A context: autocast to bf16, or none."""
    return torch.autocast(waveforms.device.type, torch.bfloat16) if bf16 else nullcontext()


def names(original: Path | None, device: str) -> list[str]:
    """Names of the encoders that are compared."""
    found = [OURS, PLAIN] if device == "cpu" else [OURS, COMPILED]
    found += [TRANSFORMERS, TORCHAUDIO] + ([ORIGINAL] if original else [])
    return found


def build(
    name: str, size: str, device: str, training: bool, original: Path | None, overrides: dict[str, Any]
) -> Contender:
    """Make one of them; the weights depend on `size` alone.

    Args:
        name: one of `names`.
        size: a preset of `WavLMConfig`.
        device: where it runs.
        training: in training mode, without dropout unless `overrides` sets it; else prepared for inference.
        original: folder with unilm's `WavLM.py` and `modules.py`.
        overrides: fields of `WavLMConfig` to change.
    """
    torch.manual_seed(0)
    ours = WavLM(WavLMConfig.preset(size, **{**NO_CHANCE, **overrides}))
    makers: dict[str, Callable[[WavLM], Contender]] = {
        TRANSFORMERS: _transformers,
        TORCHAUDIO: _torchaudio,
        ORIGINAL: lambda encoder: _original(encoder, original),
    }
    contender = makers[name](ours) if name in makers else _ours(name, ours)
    contender.module.to(device).train(training)
    if name == OURS and not training:
        ours.prepare_for_inference()
    return contender


def parity(contenders: list[Contender], waveforms: Tensor) -> dict[str, float]:
    """Largest difference between our last hidden state and each peer's, relative to the largest value, in fp32."""
    last = {contender.name: contender.infer(waveforms, bf16=False) for contender in contenders}
    return {
        name: ((last[OURS] - state).abs().max() / state.abs().max()).item()
        for name, state in last.items()
        if name != OURS
    }


def _ours(name: str, encoder: WavLM) -> Contender:
    if name == COMPILED:
        encoder.encoder.run_layers(recomputed=False, compiled=True)
    kind = "auto" if name == OURS else "plain"
    return Contender(name, encoder, lambda waveforms: encoder(waveforms).hidden, kind)


def _transformers(encoder: WavLM) -> Contender:
    with tempfile.TemporaryDirectory() as folder:
        encoder.save_pretrained(folder)
        model = _quietly(importlib.import_module("transformers").WavLMModel.from_pretrained, folder)
    model.config.apply_spec_augment = False

    def states(waveforms: Tensor) -> Any:
        result = model(waveforms, output_hidden_states=True)
        return [*result.hidden_states[:-1], result.last_hidden_state]

    return Contender(TRANSFORMERS, model, states)


def _torchaudio(encoder: WavLM) -> Contender:
    utilities = importlib.import_module("torchaudio.models.wav2vec2.utils")
    logging.getLogger("torchaudio").setLevel(logging.ERROR)
    model = utilities.import_huggingface_model(_transformers(encoder).module)
    pre_norm = encoder.config.pre_norm

    def states(waveforms: Tensor) -> Any:
        if model.training:
            return [model(waveforms)[0]]
        layers, _ = model.extract_features(waveforms)
        if pre_norm:  # `extract_features` leaves out the final norm
            layers[-1] = model.encoder.transformer.layer_norm(layers[-1])
        return layers

    return Contender(TORCHAUDIO, model, states)


def _original(encoder: WavLM, folder: Path | None) -> Contender:
    if folder is None or not (folder / "WavLM.py").is_file():
        raise UserError(
            f"--original {folder}: holds no WavLM.py; give unilm's folder `wavlm`, with WavLM.py and modules.py"
        )
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    module = importlib.import_module("WavLM")
    config = encoder.config
    settings = {theirs: getattr(config, ours) for ours, (theirs, _) in FIELDS.items()}
    convolutions = zip(config.conv_channels, config.conv_kernels, config.conv_strides, strict=True)
    settings |= {
        "extractor_mode": "layer_norm" if config.conv_norm == "layer" else "default",
        "conv_feature_layers": str(list(convolutions)),
        "relative_position_embedding": True,
        "gru_rel_pos": True,
        "mask_prob": 0.0,
        "dropout_features": 0.0,
    }
    model = module.WavLM(module.WavLMConfig(settings))
    weights = encoder.state_dict()
    model.load_state_dict({name: weights[rename(name)] for name in model.state_dict()})
    # Released for inference: its in-place addition changes an input that the positional convolution saved for backward.
    model.encoder.pos_conv.register_forward_pre_hook(
        lambda _, inputs: (inputs[0].clone(),) if torch.is_grad_enabled() else None
    )

    def states(waveforms: Tensor) -> Any:
        if model.training:
            return [model.extract_features(waveforms)[0]]
        (last, layers), _ = model.extract_features(waveforms, output_layer=config.layers, ret_layer_results=True)
        if config.pre_norm:  # asked for by its number, the last layer comes without the final norm
            last = model.encoder.layer_norm(last.transpose(0, 1)).transpose(0, 1)
        return [*(state for state, _ in layers[:-1]), last]

    return Contender(ORIGINAL, model, states)


def _quietly(load: Callable[..., Any], *arguments: Any) -> Any:
    """Call `load` without the progress bar of transformers."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    importlib.import_module("transformers").utils.logging.disable_progress_bar()
    return load(*arguments)
