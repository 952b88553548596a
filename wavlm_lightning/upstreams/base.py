"""`Upstream`: the contract between encoders and downstream tasks, and how an encoder takes part in training."""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from wavlm_lightning.audio import SHORTEST
from wavlm_lightning.audio.mel import FRAME_CENTRE
from wavlm_lightning.encoder import Layers
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.upstreams.fine_tuning import MASKS, Draws, FineTuning, mask_inputs
from wavlm_lightning.upstreams.run_checkpoints import RECORD_KEY


class Upstream(nn.Module, ABC):
    """Turns waveforms into `Layers`; frozen by default.

    A subclass sets `label`, `dim`, `num_layers` and `frame_rate`, and implements `layers`. The output for an utterance
    must not depend on the padding or on the other rows of the batch. A subclass that can be fine-tuned layer by layer
    also has `blocks`, `waveform_convolutions`, `after_blocks` and `mask_embedding`, and calls `mask_inputs` and `dropped_layers`.

    Args:
        frozen: keep it in eval mode, without gradients; false trains it with the head.
        differentiable: of a frozen one, let gradients reach the waveform (and not the weights), for a network in front of
            it or a loss on its features. The backward pass then needs its activations, and features cannot be cached.
        fine_tuning: of one that is trained, how; see `FineTuning`. Left out, all of it is trained at the head's learning rate
            from the first update, without masks.

    Attributes:
        label: name in tables.
        dim: features per frame.
        num_layers: number of hidden states.
        frame_rate: frames per second.
        first_centre: sample at which the first frame is centred: the middle of what an encoder hears for it.
        random: the preset of an encoder whose weights are random at the start; None for weights that something has trained,
            and where there is nothing to train.
        shortest: samples of the shortest utterance, which has one frame.
        typical: mean and spread of its features in speech, by which a head scales them that must hear their level; (0, 1) for
            those of an encoder.
        labelled: labelled speech that its weights have learned from, an entry a corpus (`utterances`, `seconds`, `corpus`); empty
            if there was none, or if the source does not say.
        source_argument: the argument of `__init__` that also takes the checkpoint of a run that trained it; None if there
            is none.

    Raises:
        UserError: the arguments contradict each other, or ask for something that this kind of upstream cannot do.

    Example:
        >>> layers = Fbank()(torch.randn(2, 16000), torch.tensor([16000, 12000]))
        >>> layers.hidden.shape
        torch.Size([1, 2, 98, 240])
    """

    label: str
    dim: int
    num_layers: int
    frame_rate: float
    shortest: int = SHORTEST
    first_centre: int = FRAME_CENTRE
    typical: tuple[float, float] = (0.0, 1.0)
    random: str | None = None
    labelled: Sequence[Mapping[str, Any]] = ()
    _noted = False  # `note_random` has spoken
    source_argument: ClassVar[str | None] = None

    def __init__(
        self, frozen: bool = True, differentiable: bool = False, fine_tuning: FineTuning | None = None
    ) -> None:
        super().__init__()
        if frozen and fine_tuning is not None:
            raise UserError(
                "upstream.fine_tuning is set, but upstream.frozen is true; set frozen: false, or remove fine_tuning"
            )
        if differentiable and not frozen:
            raise UserError(
                "upstream.differentiable is for a frozen encoder, and upstream.frozen is false: a trained one passes "
                "gradients anyway; remove one of them"
            )
        self.frozen, self.differentiable, self.fine_tuning = frozen, differentiable, fine_tuning
        self._fingerprint: str | None = None
        self._update = 0
        self._draws = Draws()
        self._keep: Sequence[int] | None = None  # see `forward`

    # What a subclass says about its parts.

    def blocks(self) -> list[nn.Module]:
        """The transformer layers from below; empty if there are none, or if the class does not say."""
        return []

    def waveform_convolutions(self) -> nn.Module | None:
        """The convolutions over the waveform, which fine-tuning leaves frozen by default."""
        return None

    def after_blocks(self) -> list[nn.Module]:
        """What lies above the last transformer layer: the final norm of pre-norm models."""
        return []

    @property
    def mask_embedding(self) -> nn.Parameter | None:
        """What stands for masked frames, `(dim,)`."""
        return None

    def freeze(self) -> None:
        """Apply `frozen` and `fine_tuning` to the parameters; a subclass calls it at the end of its `__init__`."""
        if self.frozen:
            self.requires_grad_(False)
            self.eval()
        else:
            # What was read from a checkpoint is in eval mode, and Lightning leaves every module in the mode it finds: the
            # dropouts of the encoder would be off.
            self.train()
            if self.fine_tuning is not None:
                self._choose_parameters(self.fine_tuning)
        # Without time masks its embedding never gets a gradient, and DDP stops at parameters without one.
        if self.fine_tuning is None or self.fine_tuning.time_mask_probability == 0:
            for name, parameter in self.named_parameters():
                if name.endswith("masked_spec_embed"):
                    parameter.requires_grad_(False)

    def _choose_parameters(self, settings: FineTuning) -> None:
        count, kind = len(self.blocks()), type(self).__name__
        if count == 0 and (asked := settings.needs_layers()):
            raise UserError(
                f"upstream.fine_tuning.{asked[0]}: {kind} does not say which its transformer layers are (`blocks`); remove "
                "it or use another upstream"
            )
        if settings.masks and self.mask_embedding is None:
            raise UserError(
                f"upstream.fine_tuning.{'time' if settings.time_mask_probability else 'channel'}_mask_probability: {kind} "
                "cannot mask its inputs (`mask_embedding`); set it to 0 or use another upstream"
            )
        chosen, depths = settings.chosen(count), self._depths()
        for parameter in self.parameters():
            parameter.requires_grad_(depths.get(parameter, 0) in chosen)
        if not settings.convolutions and (convolutions := self.waveform_convolutions()) is not None:
            convolutions.requires_grad_(False)

    def _depths(self) -> dict[nn.Parameter, int]:
        """The number of the layer that each parameter belongs to, see `FineTuning`; parameters of layer 0 are left out."""
        blocks = self.blocks()
        depths = {parameter: k for k, block in enumerate(blocks, start=1) for parameter in block.parameters()}
        return depths | {parameter: len(blocks) for module in self.after_blocks() for parameter in module.parameters()}

    # How it takes part in training.

    @property
    def trained(self) -> bool:
        """Whether the weights are trained with the head: the opposite of `frozen`."""
        return not self.frozen

    @property
    def waits(self) -> bool:
        """Whether a trained encoder still runs without gradients, because `from_update` has not come."""
        return self.trained and self.fine_tuning is not None and self._update < self.fine_tuning.from_update

    @property
    def from_source(self) -> tuple[str, ...]:
        """What the names of frozen weights begin with: they come from their source, and no checkpoint of a head holds them."""
        return ("",) if self.frozen else ()

    def source_fingerprint(self) -> str:
        """Fingerprint of what comes from its source, by which a head recognises the upstream that it was trained on."""
        return self.fingerprint()

    def begin_update(self, update: int, generator: torch.Generator) -> None:
        """Prepare the next training batch; a task calls it before each, frozen or not.

        Args:
            update: updates of the optimiser made so far in the whole run.
            generator: whose state depends on the seed and the place in the run alone, and is the same on all processes.
                One number is drawn from it. LayerDrop of the batch follows from that number, its masks from that number
                and the rank of the process.
        """
        self._update = update
        self._draws.begin(generator)

    def parameter_groups(self, learning_rate: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """The trained parameters in groups for an optimiser, each with the learning rate of its layers.

        Args:
            learning_rate: of the head, for which `fine_tuning.learning_rate` and `layer_decay` may stand in.
            weight_decay: of matrices and kernels; biases, norms and other vectors are spared.

        Returns:
            Groups with `params`, `lr`, `weight_decay` and `name`; none if the upstream is frozen. Call it again after the
            parameters were replaced, as FSDP2 does.
        """
        if self.frozen:
            return []
        settings = self.fine_tuning or FineTuning()
        rate, decay = settings.learning_rate or learning_rate, settings.layer_decay
        count, depths = len(self.blocks()), self._depths()
        groups: dict[str, dict[str, Any]] = {}
        for parameter in self.parameters():
            if not parameter.requires_grad:
                continue
            layer = depths.get(parameter, 0)
            # Squeezed: gates and the norms of the weight norm are vectors with further dimensions of 1.
            spared = weight_decay > 0 and parameter.squeeze().ndim <= 1
            name = ("encoder" if decay == 1 else f"encoder.layer{layer}") + (".vectors" if spared else "")
            if name not in groups:
                groups[name] = {
                    "params": [],
                    "lr": rate * decay ** (count - layer),
                    "weight_decay": 0.0 if spared else weight_decay,
                    "name": name,
                }
            groups[name]["params"].append(parameter)
        return list(groups.values())

    def mask_inputs(self, projected: Tensor, lengths: Tensor) -> Tensor:
        """Time and channel masks on the transformer's inputs `(batch, frames, dim)`, in training mode only."""
        if not self.training or self.fine_tuning is None or not self.fine_tuning.masks:
            return projected
        generator = self._draws.generator(MASKS, lengths.device)
        return mask_inputs(projected, lengths, self.mask_embedding, self.fine_tuning, generator)

    def dropped_layers(self, probability: float | None = None) -> list[bool] | None:
        """For each transformer layer, whether LayerDrop skips it in this pass; None if nothing is dropped.

        The probability is that of `fine_tuning`; without one the given one of the encoder's configuration, if `begin_update`
        was called (otherwise the encoder draws for itself).
        """
        if self.fine_tuning is not None:
            probability = self.fine_tuning.layer_drop
        elif not self._draws.begun:
            return None
        if not self.training or not probability:
            return None
        return self._draws.dropped(len(self.blocks()), probability)

    def train(self, mode: bool = True) -> Upstream:
        """Set the mode; frozen upstreams stay in eval mode, and so do batch norms of fine-tuned ones."""
        super().train(mode and not self.frozen)
        if self.fine_tuning is not None:  # or an utterance's features would depend on its batch
            for module in self.modules():
                if isinstance(module, nn.BatchNorm1d):
                    module.eval()
        return self

    @abstractmethod
    def layers(self, waveforms: Tensor, lengths: Tensor) -> Layers:
        """Hidden states of a batch.

        Args:
            waveforms: float32 `(batch, samples)` in [-1, 1], zero-padded at the end of a row.
            lengths: samples of each row, int64 `(batch,)`.
        """

    def forward(self, waveforms: Tensor, lengths: Tensor, keep: Sequence[int] | None = None) -> Layers:
        """`layers`, without gradients if frozen (unless `differentiable`) or before `from_update`.

        `keep` names the hidden states that the caller reads, from 0 or, backwards, from -1. An upstream that can leave out the
        others may do so, which saves memory; it returns those named, in this order, or all: -1 is the last one of either.
        """
        if self.training:
            self._draws.next_pass()
        self._keep = keep
        try:
            if (self.differentiable and waveforms.requires_grad) or (self.trained and not self.waits):
                return self.layers(waveforms, lengths)
            # Not inference_mode: the weighted sum of the head saves these tensors for its backward.
            with torch.no_grad():
                return self.layers(waveforms, lengths)
        finally:
            self._keep = None

    # What a checkpoint keeps.

    def rebuilding(self) -> Mapping[str, Any]:
        """What its class must know, beside the weights, to build it without its source; JSON-like."""
        return {}

    def checkpoint_entries(self, prefix: str = "upstream.") -> dict[str, Any]:
        """What the checkpoint of a run that trains it holds beside its weights, whose names begin with `prefix`."""
        return {
            RECORD_KEY: {
                "class": f"{type(self).__module__}.{type(self).__qualname__}",
                "argument": self.source_argument,
                "prefix": prefix,
                "label": self.label,
                **self.rebuilding(),
            }
        }

    def describe(self) -> dict[str, Any]:
        """The entry `upstream` of a result card."""
        return {
            "label": self.label,
            **({"random": self.random} if self.frozen and self.random else {}),
            "class": type(self).__name__,
            "sha256": self.fingerprint(),
            **({"trained": True} if self.trained else {}),
            "parameters": sum(p.numel() for p in self.parameters()),
            "frame_rate": self.frame_rate,
            "layers": self.num_layers,
            **({"labelled": [dict(entry) for entry in self.labelled]} if self.labelled else {}),
        }

    def note_random(self, task: str) -> None:
        """Say once that a task begins with an encoder whose weights nothing has trained."""
        if self.random is None or self._noted:
            return
        self._noted = True
        use = "its score is that of a control" if self.frozen else "the encoder is trained from there"
        rank_zero_info(f"{task}: the encoder starts from random weights ({self.random}), and {use}")

    def fingerprint(self) -> str:
        """Hash of class, settings and weights: two upstreams with the same fingerprint give the same features.

        A class outside the package counts with its code; comments, docstrings and layout do not matter.
        """
        if self._fingerprint is not None:
            return self._fingerprint
        keep = self.frozen
        digest = hashlib.sha256(f"{_identity(type(self))} {self.settings()}".encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode())
            if sharded := hasattr(value, "full_tensor"):  # then all processes are here
                value = value.full_tensor()
            digest.update(value.detach().cpu().contiguous().float().numpy().tobytes())
            keep = keep or sharded
        if keep:
            self._fingerprint = digest.hexdigest()
        return digest.hexdigest()

    def settings(self) -> str:
        """Everything besides class and weights that changes the features, as text."""
        return ""


_LIBRARIES = ("torch", "abc", "builtins", "typing")  # whose classes an upstream derives from


def _identity(kind: type) -> str:
    """What tells the class of an upstream from another: its name, and for code outside the package the code itself."""
    package = __name__.partition(".")[0]
    codes = [_code(each) for each in kind.__mro__ if each.__module__.partition(".")[0] not in (package, *_LIBRARIES)]
    return " ".join([kind.__qualname__, *codes])


def _code(kind: type) -> str:
    """A class as written, without comments, docstrings and layout; its module where there is no source, as in a shell."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError, SyntaxError):
        return f"{kind.__module__}.{kind.__qualname__}"
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()
