"""A teacher: a copy of the encoder that follows it by an exponential moving average (data2vec, DinoSR)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.system.errors import UserError

CONVOLUTIONS = "feature_extractor"
SHARED = (CONVOLUTIONS, "feature_projection", "encoder.pos_conv_embed")


class Teacher(nn.Module):
    """A copy of an encoder without gradients and dropouts; it is in the checkpoint of the run, but in no export.

    Source: data2vec, arXiv 2202.03555, section 3.3; its teacher shares the front-end and the positional convolution with
    the student, which is cheaper and slightly better.

    Args:
        encoder: the encoder that it copies.
        shared: the parts that are taken over as they are after each update instead of averaged, by the beginnings of their
            parameters' names. Shared convolutions run once for encoder and teacher.

    Raises:
        UserError: a shared part is none of the encoder's.
    """

    def __init__(self, encoder: WavLM, shared: Sequence[str] = SHARED) -> None:
        super().__init__()
        for part in shared:
            # By modules: log-mel frames without convolutions have no parameters.
            if not any(f"{name}.".startswith(f"{part}.") for name, _ in encoder.named_modules()):
                raise UserError(f"Teacher: the encoder has no part {part!r} to share; see its parameters' names")
        self.shared = tuple(f"{part}." for part in shared)
        # Not `copy.deepcopy`: the copy of a compiled layer would run the layer that it was copied from.
        with torch.random.fork_rng(devices=[]):
            self.encoder = WavLM(encoder.config)
        self.encoder.load_state_dict(encoder.state_dict())
        if self.shares_convolutions:
            self.encoder.feature_extractor = None  # type: ignore[assignment]
        self.requires_grad_(False)
        self.eval()

    @property
    def shares_convolutions(self) -> bool:
        return f"{CONVOLUTIONS}." in self.shared

    @classmethod
    def parameters_of(cls, config: WavLMConfig, shared: Sequence[str] = SHARED) -> int:
        """Number of a teacher's parameters, for `PassCost`, counted on the meta device."""
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in cls(WavLM(config), shared).parameters())

    def train(self, mode: bool = True) -> Teacher:
        return super().train(False)  # Lightning and `module.train()` switch all that is inside a module

    @torch.no_grad()
    def follow(self, encoder: WavLM, decay: float) -> None:
        """Move each weight to `decay * own + (1 - decay) * encoder`, and those of the shared parts to the encoder's."""
        for name, own, new in self._pairs(encoder):
            if name.startswith(self.shared):
                own.copy_(new)
            else:
                own.lerp_(new, 1 - decay)

    def _pairs(self, encoder: WavLM) -> Iterator[tuple[str, Tensor, Tensor]]:
        theirs = dict(encoder.named_parameters())
        for name, own in self.encoder.named_parameters():
            yield name, _local(own), _local(theirs[name])


def _local(parameter: Tensor) -> Tensor:
    # FSDP2 gives a process the same rows of two parameters of one shape, so that averages need no communication.
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter
