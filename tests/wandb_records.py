"""Reads a `.wandb` file: the records of a run, as the offline mode keeps them for `wandb sync`."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7


def chunks(path: Path) -> Iterator[bytes]:
    """Payloads of a LevelDB log: blocks of records (checksum, length, kind: whole, first, middle, last); wandb's own file
    header of seven bytes comes before."""
    content = path.read_bytes()
    place, parts = HEADER, []
    while place + HEADER <= len(content):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        parts.append(content[place + HEADER : place + HEADER + length])
        place += HEADER + length
        if kind in (1, 4):
            yield b"".join(parts)
            parts = []


def records(path: Path) -> list[Any]:
    """The protobuf records of a run."""
    from wandb.proto.wandb_internal_pb2 import Record

    return [Record.FromString(chunk) for chunk in chunks(path)]
