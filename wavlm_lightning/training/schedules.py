"""Learning rate over steps: linear warm-up, then linear or cosine decay to zero."""

from __future__ import annotations

import math
from typing import Literal


def learning_rate_factor(step: int, total: int, warmup: float, decay: Literal["linear", "cosine"] = "linear") -> float:
    """Factor on the peak learning rate, 0 to 1, after `step` of `total` updates.

    `warmup` is the share of the run over which the rate rises from zero (0.08 in HuBERT and WavLM).
    """
    climb = max(1.0, warmup * total)
    if step < climb:
        return step / climb
    rest = min(1.0, (step - climb) / max(1.0, total - climb))
    return 1.0 - rest if decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * rest))
