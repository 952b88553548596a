"""`Upstream`: the contract between encoders and downstream tasks."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from wavlm_lightning.encoder import Layers


class Upstream(nn.Module, ABC):
    """Turns waveforms into `Layers`; frozen by default.

    A subclass sets `label`, `dim`, `num_layers` and `frame_rate`, and implements `layers`. The output for an utterance
    must not depend on the padding or on the other rows of the batch.

    Args:
        frozen: keep it in eval mode, without gradients.

    Attributes:
        label: name in tables.
        dim: features per frame.
        num_layers: number of hidden states.
        frame_rate: frames per second.

    Example:
        >>> layers = Fbank()(torch.randn(2, 16000), torch.tensor([16000, 12000]))
        >>> layers.hidden.shape
        torch.Size([1, 2, 98, 240])
    """

    label: str
    dim: int
    num_layers: int
    frame_rate: float

    def __init__(self, frozen: bool = True) -> None:
        super().__init__()
        self.frozen = frozen
        self._fingerprint: str | None = None

    def freeze(self) -> None:
        """Apply `frozen` to the parameters; a subclass calls it at the end of its `__init__`."""
        if self.frozen:
            self.requires_grad_(False)
            self.eval()
        # Tasks draw no mask, so its embedding never gets a gradient, and DDP stops at parameters without one.
        for name, parameter in self.named_parameters():
            if name.endswith("masked_spec_embed"):
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> Upstream:
        """Set the mode; frozen upstreams stay in eval mode."""
        return super().train(mode and not self.frozen)

    @abstractmethod
    def layers(self, waveforms: Tensor, lengths: Tensor) -> Layers:
        """Hidden states of a batch.

        Args:
            waveforms: float32 `(batch, samples)` in [-1, 1], zero-padded at the end of a row.
            lengths: samples of each row, int64 `(batch,)`.
        """

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Layers:
        """`layers`, without gradients if frozen."""
        if not self.frozen:
            return self.layers(waveforms, lengths)
        # Not inference_mode: the weighted sum of the head saves these tensors for its backward.
        with torch.no_grad():
            return self.layers(waveforms, lengths)

    def describe(self) -> dict[str, Any]:
        """The entry `upstream` of a result card."""
        return {
            "label": self.label,
            "class": type(self).__name__,
            "sha256": self.fingerprint(),
            "parameters": sum(p.numel() for p in self.parameters()),
            "frame_rate": self.frame_rate,
            "layers": self.num_layers,
        }

    def fingerprint(self) -> str:
        """Hash of class, settings and weights: two upstreams with the same fingerprint give the same features."""
        if self.frozen and self._fingerprint is not None:
            return self._fingerprint
        digest = hashlib.sha256(f"{type(self).__qualname__} {self.settings()}".encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().float().numpy().tobytes())
        self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def settings(self) -> str:
        """Everything besides class and weights that changes the features, as text."""
        return ""
