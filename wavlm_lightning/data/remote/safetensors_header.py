"""Parse the header of a safetensors file without mapping the file, which is too slow for hundreds of thousands of files.

Source: https://huggingface.co/docs/safetensors: 8 bytes of length, that much JSON, then the tensors, at offsets from there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file: its metadata, and `dtype`, `shape` and `data_offsets` of each tensor."""

    metadata: dict[str, str]
    tensors: dict[str, dict[str, Any]]
    begin: int  # first byte of the tensors

    @property
    def bytes(self) -> int:
        """Size of the whole file."""
        return self.begin + max(tensor["data_offsets"][1] for tensor in self.tensors.values())

    def place(self, name: str) -> tuple[int, int]:
        """First byte of a tensor, and one past its last byte."""
        first, end = self.tensors[name]["data_offsets"]
        return self.begin + first, self.begin + end


def header_end(content: bytes) -> int:
    """Bytes up to the first tensor, from at least the first 8 bytes of the file."""
    return 8 + int.from_bytes(content[:8], "little")


def parse_header(content: bytes) -> Header:
    """Parse the header in a file, or in its beginning up to the first tensor; `ValueError` if it is not one."""
    end = header_end(content)
    if len(content) < max(end, 9):
        raise ValueError(f"a header of {end} bytes in {len(content)}")
    try:
        tensors = json.loads(content[8:end])
    except RecursionError as error:
        raise ValueError("its header is nested too deeply") from error
    if not isinstance(tensors, dict):
        raise ValueError("its header is not an object")
    return Header(tensors.pop("__metadata__", {}), tensors, end)
