"""What stands at the beginning of a safetensors file: read without mapping the file, for hundreds of thousands of them.

Source: https://huggingface.co/docs/safetensors: 8 bytes of length, that much JSON, then the tensors, at offsets from there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Header:
    """A header.

    Attributes:
        metadata: strings by name.
        tensors: `dtype`, `shape` and `data_offsets` by name.
        begin: first byte of the tensors.
    """

    metadata: dict[str, str]
    tensors: dict[str, dict[str, Any]]
    begin: int

    @property
    def bytes(self) -> int:
        """Of the whole file."""
        return self.begin + max(tensor["data_offsets"][1] for tensor in self.tensors.values())

    def place(self, name: str) -> tuple[int, int]:
        """First byte of a tensor, and one past its last."""
        first, end = self.tensors[name]["data_offsets"]
        return self.begin + first, self.begin + end


def header_end(content: bytes) -> int:
    """Bytes up to the first tensor.

    Args:
        content: at least the first 8 bytes of a file.
    """
    return 8 + int.from_bytes(content[:8], "little")


def parse_header(content: bytes) -> Header:
    """The header of a file.

    Args:
        content: the file, or as much of its beginning as the header takes.

    Raises:
        ValueError: this is no safetensors file.
    """
    end = header_end(content)
    if len(content) < max(end, 9):
        raise ValueError(f"a header of {end} bytes in {len(content)}")
    tensors = json.loads(content[8:end])
    if not isinstance(tensors, dict):
        raise ValueError("its header is no object")
    return Header(tensors.pop("__metadata__", {}), tensors, end)
