"""Against dtw-python and scipy, which s3prl uses, over random lengths and padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dtw import dtw
from scipy.spatial.distance import cdist

from wavlm_lightning.tasks.search import compiled_dtw, subsequence_dtw
from wavlm_lightning.tasks.search.compiled_dtw import CompiledQueries
from wavlm_lightning.tasks.search.subsequence_dtw import frame_distances, pack_queries, subsequence_costs

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


def plainly(queries: list[torch.Tensor], documents: torch.Tensor, lengths: torch.Tensor, distance) -> torch.Tensor:
    """Costs as torch finds them."""
    return subsequence_costs(pack_queries(queries, distance), documents, lengths, distance)


def compiled(queries: list[torch.Tensor], documents: torch.Tensor, lengths: torch.Tensor, distance) -> torch.Tensor:
    """Costs as the compiled loops find them."""
    return CompiledQueries(queries, distance).costs(documents, lengths)


SEARCHES = (plainly, compiled)


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
    search = CompiledQueries([torch.from_numpy(query).float() for query in queries], distance)
    assert torch.allclose(search.costs(stacked, lengths), costs, atol=2e-6)
    monkeypatch.setattr(compiled_dtw, "ROWS", 5)  # products of a query or two
    monkeypatch.setattr(compiled_dtw, "COLUMNS", 7)  # and of a document or two
    assert torch.allclose(search.costs(stacked, lengths), costs, atol=2e-6)


@pytest.fixture
def two_threads():
    """The search takes as many cores as torch does."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "distance", [pytest.param(each, marks=() if each == "cosine_exp" else pytest.mark.long) for each in DISTANCES]
)
@pytest.mark.slow
def test_threads_and_features_of_real_size_change_nothing(distance, two_threads):
    """More frames than a product holds, wide features, values far from 0, twins of frames on both sides."""
    torch.manual_seed(0)
    queries = [torch.randn(n, 2, 96) + 3 for n in [1, 700, *torch.randint(1, 90, (8,)).tolist()]]
    lengths = torch.tensor([1, 2, 600, 130, 30, 260])
    documents = torch.randn(2, 6, 600, 96) + 3
    documents[:, 3, 40:60] = documents[:, 3, 39:40]  # the same frame again and again: ties
    documents[:, 4, :20] = queries[1][:20].transpose(0, 1)  # what was said, word for word: products cancel
    ours = CompiledQueries(queries, distance).costs(documents, lengths)
    plain = plainly([query.double() for query in queries], documents.double(), lengths, distance)
    assert (ours - plain).abs().max() < 1e-5
    assert ours.dtype == torch.float32 and (ours >= 0).all()


def test_machine_code_is_kept_only_where_one_may_write(monkeypatch):
    """numba refuses to compile with its cache on if it finds no folder that takes it."""
    asked, honest = [], compiled_dtw.numba.njit

    def njit(function, **options):
        asked.append(options.get("cache", False))
        if asked[-1]:
            raise RuntimeError("cannot cache function: no locator available")
        return honest(function, **options)

    monkeypatch.setattr(compiled_dtw.numba, "njit", njit)
    assert compiled_dtw.compiled(lambda x: x + 1)(2) == 3
    assert asked == [True, False]


@pytest.mark.parametrize("search", SEARCHES)
def test_a_query_is_found_where_it_is_said_even_slower_or_faster(search):
    torch.manual_seed(0)
    query = torch.randn(12, 1, 16)
    slower, faster = query.repeat_interleave(2, 0), query[::2]
    others = [torch.randn(length, 1, 16) for length in (5, 9)]
    holding = torch.cat([others[0], query, others[1]]).transpose(0, 1)
    stretched = torch.cat([others[0], slower, others[1]]).transpose(0, 1)
    hurried = torch.cat([others[0], faster, others[1]]).transpose(0, 1)
    without = torch.randn(1, 26, 16)
    stacked, lengths = padded([d.numpy() for d in (holding, stretched, hurried, without)], fill=0.0)
    costs = search([query], stacked, lengths, "cosine_exp")[0, 0]
    assert costs[0] == pytest.approx(0, abs=1e-6)
    # A step of 0 or 1 frames cannot follow twice the tempo, but that of 2 frames follows it exactly.
    assert costs[1] == pytest.approx(0, abs=1e-6)
    assert costs[0] < costs[2] < costs[3]


@pytest.mark.parametrize("search", SEARCHES)
def test_a_document_that_never_changes_costs_nothing(search):
    """Its distances have no range: the floor of the range keeps 0 / 0 away."""
    query, document = torch.randn(6, 1, 3), torch.ones(1, 1, 4, 3)
    assert search([query], document, torch.tensor([4]), "cosine").tolist() == [[[0.0]]]


@pytest.mark.parametrize("distance", DISTANCES)
def test_digital_silence_costs_nothing_however_long(distance):
    """A matrix product may round the last columns otherwise than the rest, which scaling must not blow up."""
    torch.manual_seed(0)
    documents = torch.randn(1, 1, 1, 768).expand(1, 1, 333, 768)
    costs = CompiledQueries([torch.randn(40, 1, 768)], distance).costs(documents, torch.tensor([333]))
    assert costs.tolist() == [[[0.0]]]


@pytest.mark.parametrize("distance", ["euclidean", "cityblock"])
def test_distances_that_length_matters_to(distance):
    rng = np.random.default_rng(0)
    queries, documents = rng.standard_normal((3, 5, 7)), rng.standard_normal((3, 40, 7))
    ours = frame_distances(torch.from_numpy(queries), torch.from_numpy(documents), distance)
    for layer in range(3):
        assert np.allclose(ours[layer], cdist(queries[layer], documents[layer], distance), atol=1e-12)
