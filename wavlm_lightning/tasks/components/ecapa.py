"""ECAPA-TDNN, the speaker network over frames of an encoder, with attentive statistics pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wavlm_lightning.encoder import padding_mask

SCALE = 8  # parts into which a Res2 layer splits its channels
BOTTLENECK = 128  # width of squeeze-excitation and of the attention of the pooling
BLOCKS = ((3, 2), (3, 3), (3, 4))  # kernel size and dilation of the three blocks, in frames
SMALLEST_VARIANCE = 1e-7


class EcapaTdnn(nn.Module):
    """Speaker embeddings from frames (Desplanques et al., Interspeech 2020, arXiv 2005.07143).

    A convolution, three blocks of squeeze-excitation and Res2 convolutions whose outputs are joined, pooling by an attention
    for each channel, an affine layer. Two published variants read WavLM: wespeaker's (`global_context`, embedding 192, the mean
    over time taken off the input) and UniSpeech's (no global context, embedding 256, mean and deviation taken off). In
    both an activation comes before its batch norm. An utterance has the same embedding alone and in any batch.

    Args:
        dim: of the frames.
        channels: of the blocks; 512 in both variants.
        embedding: width of the result.
        global_context: the attention also sees mean and deviation of the utterance.
        unit_variance: scale each input channel of an utterance to deviation 1, beside taking off its mean.

    Example:
        >>> EcapaTdnn(768)(torch.randn(2, 150, 768), torch.tensor([150, 90])).shape
        torch.Size([2, 192])
    """

    def __init__(
        self,
        dim: int,
        channels: int = 512,
        embedding: int = 192,
        global_context: bool = True,
        unit_variance: bool = False,
    ) -> None:
        super().__init__()
        if channels % SCALE:
            raise ValueError(f"ECAPA-TDNN splits its channels into {SCALE}, so {channels} cannot be their number")
        self.unit_variance = unit_variance
        self.first = TimeDelay(dim, channels, 5)
        self.blocks = nn.ModuleList(Block(channels, kernel, dilation) for kernel, dilation in BLOCKS)
        joined = len(BLOCKS) * channels
        self.join = nn.Conv1d(joined, joined, 1)
        self.pooling = AttentivePooling(joined, global_context)
        self.norm = nn.BatchNorm1d(2 * joined)
        self.affine = nn.Linear(2 * joined, embedding)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Embeddings `(batch, embedding)` from `(batch, frames, dim)` and valid frames, int64 `(batch,)`, at least 1."""
        valid = (~padding_mask(lengths, features.shape[1]))[:, None]
        hidden = self._normalised(features.transpose(1, 2), valid, lengths)
        hidden = self.first(hidden, valid)
        outputs = []
        for block in self.blocks:
            hidden = hidden + block(hidden, valid, lengths)
            outputs.append(hidden)
        hidden = self.join(torch.cat(outputs, dim=1)).relu()
        return self.affine(self._normed(self.pooling(hidden, valid, lengths)))

    def _normed(self, pooled: Tensor) -> Tensor:
        shared = isinstance(self.norm, nn.SyncBatchNorm) and torch.distributed.is_initialized()
        if self.training and len(pooled) == 1 and not (shared and torch.distributed.get_world_size() > 1):
            # One value has no variance: the one utterance that an epoch leaves over is normalised as in evaluation. With
            # SyncBatchNorm the other processes have values, and wait for this one's.
            norm = self.norm
            return nn.functional.batch_norm(
                pooled, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps
            )
        return self.norm(pooled)

    def _normalised(self, hidden: Tensor, valid: Tensor, lengths: Tensor) -> Tensor:
        count = lengths[:, None, None].to(hidden.dtype)
        hidden = (hidden - (hidden * valid).sum(2, keepdim=True) / count) * valid
        if self.unit_variance:
            # Instance norm: the variance without Bessel's correction, 1e-5 added to it.
            hidden = hidden * torch.rsqrt(hidden.square().sum(2, keepdim=True) / count + 1e-5)
        return hidden


class TimeDelay(nn.Module):
    """Convolution over frames, ReLU, batch norm; frames of padding are zero before and after."""

    def __init__(self, dim: int, channels: int, kernel: int = 1, dilation: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.conv = nn.Conv1d(dim, channels, kernel, padding=padding, dilation=dilation)
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, hidden: Tensor, valid: Tensor) -> Tensor:
        """`(batch, channels, frames)` from `(batch, dim, frames)`; `valid` is bool `(batch, 1, frames)`."""
        return batch_norm(self.norm, self.conv(hidden).relu(), valid)


class Block(nn.Module):
    """TimeDelay, a Res2 layer, TimeDelay, squeeze-excitation; the caller adds the input."""

    def __init__(self, channels: int, kernel: int, dilation: int) -> None:
        super().__init__()
        width = channels // SCALE
        self.before = TimeDelay(channels, channels)
        self.parts = nn.ModuleList(TimeDelay(width, width, kernel, dilation) for _ in range(SCALE - 1))
        self.after = TimeDelay(channels, channels)
        self.squeeze, self.excite = nn.Linear(channels, BOTTLENECK), nn.Linear(BOTTLENECK, channels)

    def forward(self, hidden: Tensor, valid: Tensor, lengths: Tensor) -> Tensor:
        """`(batch, channels, frames)` to the same shape."""
        pieces = self.before(hidden, valid).chunk(SCALE, dim=1)
        found = pieces[0]
        outputs = []
        for number, layer in enumerate(self.parts):  # each part also hears the result of the one before it
            found = layer(found if number == 0 else found + pieces[number], valid)
            outputs.append(found)
        hidden = self.after(torch.cat([*outputs, pieces[-1]], dim=1), valid)
        mean = hidden.sum(2) / lengths[:, None].to(hidden.dtype)  # padding is zero
        return hidden * self.excite(self.squeeze(mean).relu()).sigmoid()[:, :, None]


class AttentivePooling(nn.Module):
    """Mean and standard deviation over frames, weighted by an attention for each channel (arXiv 1803.10963)."""

    def __init__(self, dim: int, global_context: bool) -> None:
        super().__init__()
        self.global_context = global_context
        self.hidden = nn.Conv1d(3 * dim if global_context else dim, BOTTLENECK, 1)
        self.scores = nn.Conv1d(BOTTLENECK, dim, 1)

    def forward(self, hidden: Tensor, valid: Tensor, lengths: Tensor) -> Tensor:
        """`(batch, 2 dim)` in fp32 from `(batch, dim, frames)`."""
        hidden = hidden.float()  # statistics in fp32, also under autocast
        context = hidden
        if self.global_context:
            count = lengths[:, None, None].float()
            mean = (hidden * valid).sum(2, keepdim=True) / count
            spread = ((hidden - mean) * valid).square().sum(2, keepdim=True) / (count - 1).clamp(min=1)
            deviation = (spread + SMALLEST_VARIANCE).sqrt()
            context = torch.cat([hidden, mean.expand_as(hidden), deviation.expand_as(hidden)], dim=1)
        scores = self.scores(self.hidden(context).tanh()).float()
        weights = scores.masked_fill(~valid, -torch.inf).softmax(2)
        mean = (weights * hidden).sum(2)
        variance = (weights * hidden.square()).sum(2) - mean.square()
        return torch.cat([mean, variance.clamp(min=SMALLEST_VARIANCE).sqrt()], dim=1)


def batch_norm(norm: nn.BatchNorm1d, hidden: Tensor, valid: Tensor) -> Tensor:
    """Batch norm of `(batch, channels, frames)` whose statistics are those of the valid frames; padding becomes zero."""
    if not norm.training:  # each value by itself; no branch on the data, which an exported graph could not take
        return norm(hidden).masked_fill(~valid, 0.0)
    if bool(valid.all()):
        return norm(hidden)
    places = valid[:, 0]
    rows = hidden.transpose(1, 2)
    normed = torch.zeros_like(rows)
    normed[places] = norm(rows[places]).to(rows.dtype)
    return normed.transpose(1, 2)
