"""A second implementation of the encoder for `torch.export` and ONNX: no branch on data, no device-specific kernel."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavlm_lightning.encoder.config import MEL_SHIFT
from wavlm_lightning.encoder.frontend import normalize_waveforms
from wavlm_lightning.encoder.layers import padding_mask
from wavlm_lightning.encoder.log_mel import FLOOR, MARGIN, centred, constants, transform_size
from wavlm_lightning.encoder.wavlm import WavLM


class ExportableEncoder(nn.Module):
    """The forward pass of `WavLM` in eval mode, written so that it can be traced into a graph.

    It has no parameters of its own but reads those of the encoder. How the encoder itself computes (chunks, attention
    backends, prepared weights) can therefore change without changing the exported graph. Every batch is treated as padded:
    a row gives the same alone and in a batch.

    Args:
        encoder: fp32, in eval mode.
        normalize_eps: added to the variance when waveforms are normalised; None for no normalisation.

    Example:
        >>> exportable = ExportableEncoder(WavLM(WavLMConfig.tiny()).eval(), None)
        >>> hidden, lengths = exportable(torch.randn(2, 16_000), torch.tensor([16_000, 12_000]))
        >>> hidden.shape, lengths
        (torch.Size([5, 2, 49, 192]), tensor([49, 37]))
    """

    positional: Tensor
    buckets: Tensor
    waves: Tensor
    filters: Tensor

    def __init__(self, encoder: WavLM, normalize_eps: float | None) -> None:
        super().__init__()
        self.encoder, self.config, self.normalize_eps = encoder, encoder.config, normalize_eps
        # Resolved weight norm: otherwise the graph would compute it for every batch.
        self.register_buffer("positional", encoder.encoder.pos_conv_embed.conv.weight.detach().clone())
        if self.config.front_end == "log_mel":
            filters, window = constants(self.config.mel_bins, self.positional)
            size = transform_size(self.config.mel_bins)
            # Rows of the discrete Fourier transform, in float64: angles of thousands of radians lose digits in float32.
            angles = (
                torch.arange(len(filters))[:, None] * torch.arange(len(window), dtype=torch.float64) * math.tau / size
            )
            waves = torch.cat([angles.cos(), angles.sin()]).to(window) * window
            self.register_buffer("waves", waves[:, None])
            self.register_buffer("filters", filters)
        if self.config.position_bias != "none":
            self.register_buffer("buckets", encoder.encoder.layers[0].attention.rel_attn_embed.make_buckets())

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode waveforms.

        Args:
            waveforms: float32 `(batch, samples)` at 16 kHz; samples beyond a row's length are ignored.
            lengths: valid samples of each row, int64 `(batch,)`, each at least `config.receptive_field`.

        Returns:
            All hidden states `(layers + 1, batch, frames, dim)`, zero where a frame is padding, and the valid frames of
            each row, int64 `(batch,)`.
        """
        waveforms = waveforms.masked_fill(padding_mask(lengths, waveforms.shape[1]), 0.0)
        if self.normalize_eps is not None:
            waveforms = normalize_waveforms(waveforms, lengths, self.normalize_eps)
        projection, log_mel = self.encoder.feature_projection, self.config.front_end == "log_mel"
        features = (self._log_mel if log_mel else self._convolve)(waveforms, lengths)
        x = projection.projection(projection.layer_norm(features))
        frames = self.config.frames(lengths)
        padding = padding_mask(frames, x.shape[1])
        hidden = torch.stack(self._transform(x.masked_fill(padding[:, :, None], 0.0), padding))
        return hidden.masked_fill(padding[None, :, :, None], 0.0), frames

    def _convolve(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        x, steps = waveforms[:, None, :], lengths
        for layer in self.encoder.feature_extractor.conv_layers:
            x = layer.conv(x)
            steps = (steps - layer.conv.kernel_size[0]) // layer.conv.stride[0] + 1
            norm = layer.layer_norm
            if isinstance(norm, nn.GroupNorm):
                x = self._norm_over_time(norm, x, steps)
            elif norm is not None:
                x = norm(x.transpose(1, 2)).transpose(1, 2)
            x = F.gelu(x)
        return x.transpose(1, 2)  # (batch, frames, channels)

    def _log_mel(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """See `LogMelFrontEnd`; the Fourier transform is a convolution with windowed cosines and sines."""
        valid = 2 * self.config.frames(lengths)
        padded = F.pad(waveforms, (MARGIN, MARGIN))[:, None]
        # First and second windows of the frames apart: their numbers are then the same for every length of the waveforms.
        windows = (padded[:, :, :-MEL_SHIFT], padded[:, :, MEL_SHIFT:])
        spectra = torch.stack([F.conv1d(part, self.waves, stride=self.config.hop) for part in windows], dim=3)
        real, imaginary = spectra.flatten(2).chunk(2, dim=1)
        power = (real.square() + imaginary.square()).transpose(1, 2) @ self.filters
        x = centred(power.clamp(min=FLOOR).log(), valid, self.config.mel_norm)
        for layer in self.encoder.feature_extractor.conv_layers:
            if layer.conv.padding[0]:
                x = x.masked_fill(padding_mask(valid, x.shape[1])[:, :, None], 0.0)
            x = layer.conv(x.transpose(1, 2)).transpose(1, 2)
            x = F.gelu(x if layer.layer_norm is None else layer.layer_norm(x))
        return x if self.config.mel_channels else x.unflatten(1, (-1, 2)).flatten(2)

    def _norm_over_time(self, norm: nn.GroupNorm, x: Tensor, steps: Tensor) -> Tensor:
        """Group norm with one group per channel, over the valid steps of each row if the encoder is `batch_invariant`."""
        if not self.config.batch_invariant:
            return F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
        padding = padding_mask(steps, x.shape[2])[:, None, :]
        count = steps[:, None, None].to(x.dtype)
        mean = x.masked_fill(padding, 0.0).sum(2, keepdim=True) / count
        centred = (x - mean).masked_fill(padding, 0.0)
        variance = centred.square().sum(2, keepdim=True) / count
        return centred * torch.rsqrt(variance + norm.eps) * norm.weight[:, None] + norm.bias[:, None]

    def _transform(self, x: Tensor, padding: Tensor) -> list[Tensor]:
        """All hidden states, each `(batch, frames, dim)`; see `Transformer.forward`."""
        stack, conv = self.encoder.encoder, self.encoder.encoder.pos_conv_embed.conv
        positions = F.conv1d(x.transpose(1, 2), self.positional, conv.bias, padding=conv.padding[0], groups=conv.groups)
        x = x + F.gelu(positions[:, :, : x.shape[1]]).transpose(1, 2)
        if not stack.pre_norm:
            x = stack.layer_norm(x)
        table = self._table(x.shape[1]) if self.config.position_bias != "none" else None
        states = [x]
        for layer in stack.layers:
            attended = self._attend(layer.attention, layer.layer_norm(x) if stack.pre_norm else x, table, padding)
            x = x + attended if stack.pre_norm else layer.layer_norm(x + attended)
            feed = layer.feed_forward
            inner = feed.output_dense(
                F.gelu(feed.intermediate_dense(layer.final_layer_norm(x) if stack.pre_norm else x))
            )
            x = x + inner if stack.pre_norm else layer.final_layer_norm(x + inner)
            states.append(x)
        if stack.pre_norm:
            states[-1] = stack.layer_norm(x)
        return states

    def _table(self, frames: int) -> Tensor:
        """The position bias before gating, `(heads, frames, frames)`; entry (h, i, j) is for query i and key j."""
        embedding = self.encoder.encoder.layers[0].attention.rel_attn_embed
        places = torch.arange(frames, device=embedding.weight.device)
        offset = places[None, :] - places[:, None]
        bucket = self.buckets[offset.abs().clamp(max=self.config.max_distance)]
        bucket = bucket + (offset > 0).to(bucket.dtype) * (self.config.num_buckets // 2)
        return F.embedding(bucket, embedding.weight).permute(2, 0, 1)

    def _attend(self, attention: nn.Module, x: Tensor, table: Tensor | None, padding: Tensor) -> Tensor:
        heads = self.config.heads
        query, key, value = (
            projection(x).unflatten(2, (heads, -1)).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        logits = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
        if table is not None and self.config.position_bias == "gated":
            gates = attention.gru_rel_pos_linear(x.unflatten(2, (heads, -1))).unflatten(3, (2, 4)).sum(4).sigmoid()
            scale = attention.gru_rel_pos_const.view(1, 1, heads)
            gate = gates[..., 0] * (gates[..., 1] * scale - 1.0) + 2.0
            logits = logits + gate.transpose(1, 2)[..., None] * table
        elif table is not None:
            logits = logits + table
        weights = logits.masked_fill(padding[:, None, None, :], float("-inf")).softmax(-1)
        return attention.out_proj((weights @ value).transpose(1, 2).flatten(2))
