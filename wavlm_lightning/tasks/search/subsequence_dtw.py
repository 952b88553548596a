"""Subsequence dynamic time warping in torch: cost of the best match of spoken queries inside spoken documents.

Used on GPUs; `compiled_dtw` gives the same many times faster on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

Distance = Literal["cosine_exp", "cosine", "euclidean", "cityblock"]
RANGE_FLOOR = 1e-9
# Path costs held at once, by device: as many as fit a CPU's caches, and 256 MiB on a GPU.
CELLS = {"cpu": 1 << 20, "cuda": 1 << 26}


def pack_queries(queries: Sequence[Tensor], distance: Distance) -> PackedSequence:
    """Pack queries, each `(frames, layers, dim)`, by frame, in the order in which `subsequence_costs` processes them."""
    return pack_sequence([directions(query, distance) for query in queries], enforce_sorted=False)


def subsequence_costs(
    queries: PackedSequence, documents: Tensor, lengths: Tensor, distance: Distance = "cosine_exp"
) -> Tensor:
    """Cost of the cheapest path of each query through each document, divided by the query's frames.

    A path takes every frame of the query in turn and, in the document, starts and ends anywhere and advances by 0, 1 or
    2 frames at each step: step pattern `asymmetric` of the R and Python packages dtw, with open begin and end (Giorgino
    2009; s3prl `downstream/quesst14_dtw`). The distances of a query frame are first scaled to 0...1 over the document's
    frames.

    A step depends on the previous query frame alone, never on its neighbours in the document, so all documents, queries
    and layers advance together, one query frame at a time.

    Args:
        queries: from `pack_queries`, with the same distance.
        documents: `(layers, documents, frames, dim)`.
        lengths: valid frames of each document, int64 `(documents,)`, at least 1.
        distance: see `frame_distances`.

    Returns:
        float32 `(layers, queries, documents)`, the queries in the order in which they were packed.

    Example:
        >>> packed = pack_queries([torch.randn(30, 13, 768), torch.randn(45, 13, 768)], "cosine_exp")
        >>> subsequence_costs(packed, torch.randn(13, 5, 300, 768), torch.full((5,), 300)).shape
        torch.Size([13, 2, 5])
    """
    count, longest = documents.shape[1], documents.shape[2]
    most, rest = int(queries.batch_sizes[0]), count * longest
    budget = CELLS.get(documents.device.type, CELLS["cpu"])
    # Padding becomes copies of the document's last frame. They change neither a row's range nor the cheapest path: a path
    # that continues into them costs as much as one that stays on the last frame, which is allowed.
    places = torch.minimum(torch.arange(longest, device=lengths.device)[None, :], lengths[:, None] - 1)
    frames = documents[:, torch.arange(count, device=lengths.device)[:, None], places].flatten(1, 2)
    frames = directions(frames, distance)
    step = max(1, budget // (most * rest))
    parts = [
        _costs(queries, slice(begin, begin + step), frames[begin : begin + step], count, distance)
        for begin in range(0, documents.shape[0], step)
    ]
    return torch.cat(parts)


def _costs(queries: PackedSequence, layers: slice, frames: Tensor, documents: int, distance: Distance) -> Tensor:
    """`subsequence_costs` of some layers, from document frames `(layers, documents x frames, dim)`."""
    sizes = queries.batch_sizes.tolist()
    costs = frames.new_empty(frames.shape[0], sizes[0], documents)
    paths = frames.new_empty(0)
    begin = 0
    for number, size in enumerate(sizes):
        rows = queries.data[begin : begin + size, layers].transpose(0, 1)
        here = frame_distances(rows, frames, distance).unflatten(2, (documents, -1))
        low, high = here.aminmax(dim=3, keepdim=True)
        here = here.sub_(low).div_((high - low).clamp_(min=RANGE_FLOOR))
        if number:
            # Two infinite columns before the first frame: paths cannot come from there.
            before = nn.functional.pad(paths[:, :size], (2, 0), value=torch.inf)
            here += torch.minimum(before[..., 2:], before[..., 1:-1]).minimum(before[..., :-2])
        paths = here
        begin += size
        # Packed queries are sorted by length, so those that end at this frame are the last rows.
        ended = sizes[number + 1] if number + 1 < len(sizes) else 0
        costs[:, ended:size] = paths[:, ended:].amin(3) / (number + 1)
    order = queries.unsorted_indices
    return costs if order is None else costs[:, order]


def frame_distances(queries: Tensor, documents: Tensor, distance: Distance) -> Tensor:
    """Distances `(layers, queries, frames)` of `(layers, queries, dim)` to `(layers, frames, dim)`.

    `cosine` is 1 - cos and `cosine_exp` exp(1 - cos) - 1, SUPERB's choice; both need frames of length 1.
    """
    if distance in ("cosine", "cosine_exp"):
        with torch.autocast(queries.device.type, enabled=False):  # they are stretched afterwards, with their rounding
            cosines = 1 - queries @ documents.to(queries).transpose(1, 2)
        return cosines.expm1_() if distance == "cosine_exp" else cosines
    if distance == "cityblock":
        return torch.cdist(queries, documents, p=1.0)
    return torch.cdist(queries, documents, compute_mode="donot_use_mm_for_euclid_dist")


def directions(frames: Tensor, distance: Distance) -> Tensor:
    """Frames `(..., dim)`, scaled to length 1 for the cosine distances."""
    return nn.functional.normalize(frames, dim=-1) if distance.startswith("cosine") else frames
