"""kNN-VC's matching: each frame of a source becomes the mean of the nearest frames of a voice (Baas et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wavlm_lightning.system.errors import UserError

MOST_SIMILARITIES = 2**25  # in memory at a time: 128 MB


@dataclass(frozen=True)
class Frames:
    """A recording, or all recordings of a voice, frame by frame.

    Attributes:
        searched: features that are compared, `(frames, dim)`.
        spoken: what a vocoder hears of the same frames, `(frames, any other dim)`.
    """

    searched: Tensor
    spoken: Tensor

    def __len__(self) -> int:
        return len(self.searched)

    @classmethod
    def joined(cls, parts: list[Frames]) -> Frames:
        return cls(torch.cat([part.searched for part in parts]), torch.cat([part.spoken for part in parts]))


def nearest_frames(queries: Tensor, searched: Tensor, k: int, allowed: Tensor | None = None) -> Tensor:
    """Numbers of the `k` frames with the highest cosine, best first, int64 `(queries, k)`.

    Args:
        queries: `(queries, dim)`.
        searched: `(frames, dim)`, at least `k`.
        k: neighbours.
        allowed: bool `(frames,)`, the frames that may be chosen; all by default.

    Raises:
        UserError: fewer than `k` frames may be chosen.
    """
    there = len(searched) if allowed is None else int(allowed.sum())
    if not 1 <= k <= there:
        raise UserError(
            f"{k} nearest frames of a voice of {there} frames; give more speech of that voice, or a smaller k"
        )
    normalised = torch.nn.functional.normalize(searched.float(), dim=1)
    found = []
    # A product of unit vectors: the square of a distance would lose digits.
    for part in queries.float().split(max(1, MOST_SIMILARITIES // len(searched))):
        with torch.autocast(part.device.type, enabled=False):  # neighbours differ in the third digit of their cosines
            similarity = torch.nn.functional.normalize(part, dim=1) @ normalised.T
        if allowed is not None:
            similarity = similarity.masked_fill(~allowed, -torch.inf)
        found.append(similarity.topk(k, dim=1).indices)
    return torch.cat(found) if found else torch.zeros(0, k, dtype=torch.int64)


def spoken_by(source: Tensor, voice: Frames, k: int) -> Tensor:
    """What the voice says for each frame of a source `(frames, dim)`: the mean of its `k` nearest frames, `(frames, any)`."""
    return voice.spoken[nearest_frames(source, voice.searched, k)].mean(1)
