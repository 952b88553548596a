"""What was computed from parameters, kept beside them for as long as they stand.

It is found by the parameters themselves. So a module's names, checkpoints and copies know nothing of it, it goes when the
parameters go, and once they are written to or moved it is no longer found. The one exception is a write in place through
`.data`, which PyTorch hides from everyone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

_kept: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""By the first parameter: what for -> the stamps of all of them, and the value."""


def keep(purpose: str, parameters: Sequence[Tensor], value: Any) -> None:
    """Keep a value.

    Args:
        purpose: what it is for; the same parameters may serve several.
        parameters: all that it was computed from; it is found by the same ones in the same order.
        value: it must not refer to the parameters, or they would never go.
    """
    _kept.setdefault(parameters[0], {})[purpose] = (_stamps(parameters), value)


def kept(purpose: str, parameters: Sequence[Tensor]) -> Any | None:
    """What was kept, or None: where nothing was, a parameter has changed since, a gradient is wanted, or a compiler looks."""
    if not _kept or torch.compiler.is_compiling():
        return None
    if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters):
        return None
    stamps, value = _kept.get(parameters[0], {}).get(purpose, (None, None))
    return value if stamps is not None and stamps == _stamps(parameters) else None


def forget(parameters: Sequence[Tensor]) -> None:
    """Let go of all that was kept for parameters, whatever for."""
    for parameter in parameters:
        _kept.pop(parameter, None)


def _stamps(parameters: Sequence[Tensor]) -> list[tuple[int, int, int]]:
    """Which tensors these are, and how often each has been written to."""
    return [(id(parameter), parameter._version, parameter.data_ptr()) for parameter in parameters]
