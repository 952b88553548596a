"""Conv-TasNet (Luo and Mesgarani, arXiv 1809.07454) for one talker: a mask on a learned filter bank."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.front_end.network import FrontEnd


class ConvTasNet(FrontEnd):
    """Learned filters, stacks of dilated convolutions that give a mask between 0 and 1, and learned filters back.

    The sizes by default are those of IRIS (arXiv 2204.00540; ESPnet `egs2/chime4/enh_asr1`), but for `bottleneck`, which is the
    paper's.

    Args:
        filters: of the filter bank.
        kernel: samples of a filter.
        stride: samples between two frames; at most `kernel`.
        bottleneck: channels between the blocks.
        hidden: channels inside a block.
        layers: blocks of a stack, with dilations 1, 2, 4, ...
        stacks: how often they are repeated.
        seed: of the initial weights; null takes that of the run.

    Example:
        >>> ConvTasNet(filters=32, hidden=32)(torch.randn(2, 800), torch.tensor([800, 500])).shape
        torch.Size([2, 800])
    """

    random = True

    def __init__(
        self,
        filters: int = 256,
        kernel: int = 40,
        stride: int = 20,
        bottleneck: int = 128,
        hidden: int = 512,
        layers: int = 4,
        stacks: int = 2,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if layers < 1 or stacks < 1:
            raise UserError(f"ConvTasNet.layers {layers} and stacks {stacks}: give 1 or more of both")
        if not 1 <= stride <= kernel:
            raise UserError(f"ConvTasNet.stride {stride}: give 1 to kernel ({kernel}), or samples are left out")
        self.kernel, self.stride = kernel, stride
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed or 0)
            self.analysis = nn.Conv1d(1, filters, kernel, stride, bias=False)
            self.norm = GlobalNorm(filters)
            self.narrow = nn.Conv1d(filters, bottleneck, 1)
            dilations = [2**layer for _ in range(stacks) for layer in range(layers)]
            # Nothing follows the last block: its residual connection would have no gradient, for which DDP waits.
            self.blocks = nn.ModuleList(
                Block(bottleneck, hidden, dilation, last=place == len(dilations))
                for place, dilation in enumerate(dilations, start=1)
            )
            self.mask = nn.Sequential(nn.PReLU(), nn.Conv1d(bottleneck, filters, 1), nn.Sigmoid())
            self.synthesis = nn.ConvTranspose1d(filters, 1, kernel, stride, bias=False)

    def cleaned(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        samples, before = waveforms.shape[1], self.kernel - self.stride
        # The padding lets the first and the last sample be covered by as many windows as any other.
        frames = (lengths + before + self.stride - 1).div(self.stride, rounding_mode="floor")
        count = (samples + before + self.stride - 1) // self.stride
        padded = nn.functional.pad(waveforms, (before, (count - 1) * self.stride + self.kernel - before - samples))
        valid = ~padding_mask(frames, count)[:, None]
        bank = self.analysis(padded[:, None]).relu() * valid
        hidden = self.narrow(self.norm(bank, valid)) * valid
        total = torch.zeros_like(hidden)
        for block in self.blocks:
            hidden, skip = block(hidden, valid)
            total = total + skip
        answer = self.synthesis(bank * self.mask(total) * valid)
        return answer[:, 0, before : before + samples]


class GlobalNorm(nn.Module):
    """Normalisation of an utterance over channels and frames (gLN), without its padding."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels, 1)), nn.Parameter(torch.zeros(channels, 1))

    def forward(self, hidden: Tensor, valid: Tensor) -> Tensor:
        """Normalised `(batch, channels, frames)`, zeros where not `valid` `(batch, 1, frames)`."""
        hidden = hidden.float()  # sums over all frames, also under bf16 autocast
        count = hidden.shape[1] * valid.sum((1, 2), keepdim=True)
        mean = (hidden * valid).sum((1, 2), keepdim=True) / count
        centred = (hidden - mean) * valid
        variance = centred.square().sum((1, 2), keepdim=True) / count
        return (centred * (variance + 1e-8).rsqrt() * self.weight + self.bias) * valid


class Block(nn.Module):
    """A depthwise convolution between two pointwise ones, with a skip connection and, before another block, a residual one."""

    def __init__(self, channels: int, hidden: int, dilation: int, last: bool = False) -> None:
        super().__init__()
        self.widen, self.first = nn.Conv1d(channels, hidden, 1), nn.PReLU()
        self.first_norm = GlobalNorm(hidden)
        self.depthwise = nn.Conv1d(hidden, hidden, 3, padding=dilation, dilation=dilation, groups=hidden)
        self.second, self.second_norm = nn.PReLU(), GlobalNorm(hidden)
        self.residual = None if last else nn.Conv1d(hidden, channels, 1)
        self.skip = nn.Conv1d(hidden, channels, 1)

    def forward(self, hidden: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """The input of the next block, and what is added to the sum of all blocks, both `(batch, channels, frames)`."""
        inside = self.first_norm(self.first(self.widen(hidden)), valid)
        inside = self.second_norm(self.second(self.depthwise(inside)), valid)
        if self.residual is not None:
            hidden = (hidden + self.residual(inside)) * valid
        return hidden, self.skip(inside) * valid
