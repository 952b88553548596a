"""The encoder of a model with a head from the transformers library, with the hidden states that its head reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from wavlm_lightning.encoder import Layers, padding_mask
from wavlm_lightning.encoder.frontend import normalize_waveforms
from wavlm_lightning.upstreams import WavLMUpstream

NORMALIZE_EPS = 1e-7
"""What Hugging Face's feature extractor adds to the variance; ours adds 1e-5, as unilm does."""


class HeadEncoder(WavLMUpstream):
    """As `WavLMUpstream`, but for what transformers does otherwise in a model with a head.

    - Without `use_weighted_layer_sum` the head reads the encoder's output alone.
    - Else the last of the hidden states of a pre-norm model is that before the final layer norm, unless `config.json`
      has `tie_last_hidden_states` (transformers 5; version 4 normalised it).
    - Waveforms are normalised as by its feature extractor.

    Args:
        source: a folder in Hugging Face's format.
        values: content of its `config.json`.
        frozen: False trains the encoder with the head.
    """

    def __init__(self, source: str, values: dict[str, Any], frozen: bool = True) -> None:
        super().__init__(source, frozen=frozen)
        self.weighted = bool(values.get("use_weighted_layer_sum", False))
        # The encoder shall not do what is done below.
        self.normalize_eps = NORMALIZE_EPS if self.encoder.config.normalize_waveform else None
        self.encoder.config = replace(self.encoder.config, normalize_waveform=False)
        if not self.weighted:
            self.num_layers = 1
        elif self.encoder.config.pre_norm and not values.get("tie_last_hidden_states", False):
            self.encoder.encoder.layer_norm = nn.Identity()

    def settings(self) -> str:
        """The encoder's configuration, and which hidden states there are."""
        last = type(self.encoder.encoder.layer_norm).__name__
        return f"{super().settings()} {self.weighted} {last} {self.normalize_eps}"

    def layers(self, waveforms: Tensor, lengths: Tensor) -> Layers:
        """The hidden states that the head reads, `(layers + 1 or 1, batch, frames, dim)`."""
        if self.normalize_eps is not None:
            lengths = lengths.to(waveforms.device)
            waveforms = waveforms.masked_fill(padding_mask(lengths, waveforms.shape[1]), 0.0)
            waveforms = normalize_waveforms(waveforms, lengths, self.normalize_eps)
        features, frames = self.encoder.features(waveforms, lengths)
        projected, _ = self.encoder.project(features)
        last = self.encoder.config.layers
        return self.encoder.contextualise(projected, frames, keep=range(last + 1) if self.weighted else (last,))
