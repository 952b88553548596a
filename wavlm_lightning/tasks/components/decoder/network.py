"""The encoder-decoder that a head builds: subsampler, Transformer encoder and decoder, CTC outputs, losses, search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wavlm_lightning.data.batch import Targets
from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.decoder.prefix_scores import PrefixScores
from wavlm_lightning.tasks.components.decoder.search import Decoding, Found, Scorer, beam_search
from wavlm_lightning.tasks.components.decoder.subsampling import ConvolutionalSubsampler
from wavlm_lightning.tasks.components.decoder.transformer import TransformerDecoder, TransformerEncoder

BLANK = 0  # index of the CTC blank


@dataclass(frozen=True)
class NetworkSize:
    """Sizes of an encoder-decoder. The defaults are those of s3prl's speech translation (SUPERB-SG).

    Args:
        width: of the hidden states.
        heads: of each attention; they divide the width.
        inner: width of the feed-forward layers.
        encoder_layers: their number.
        decoder_layers: their number.
        dropout: behind the embedding and each part, in attention and feed-forward layers.
        convolutions: of stride 2 in front of the encoder; two make a frame of 20 ms one of 80 ms.
        channels: of all but the last of them, before the gate halves them.
        projection: width of a linear layer in front of the convolutions; null for none. 128 in ESPnet's CHiME-4.
    """

    width: int = 512
    heads: int = 8
    inner: int = 2048
    encoder_layers: int = 3
    decoder_layers: int = 3
    dropout: float = 0.1
    convolutions: int = 2
    channels: int = 1024
    projection: int | None = None

    def check(self) -> None:
        """Raises a `UserError` if no such network can be built."""
        for name in ("width", "heads", "inner", "decoder_layers"):
            if getattr(self, name) < 1:
                raise UserError(f"model.network.{name}: {getattr(self, name)}; give a number from 1 on")
        if min(self.encoder_layers, self.convolutions) < 0:
            raise UserError("model.network: encoder_layers and convolutions are numbers from 0 on")
        if self.width % self.heads:
            raise UserError(
                f"model.network.heads: {self.heads} heads do not divide the width {self.width}; choose other numbers"
            )
        if self.convolutions > 1 and self.channels % 2:
            raise UserError(
                f"model.network.channels: {self.channels} is odd, and a gate halves it; choose an even number"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.network.dropout: {self.dropout}; give a number from 0 to below 1")


class Losses(NamedTuple):
    """Losses of each utterance in nats, `(batch,)`, summed over its labels."""

    attention: Tensor  # smoothed cross-entropy, the end included
    ctc: Tensor | None  # 0 where the frames are too few for the labels; None without CTC


class EncoderDecoder(nn.Module):
    """Subsampler, Transformer encoder, Transformer decoder, and, with `ctc`, a linear layer with CTC on the encoder.

    Labels are numbers of outputs; targets hold neither begin nor end. The decoder reads the end symbol as the begin, as
    fairseq's and ESPnet's do. Output 0 is the blank of CTC.

    Args:
        dim: of the features.
        labels: number of outputs, the blank and the end among them.
        size: of the network.
        end: number of the end symbol.
        barred: outputs beside the blank that the search never answers with, such as padding.
        ctc: whether there is CTC on the encoder's frames (joint CTC and attention, arXiv 1609.06773).
        smoothing: of the decoder's targets, over all outputs (arXiv 1512.00567).

    Example:
        >>> network = EncoderDecoder(768, 32, NetworkSize(), end=2)
        >>> memory = network.encode(torch.randn(2, 100, 768), torch.tensor([100, 60]))
        >>> frames = network.frames(torch.tensor([100, 60]))
        >>> network.losses(memory, frames, targets).attention.shape
        torch.Size([2])
        >>> network.search(memory, frames, Decoding(beam=1), limits=torch.tensor([20, 20]))  # greedy
        [[Found(labels=(5, 7), score=-3.2, cut=False)], ...]
    """

    def __init__(
        self,
        dim: int,
        labels: int,
        size: NetworkSize,
        end: int,
        barred: tuple[int, ...] = (),
        ctc: bool = False,
        smoothing: float = 0.1,
    ) -> None:
        super().__init__()
        size.check()
        self.end, self.barred, self.smoothing = end, (BLANK, *barred), smoothing
        read = size.projection or dim
        self.projection = nn.Linear(dim, read) if size.projection else nn.Identity()
        self.subsampler = ConvolutionalSubsampler(read, size.width, size.convolutions, size.channels)
        shape = size.width, size.heads, size.inner
        self.encoder = TransformerEncoder(*shape, size.encoder_layers, size.dropout)
        self.decoder = TransformerDecoder(labels, *shape, size.decoder_layers, size.dropout)
        self.ctc = nn.Linear(size.width, labels) if ctc else None

    def frames(self, lengths: Tensor) -> Tensor:
        """Frames of the memory `(batch,)`, from valid frames of the features."""
        return self.subsampler.lengths(lengths)

    def encode(self, features: Tensor, lengths: Tensor) -> Tensor:
        """The memory, hidden states `(batch, frames(lengths), width)` of the encoder.

        From features `(batch, frames, dim)` and their valid frames `(batch,)`.
        """
        hidden = self.subsampler(self.projection(features), lengths)
        return self.encoder(hidden, self.frames(lengths))

    def ctc_logits(self, memory: Tensor) -> Tensor | None:
        """Logits `(batch, frames, labels)` of CTC; None without it."""
        return None if self.ctc is None else self.ctc(memory)

    def losses(self, memory: Tensor, frames: Tensor, targets: Targets) -> Losses:
        """The losses of each utterance, from the memory, its valid frames `(batch,)` and labels without an end symbol."""
        values, lengths = targets.values, targets.lengths
        column = values.new_full((len(values), 1), self.end)
        places = torch.arange(values.shape[1] + 1, device=values.device)
        # Behind the last label stands the end, and then more of them, which count nothing.
        wanted = torch.cat([values, column], 1).masked_fill(places >= lengths[:, None], self.end)
        heard = torch.cat([column, wanted[:, :-1]], 1)
        logits = _precise(self.decoder(heard, memory, frames))
        losses = nn.functional.cross_entropy(
            logits.transpose(1, 2), wanted, reduction="none", label_smoothing=self.smoothing
        )
        attention = losses.masked_fill(padding_mask(lengths + 1, losses.shape[1]), 0.0).sum(1)
        ctc = self.ctc_logits(memory)
        if ctc is None:
            return Losses(attention, None)
        found = nn.functional.ctc_loss(
            _precise(ctc).log_softmax(-1).transpose(0, 1),
            values,
            frames,
            lengths,
            blank=BLANK,
            reduction="none",
            zero_infinity=True,
        )
        return Losses(attention, found)

    @torch.no_grad()
    def search(
        self,
        memory: Tensor,
        frames: Tensor,
        decoding: Decoding,
        limits: Tensor,
        nbest: int = 1,
        further: tuple[tuple[float, Scorer], ...] = (),
    ) -> list[list[Found]]:
        """The best answers of each utterance, best first: at least one, at most `nbest`. The network is in eval mode.

        Args:
            memory: `(batch, frames, width)` from `encode`.
            frames: valid frames of each row of it, `(batch,)`.
            decoding: the width of the beam and the weights.
            limits: most labels of an answer, int64 `(batch,)`.
            nbest: answers of each utterance.
            further: weights and further scores, such as those of a language model, of this batch.
        """
        scorers = list(further)
        if decoding.ctc_weight:
            logits = self.ctc_logits(memory)
            if logits is None:
                raise UserError(
                    f"model.decoding.ctc_weight: {decoding.ctc_weight}, and this head was trained without CTC; set it to 0"
                )
            scorers.append((decoding.ctc_weight, PrefixScores(logits, frames, self.end, BLANK)))
        return beam_search(
            self.decoder,
            memory,
            frames,
            decoding,
            limits,
            end=self.end,
            barred=self.barred,
            scorers=scorers,
            nbest=nbest,
        )


def _precise(logits: Tensor) -> Tensor:
    """At least in fp32, also under bf16 autocast."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
