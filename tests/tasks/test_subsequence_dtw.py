"""Against dtw-python and scipy, which s3prl uses, over random lengths and padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dtw import dtw
from scipy.spatial.distance import cdist

from wavlm_lightning.tasks import subsequence_dtw
from wavlm_lightning.tasks.subsequence_dtw import frame_distances, pack_queries, subsequence_costs

DISTANCES = ("cosine_exp", "cosine", "euclidean", "cityblock")


def reference(query: np.ndarray, document: np.ndarray, distance: str) -> float:
    """Cost of `(frames, dim)` in `(frames, dim)`."""
    matrix = cdist(query, document, distance.removesuffix("_exp"))
    if distance == "cosine_exp":
        matrix = np.exp(matrix) - 1
    low, high = matrix.min(1, keepdims=True), matrix.max(1, keepdims=True)
    scaled = (matrix - low) / np.clip(high - low, 1e-9, None)
    return dtw(scaled, step_pattern="asymmetric", open_begin=True, open_end=True).normalizedDistance


def padded(documents: list[np.ndarray], fill: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Documents `(layers, frames, dim)` as `(layers, documents, frames, dim)` with anything behind their ends."""
    lengths = [document.shape[1] for document in documents]
    layers, _, dim = documents[0].shape
    stacked = torch.full((layers, len(documents), max(lengths), dim), fill)
    for place, document in enumerate(documents):
        stacked[:, place, : lengths[place]] = torch.from_numpy(document).float()
    return stacked, torch.tensor(lengths)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("longest", [3, 20])
def test_costs_are_those_of_dtw_python(distance, longest, monkeypatch):
    rng = np.random.default_rng(longest)
    queries = [rng.standard_normal((n, 2, 4)) for n in [1, 2, *rng.integers(1, longest + 1, 4)]]
    documents = [rng.standard_normal((2, n, 4)) for n in [1, 2, *rng.integers(1, 2 * longest, 4)]]
    packed = pack_queries([torch.from_numpy(query).float() for query in queries], distance)
    stacked, lengths = padded(documents, fill=1e3)
    costs = subsequence_costs(packed, stacked, lengths, distance)
    assert costs.shape == (2, len(queries), len(documents))
    for layer in range(2):
        for one, query in enumerate(queries):
            for other, document in enumerate(documents):
                wanted = reference(query[:, layer], document[layer], distance)
                assert costs[layer, one, other].item() == pytest.approx(wanted, abs=2e-6)
    monkeypatch.setitem(subsequence_dtw.CELLS, "cpu", 1)  # one layer at a time
    assert torch.allclose(subsequence_costs(packed, stacked, lengths, distance), costs, atol=2e-6)


def test_a_query_is_found_where_it_is_said_even_slower_or_faster():
    torch.manual_seed(0)
    query = torch.randn(12, 1, 16)
    slower, faster = query.repeat_interleave(2, 0), query[::2]
    others = [torch.randn(length, 1, 16) for length in (5, 9)]
    holding = torch.cat([others[0], query, others[1]]).transpose(0, 1)
    stretched = torch.cat([others[0], slower, others[1]]).transpose(0, 1)
    hurried = torch.cat([others[0], faster, others[1]]).transpose(0, 1)
    without = torch.randn(1, 26, 16)
    stacked, lengths = padded([d.numpy() for d in (holding, stretched, hurried, without)], fill=0.0)
    costs = subsequence_costs(pack_queries([query], "cosine_exp"), stacked, lengths)[0, 0]
    assert costs[0] == pytest.approx(0, abs=1e-6)
    # A step of 0 or 1 frames cannot follow twice the tempo, but that of 2 frames follows it exactly.
    assert costs[1] == pytest.approx(0, abs=1e-6)
    assert costs[0] < costs[2] < costs[3]


def test_a_document_that_never_changes_costs_nothing():
    """Its distances have no range: the floor of the range keeps 0 / 0 away."""
    query, document = torch.randn(6, 1, 3), torch.ones(1, 1, 4, 3)
    costs = subsequence_costs(pack_queries([query], "cosine"), document, torch.tensor([4]), "cosine")
    assert costs.tolist() == [[[0.0]]]


@pytest.mark.parametrize("distance", ["euclidean", "cityblock"])
def test_distances_that_length_matters_to(distance):
    rng = np.random.default_rng(0)
    queries, documents = rng.standard_normal((3, 5, 7)), rng.standard_normal((3, 40, 7))
    ours = frame_distances(torch.from_numpy(queries), torch.from_numpy(documents), distance)
    for layer in range(3):
        assert np.allclose(ours[layer], cdist(queries[layer], documents[layer], distance), atol=1e-12)
