"""A cache of values derived from parameters, dropped when a parameter changes.

Entries are found by the parameters themselves, so state dicts, checkpoints and copies of a module do not contain them. They
go when the parameters go, and are ignored once a parameter has been written to or moved. The exception is a write in
place through `.data`, which PyTorch does not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

_kept: WeakIdKeyDictionary = WeakIdKeyDictionary()  # by first parameter: purpose -> (stamps of all parameters, value)


def keep(purpose: str, parameters: Sequence[Tensor], value: Any) -> None:
    """Store a value under all parameters it was computed from, in order; they may serve several purposes.

    The value must not refer to the parameters, or they would never be freed. Nothing is stored for parameters that were
    made in inference mode, whose changes PyTorch does not count.
    """
    if any(parameter.is_inference() for parameter in parameters):
        return
    _kept.setdefault(parameters[0], {})[purpose] = (_stamps(parameters), value)


def kept(purpose: str, parameters: Sequence[Tensor]) -> Any | None:
    """The stored value; None if there is none, a parameter has changed, a gradient is wanted, or a compiler is tracing."""
    if not _kept or torch.compiler.is_compiling():
        return None
    if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters):
        return None
    stamps, value = _kept.get(parameters[0], {}).get(purpose, (None, None))
    if stamps is not None and any(parameter.is_inference() for parameter in parameters):  # one was replaced
        return None
    return value if stamps is not None and stamps == _stamps(parameters) else None


def held(parameters: Iterable[Tensor]) -> int:
    """Bytes of all values, tensors or tuples of them, that are stored under these parameters."""
    entries = [value for parameter in parameters for _, value in _kept.get(parameter, {}).values()]
    tensors = [tensor for value in entries for tensor in (value if isinstance(value, tuple) else (value,))]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def forget(parameters: Iterable[Tensor]) -> None:
    """Drop all values stored under these parameters, whatever their purpose."""
    for parameter in parameters:
        _kept.pop(parameter, None)


def _stamps(parameters: Sequence[Tensor]) -> list[tuple[int, int, int]]:
    # `_version` counts writes in place; a tensor that `.to()` or `assign=True` has replaced differs in id or address.
    return [(id(parameter), parameter._version, parameter.data_ptr()) for parameter in parameters]
