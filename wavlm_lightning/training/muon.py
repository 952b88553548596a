"""Muon for the matrices of the transformer and AdamW for all else, as one optimiser; what Muon costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.system.errors import UserError

NAME = "matrices"  # of Muon's parameter group
# The linear layers of a transformer layer. Not the gate of the position bias (8 rows) and not its table, an embedding.
MATRICES = ("q_proj", "k_proj", "v_proj", "out_proj", "intermediate_dense", "output_dense")


@dataclass(frozen=True)
class Muon:
    """Muon (Jordan et al. 2024) for the weights of attention and feed-forward blocks, with torch.optim.Muon.

    An update of a matrix is its momentum with all singular values brought near 1 by Newton-Schulz steps in bf16. The other
    parameters (convolutions, embeddings, norms, biases, objectives) keep AdamW. Both follow `model.schedule`.

    Args:
        learning_rate: peak of the schedule for the matrices; that of the model if left out, which suits
            `scale: match_rms_adamw`. `original` wants about 0.02.
        weight_decay: of the matrices; that of the model if left out.
        momentum: of the gradient, with Nesterov's look ahead.
        newton_schulz_steps: of each update.
        scale: factor on the rate of a matrix of A rows and B columns. `match_rms_adamw`: 0.2 √max(A, B), so that updates are
            as large as AdamW's (arXiv 2502.16982); `original`: √max(1, A / B).

    Example:
        >>> # in a YAML of pre-training: muon: {learning_rate: 3.0e-3}
        >>> Muon(learning_rate=3e-3)
    """

    learning_rate: float | None = None
    weight_decay: float | None = None
    momentum: float = 0.95
    newton_schulz_steps: int = 5
    scale: Literal["match_rms_adamw", "original"] = "match_rms_adamw"

    def __post_init__(self) -> None:
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise UserError(f"model.muon.learning_rate {self.learning_rate:g}: it must be above 0")
        if self.weight_decay is not None and self.weight_decay < 0:
            raise UserError(f"model.muon.weight_decay {self.weight_decay:g}: it must not be negative")
        if not 0 <= self.momentum < 1:
            raise UserError(f"model.muon.momentum {self.momentum:g}: it must be from 0 to below 1, such as 0.95")
        if not 1 <= self.newton_schulz_steps <= 20:
            raise UserError(f"model.muon.newton_schulz_steps {self.newton_schulz_steps}: give 1 to 20, such as 5")


def matrices(layers: Iterable[nn.Module]) -> list[nn.Parameter]:
    """The trained weights `(outputs, inputs)` of attention and feed-forward blocks in transformer layers."""
    return [
        module.weight
        for layer in layers
        for name, module in layer.named_modules()
        if name.rpartition(".")[2] in MATRICES and isinstance(module, nn.Linear) and module.weight.requires_grad
    ]


def shapes(config: WavLMConfig) -> list[tuple[int, int]]:
    """The sizes of these matrices in an encoder, from its configuration."""
    blocks = [(config.dim, config.dim)] * 4 + [(config.ffn_dim, config.dim), (config.dim, config.ffn_dim)]
    return blocks * config.layers


def newton_schulz_flops(config: WavLMConfig, steps: int) -> float:
    """Operations of Muon in an update, which every process makes: per step X Xᵀ, its square, and a product with X."""
    short_long = [sorted(shape) for shape in shapes(config)]
    return float(steps * sum(2 * m * m * n + 2 * m**3 + 2 * m * m * n for m, n in short_long))


class MuonAndAdamW(torch.optim.Optimizer):
    """One optimiser of two kinds of parameter groups: those of AdamW first, then one of Muon.

    It has one state dict, so that schedules, checkpoints and Lightning see a single optimiser.

    Args:
        adamw: over all other parameters.
        weights: matrices `(outputs, inputs)` for Muon.
        how: settings of Muon with both rates set.
    """

    def __init__(self, adamw: torch.optim.AdamW, weights: list[nn.Parameter], how: Muon) -> None:
        assert how.learning_rate is not None and how.weight_decay is not None
        self.adamw = adamw
        self.muon = torch.optim.Muon(
            [{"params": weights, "name": NAME}],
            lr=how.learning_rate,
            weight_decay=how.weight_decay,
            momentum=how.momentum,
            ns_steps=how.newton_schulz_steps,
            adjust_lr_fn=how.scale,
        )
        super().__init__([*adamw.param_groups, *self.muon.param_groups], {})
        self._share()

    def _share(self) -> None:
        # The groups and the state of the two are those of this optimiser, which schedules and checkpoints change.
        self.adamw.param_groups, self.muon.param_groups = self.param_groups[:-1], self.param_groups[-1:]
        self.adamw.state = self.muon.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load both; torch replaces groups and state."""
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.adamw.step()
        self.muon.step()
        return loss
