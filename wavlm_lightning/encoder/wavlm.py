"""WavLM and its relatives: from waveforms to the hidden states of every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wavlm_lightning.encoder.checkpoints.formats import match_state, read_checkpoint
from wavlm_lightning.encoder.checkpoints.huggingface import write_checkpoint
from wavlm_lightning.encoder.checkpoints.labels_seen import LABELLED, Entry, labels_seen
from wavlm_lightning.encoder.checkpoints.tensor_files import readable
from wavlm_lightning.encoder.config import SAMPLE_RATE, WavLMConfig
from wavlm_lightning.encoder.cpu.inference_prep import prepare
from wavlm_lightning.encoder.cpu.weight_cache import forget
from wavlm_lightning.encoder.frontend import FeatureProjection, FrontEnd, normalize_waveforms, scale_gradient
from wavlm_lightning.encoder.layers import Layers, padding_mask
from wavlm_lightning.encoder.log_mel import LogMelFrontEnd
from wavlm_lightning.encoder.transformer import Transformer
from wavlm_lightning.encoder.visible_frames import VisibleFrames


class WavLM(nn.Module):
    """The encoder of WavLM (arXiv 2110.13900) without its pre-training head.

    HuBERT, wav2vec 2.0 and ILS-SSL differ only in `config.position_bias`. The parameters have the names of Hugging Face's
    `WavLMModel` and `HubertModel`. A row gives the same hidden states alone and in a padded batch, unless
    `config.batch_invariant` is false.

    Args:
        config: sizes; Base if left out. Weights are initialised as published.

    Attributes:
        feature_grad_mult: factor on the gradient that enters the convolutions; that of the configuration until changed.
        labelled: labelled speech that the weights have learned from, as their checkpoint says; see `checkpoints/labels_seen.py`.

    Example:
        >>> encoder = WavLM(WavLMConfig.tiny()).eval()
        >>> layers = encoder(torch.randn(2, 16_000), torch.tensor([16_000, 12_000]))
        >>> layers.hidden.shape, layers.lengths
        (torch.Size([5, 2, 49, 192]), tensor([49, 37]))
    """

    def __init__(self, config: WavLMConfig | None = None):
        super().__init__()
        self.config = config or WavLMConfig.base()
        self.feature_grad_mult = self.config.feature_grad_mult
        self.labelled: list[Entry] = []
        log_mel = self.config.front_end == "log_mel"
        self.feature_extractor = LogMelFrontEnd(self.config) if log_mel else FrontEnd(self.config)
        self.feature_projection = FeatureProjection(self.config)
        self.masked_spec_embed = nn.Parameter(torch.empty(self.config.dim).uniform_())
        self.encoder = Transformer(self.config)

    def features(
        self, waveforms: Tensor, lengths: Tensor | None = None, *, normalise: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Run the front-end, convolutions or log-mel frames.

        Args:
            waveforms: `(batch, samples)` at 16 kHz. Samples beyond a row's length are ignored.
            lengths: valid samples of each row, integer `(batch,)`; None if every row is full. On the CPU it can be read
                without waiting for the GPU.
            normalise: as the configuration says; false for pieces of a recording that is normalised as a whole.

        Returns:
            The features before any norm, `(batch, frames, channels)`, whose gradient into the convolutions is
            already scaled, and which the feature penalty of pre-training reads; and the valid frames of each row, int64
            `(batch,)`.

        Raises:
            ValueError: the arguments do not fit together or an utterance is shorter than one frame.
        """
        lengths, padded = self._check(waveforms, lengths)
        if padded:
            waveforms = waveforms.masked_fill(padding_mask(lengths, waveforms.shape[1]), 0.0)
        if self.config.normalize_waveform and normalise:
            waveforms = normalize_waveforms(waveforms, lengths)
        if self.config.front_end == "waveform":  # log-mel frames are computed in fp32
            waveforms = waveforms.to(self.masked_spec_embed.dtype)
        # The front-end's activations are the largest tensors of the model: keep none where no gradient will reach it.
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.feature_grad_mult > 0):
            features = self.feature_extractor(waveforms, lengths if padded and self.config.batch_invariant else None)
        if self.config.front_end == "log_mel" and not self.config.mel_channels:  # fp32, whatever the weights have
            features = features.to(self.masked_spec_embed.dtype)
        return scale_gradient(features, self.feature_grad_mult), self.config.frames(lengths)

    def project(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs of the transformer, `(batch, frames, dim)`, from the `(batch, frames, channels)` of `features`.

        Also returns the features after the projection's layer norm, `(batch, frames, channels)`, which the quantiser of
        wav2vec 2.0 reads.
        """
        return self.feature_projection(features)

    def contextualise(
        self,
        projected: Tensor,
        frame_lengths: Tensor,
        mask: Tensor | None = None,
        *,
        keep: Sequence[int] | None = None,
        dropped: Sequence[bool] | None = None,
        visible: VisibleFrames | None = None,
    ) -> Layers:
        """Replace masked frames by the mask embedding and run the transformer.

        Args:
            projected: what `project` returned, `(batch, frames, dim)`.
            frame_lengths: valid frames of each row, int64 `(batch,)`.
            mask: bool `(batch, frames)`, true where the frame is replaced by the mask embedding.
            keep: which hidden states to return, in this order, from 0 (input of the first layer) to `layers`; None
                for all. All layers of Large at 16 x 16 s take 0.65 GB in bf16; a loss on the last layer needs only that
                one. Layers above the highest one are not run.
            dropped: for each layer, whether LayerDrop skips it in this pass, in training and in eval mode. None draws
                them from torch's global generator, in training mode only. Ranks that train together must skip the same.
            visible: run the layers on these frames alone, those of `mask`; see `Transformer`.

        Returns:
            The hidden states, zero where a frame is padding; with `visible` those of the visible frames, one behind another.

        Raises:
            ValueError: an argument does not fit the features or the encoder.
        """
        batch, frames, _ = projected.shape
        if mask is not None and (mask.dtype != torch.bool or mask.shape != (batch, frames)):
            raise ValueError(
                f"mask must be bool of shape (batch, frames) = {(batch, frames)}, "
                f"not {mask.dtype} of shape {tuple(mask.shape)}"
            )
        layers = self.config.layers
        keep = range(layers + 1) if keep is None else keep
        if not keep or not all(0 <= index <= layers for index in keep):
            raise ValueError(f"keep must name hidden states from 0 to {layers}, at least one, not {list(keep)}")
        if dropped is not None and len(dropped) != layers:
            raise ValueError(f"dropped must have one entry for each of the {layers} layers, not {len(dropped)}")
        x = projected
        if mask is not None:
            x = torch.where(mask[:, :, None], self.masked_spec_embed.to(x.dtype), x)
        padding = padding_mask(frame_lengths, frames)
        padded = bool(padding.any())
        hidden = torch.stack(self.encoder(x, padding if padded else None, keep, dropped, visible))
        if visible is not None:
            frame_lengths, padding, padded = visible.lengths, visible.padding, visible.padding is not None
        if padded:
            hidden.masked_fill_(padding[None, :, :, None], 0.0)
        return Layers(hidden, frame_lengths, self.config.frame_rate)

    def encode(self, features: Tensor, frame_lengths: Tensor, mask: Tensor | None = None) -> Layers:
        """`project`, then `contextualise`: `(batch, frames, channels)` to all hidden states."""
        projected, _ = self.project(features)
        return self.contextualise(projected, frame_lengths, mask)

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None, mask: Tensor | None = None) -> Layers:
        """Encode waveforms.

        Args:
            waveforms: `(batch, samples)` at 16 kHz.
            lengths: valid samples of each row, integer `(batch,)`; None if every row is full.
            mask: bool `(batch, frames)`, true where a frame is replaced by the mask embedding.

        Returns:
            `hidden (layers + 1, batch, frames, dim)`, zero where a frame is padding.

        Raises:
            ValueError: the arguments do not fit together or an utterance is shorter than one frame.
        """
        features, frame_lengths = self.features(waveforms, lengths)
        return self.encode(features, frame_lengths, mask)

    def prepare_for_inference(self, packed: bool | None = None) -> WavLM:
        """Cache values that every pass would compute from the weights alone; undone by `.train()`.

        Checkpoints and copies do not contain them. If a weight changes afterwards, they are ignored and the encoder runs
        at its usual speed.

        Args:
            packed: keep a copy of the linear weights in the layout of oneDNN, for fp32 on the CPU (Base: 0.34 GB). oneDNN
                sums in another order, so the hidden states differ in the last bits. None does so where a timing of a
                tenth of a second finds it faster.

        Returns:
            Itself.

        Raises:
            ValueError: the encoder is in training mode.
        """
        if self.training:
            raise ValueError("prepare_for_inference: the encoder is in training mode; call .eval() first")
        forget(self.parameters())
        over_waveform = self.config.front_end == "waveform"
        convolutions = [layer.conv for layer in self.feature_extractor.conv_layers[1:]] if over_waveform else []
        prepare(convolutions, self.encoder.pos_conv_embed.conv, self.encoder.linear_weights(), packed)
        return self

    def train(self, mode: bool = True) -> WavLM:
        if mode:
            forget(self.parameters())  # frees what `prepare_for_inference` stored
        return super().train(mode)

    def parameter_count(self) -> int:
        """Number of parameters without pre-training head (94,381,936 for Base, 315,453,120 for Large)."""
        return sum(parameter.numel() for parameter in self.parameters())

    @classmethod
    def from_pretrained(cls, path: str | Path, **config_overrides: Any) -> WavLM:
        """Read a checkpoint without executing anything in it.

        Args:
            path: a run folder or a `.ckpt` of ours, a folder in Hugging Face's format (`config.json` and safetensors or bin,
                whole or in shards), a unilm or fairseq `.pt`, or a torchaudio state dict.
            **config_overrides: fields of `WavLMConfig` to change, such as `layer_drop=0.0` or `batch_invariant=False`.

        Returns:
            The encoder in eval mode, fp32, on the CPU. A checkpoint without a mask embedding (torchaudio's) gets a
            fresh one.

        Raises:
            CheckpointError: the file has another format or does not fit its own configuration.
            ValueError: an override is not a field or contradicts another field.
        """
        with readable(Path(path), "a checkpoint of an encoder"):
            config, state = read_checkpoint(Path(path))
        if config_overrides:
            config = config.changed(config_overrides)
        with readable(Path(path)), torch.device("meta"):  # drawing 315 M weights only to overwrite them takes seconds
            encoder = cls(config)
        state.setdefault("masked_spec_embed", torch.rand(config.dim))
        encoder.load_state_dict(match_state(state, encoder.state_dict(), Path(path)), assign=True)
        if config.position_bias != "none":  # the buffer is still on `meta`: it is in no checkpoint
            table = encoder.encoder.layers[0].attention.rel_attn_embed
            table.buckets = table.make_buckets()
        encoder.labelled = labels_seen(Path(path))
        return encoder.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that `transformers.AutoModel.from_pretrained` and `WavLM.from_pretrained` load.

        The model class is `WavLMModel`, or `HubertModel` without position bias. Hugging Face has no class for an ungated
        bias: it is written as a `WavLMModel` whose gates are always 1.

        Args:
            folder: made if missing; gets `config.json`, `model.safetensors` and `preprocessor_config.json`.

        Raises:
            CheckpointError: Hugging Face has no class for the encoder, because its front-end is log-mel frames.
        """
        own = {LABELLED: list(self.labelled)} if self.labelled else {}
        write_checkpoint(Path(folder), replace(self.config), self.state_dict(), own)

    def _check(self, waveforms: Tensor, lengths: Tensor | None) -> tuple[Tensor, bool]:
        """Validate the inputs; return the lengths on the device of the waveforms, and whether any row is padded."""
        if waveforms.dim() != 2 or not waveforms.is_floating_point():
            raise ValueError(
                f"waveforms must be floating point of shape (batch, samples), "
                f"not {waveforms.dtype} of shape {tuple(waveforms.shape)}"
            )
        batch, samples = waveforms.shape
        shortest = longest = samples
        row = 0
        if lengths is None:
            lengths = torch.full((batch,), samples)
        else:
            if lengths.shape != (batch,) or lengths.is_floating_point() or lengths.dtype == torch.bool:
                raise ValueError(
                    f"lengths must be integers of shape (batch,) = ({batch},), "
                    f"not {lengths.dtype} of shape {tuple(lengths.shape)}"
                )
            values = lengths.tolist()
            shortest, longest = min(values, default=samples), max(values, default=samples)
            row = values.index(shortest) if values else 0
            if longest > samples:
                raise ValueError(
                    f"lengths of row {values.index(longest)} is {longest}, but waveforms has {samples} samples"
                )
        if shortest < self.config.receptive_field:
            raise ValueError(
                f"the utterance in row {row} has {shortest} samples, fewer than the {self.config.receptive_field} "
                f"({1000 * self.config.receptive_field / SAMPLE_RATE:g} ms at 16 kHz) that one frame needs"
            )
        return lengths.to(device=waveforms.device, dtype=torch.int64, non_blocking=True), shortest < samples
