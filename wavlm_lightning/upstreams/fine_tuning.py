"""Fine-tuning of a speech encoder: when, which layers, at which rates, with which masks, LayerDrop and dropouts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavlm_lightning.augment.span_masking import SpanMasking
from wavlm_lightning.encoder.transformer import DroppedLayer
from wavlm_lightning.system.errors import UserError

FEWEST_SPANS = 2  # time masks of an utterance, as in fairseq; channels may have none
DROPOUTS = ("dropout", "attention_dropout", "activation_dropout", "input_dropout")
PROBABILITIES = ("time_mask_probability", "channel_mask_probability")
MASKS, LAYER_DROP = range(2)  # random streams of a forward pass


@dataclass(frozen=True)
class FineTuning:
    """How an encoder is trained together with a head; the values of `upstream.fine_tuning`, with `upstream.frozen: false`.

    Layer k of L is the k-th transformer layer from below. Layer 0 is what lies before the first: projection, positional
    convolution, the norm of post-norm models, the mask embedding and, where they are trained, the convolutions. The
    final norm of pre-norm models belongs to layer L, and WavLM's table of position biases to layer 1, which holds it.

    wav2vec 2.0 fine-tunes with frozen convolutions, `from_update` 10,000, time masks of probability 0.65 and 10 frames,
    channel masks of 0.5 and 64 channels, LayerDrop 0.05 to 0.1 and activation dropout 0.1 (arXiv 2006.11477, section 4
    and appendix B).

    Args:
        from_update: updates during which the head alone is trained. The encoder then runs without gradients, but with its
            masks and dropouts, as in fairseq (`freeze_finetune_updates`).
        layers: which layers are trained, from 0 to L or from -1 (layer L) downwards; all if left out. The others run with
            their dropouts, but keep their weights.
        learning_rate: of layer L; that of the head if left out.
        layer_decay: factor on the learning rate from a layer to the one below it: layer k has `learning_rate *
            layer_decay ** (L - k)`, as in ELECTRA (arXiv 2003.10555) and BEiT (arXiv 2106.08254). These count the head as
            one more layer, so that their layer L already has the factor once.
        convolutions: train the convolutions as well. In a WavLM their gradient is multiplied by the configuration's
            `feature_grad_mult` (0.1 in Base), as in pre-training.
        time_mask_probability: share of the frames that would be masked if spans never overlapped; 0.65 masks 49 % of the
            frames. Spans start at random, at least two in an utterance; their frames become the mask embedding, which
            is trained with layer 0. Unlike in fairseq, the masks of an utterance do not depend on its batch.
        time_mask_frames: frames of a span.
        channel_mask_probability: the same for channels, which become zero in all frames of an utterance.
        channel_mask_channels: channels of a span.
        layer_drop: probability that a layer is skipped in a training step, the same ones on all processes.
        dropout: on the transformer's input and on the output of attention and feed-forward; left out, like the other
            dropouts, it is that of the encoder's configuration.
        attention_dropout: on the attention weights.
        activation_dropout: inside the feed-forward blocks.
        input_dropout: on the projected convolution features, before masking.
        activation_checkpointing: run the layers again in the backward pass: less memory, more time, the same values.
        compile: compile the layers with torch.compile.

    Raises:
        UserError: a value is out of range.

    Example:
        >>> FineTuning(from_update=1000, learning_rate=3e-5, time_mask_probability=0.65, layer_drop=0.1)
    """

    from_update: int = 0
    layers: list[int] | None = None
    learning_rate: float | None = None
    layer_decay: float = 1.0
    convolutions: bool = False
    time_mask_probability: float = 0.0
    time_mask_frames: int = 10
    channel_mask_probability: float = 0.0
    channel_mask_channels: int = 64
    layer_drop: float = 0.0
    dropout: float | None = None
    attention_dropout: float | None = None
    activation_dropout: float | None = None
    input_dropout: float | None = None
    activation_checkpointing: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        def refuse(name: str, range_: str) -> UserError:
            return UserError(f"upstream.fine_tuning.{name} must be {range_}, not {getattr(self, name)}")

        if self.from_update < 0:
            raise refuse("from_update", "0 or more")
        if self.learning_rate is not None and not 0 < self.learning_rate < float("inf"):
            raise refuse("learning_rate", "above 0")
        if not 0 < self.layer_decay <= 1:
            raise refuse("layer_decay", "above 0 and at most 1")
        for name in PROBABILITIES:
            if not 0 <= getattr(self, name) <= 1:
                raise refuse(name, "from 0 to 1")
        for name in ("time_mask_frames", "channel_mask_channels"):
            if getattr(self, name) < 1:
                raise refuse(name, "1 or more")
        for name in ("layer_drop", *DROPOUTS):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise refuse(name, "at least 0 and below 1")

    @property
    def masks(self) -> bool:
        """Whether anything is masked."""
        return self.time_mask_probability > 0 or self.channel_mask_probability > 0

    def needs_layers(self) -> list[str]:
        """The options in use that only work if the transformer layers of an upstream are known."""
        defaults = {field.name: field.default for field in fields(self)}
        names = ("layers", "layer_decay", "layer_drop", "activation_checkpointing", "compile")
        return [name for name in names if getattr(self, name) != defaults[name]]

    def chosen(self, count: int) -> set[int]:
        """The numbers of the layers that are trained, of 0 to `count`; a UserError says if one does not exist."""
        if self.layers is None:
            return set(range(count + 1))
        wrong = [layer for layer in self.layers if not -count - 1 <= layer <= count]
        if wrong or not self.layers:
            raise UserError(
                f"upstream.fine_tuning.layers: {list(self.layers)}: give some of 0 (before the first transformer layer) to "
                f"{count}, or -1 (the last) to -{count + 1}"
            )
        found = {layer % (count + 1) for layer in self.layers}
        if self.convolutions and 0 not in found:
            raise UserError(
                "upstream.fine_tuning.convolutions is true, but upstream.fine_tuning.layers leaves out layer 0, to which "
                "they belong; add 0 or set convolutions: false"
            )
        return found

    def dropouts(self, names: Mapping[str, str], overrides: Mapping[str, Any]) -> dict[str, float]:
        """The dropouts that are set, under the names of a configuration (`names`: ours to theirs).

        A UserError says if `overrides`, the user's own changes of that configuration, sets one of them, too.
        """
        if clash := sorted(set(names.values()) & set(overrides)):
            ours = next(name for name, theirs in names.items() if theirs == clash[0])
            raise UserError(
                f"upstream.overrides.{clash[0]} and upstream.fine_tuning exclude each other; set upstream.fine_tuning.{ours}"
            )
        return {theirs: getattr(self, ours) for ours, theirs in names.items() if getattr(self, ours) is not None}


class Draws:
    """The random streams of the training passes: masks, which differ between processes, and LayerDrop, which does not.

    `begin` starts a batch; every forward pass of it has streams of its own. Without `begin`, everything comes from
    torch's global generator. Holds numbers only, so that a module that has one can be copied and pickled.
    """

    def __init__(self) -> None:
        self._batch: int | None = None
        self._passes = 0

    @property
    def begun(self) -> bool:
        """Whether a batch was started."""
        return self._batch is not None

    def begin(self, generator: torch.Generator) -> None:
        """Start a batch. The generator must be in the same state on all processes."""
        self._batch = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        self._passes = 0

    def next_pass(self) -> None:
        """Start the next forward pass of the batch."""
        self._passes += 1

    def generator(self, stream: int, device: torch.device | str = "cpu") -> torch.Generator | None:
        """The generator of a stream of this pass; None for torch's global one."""
        if self._batch is None:
            return None
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() and stream == MASKS else 0
        entropy = [self._batch, self._passes, stream, rank]
        seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))
        return torch.Generator(device).manual_seed(seed)

    def dropped(self, count: int, probability: float) -> list[bool]:
        """For each of `count` layers, whether LayerDrop skips it; drawn on the CPU, so that no layer waits for a GPU."""
        return (torch.rand(count, generator=self.generator(LAYER_DROP)) < probability).tolist()


def mask_inputs(
    projected: Tensor,
    lengths: Tensor,
    embedding: Tensor | None,
    settings: FineTuning,
    generator: torch.Generator | None,
) -> Tensor:
    """Mask spans of frames and of channels of the transformer's inputs (arXiv 2006.11477, section 4; SpecAugment).

    Args:
        projected: the projected convolution features, `(batch, frames, dim)`.
        lengths: valid frames of each row, int64 `(batch,)`.
        embedding: the mask embedding, `(dim,)`; only needed for time masks.
        settings: probabilities and lengths of the spans.
        generator: on the device of `lengths`; None for the global one.

    Returns:
        `(batch, frames, dim)`. The embedding is part of the graph even if no frame is masked: DDP waits for its gradient.
    """
    batch, frames, dim = projected.shape
    if settings.time_mask_probability > 0 and embedding is not None:
        spans = SpanMasking(settings.time_mask_probability, settings.time_mask_frames, FEWEST_SPANS, equalise=False)
        mask = spans(lengths, frames, generator)
        projected = torch.where(mask[:, :, None], embedding.to(projected.dtype), projected)
    if settings.channel_mask_probability > 0:
        channels = min(settings.channel_mask_channels, dim)
        spans = SpanMasking(settings.channel_mask_probability, channels, 0, equalise=False)
        bands = spans(lengths.new_full((batch,), dim), dim, generator)
        projected = projected.masked_fill(bands[:, None, :], 0.0)
    return projected


def skip_layer(x: Tensor, bias: Tensor | None, parameters: Iterable[Tensor]) -> Tensor:
    """A layer that LayerDrop skips: `x` unchanged, and zeros as gradients of the layer's parameters; see `DroppedLayer`."""
    return DroppedLayer.apply(x, bias, *parameters)


def new_mask_embedding(dim: int) -> Tensor:
    """A mask embedding for an encoder that comes without one, `(dim,)`: as wav2vec 2.0 starts it, the same in every run."""
    return torch.rand(dim, generator=torch.Generator().manual_seed(0))
