"""QbE: the whole search against scipy and dtw-python, which trials count, chance on wrong terms."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from dtw import dtw
from quiet import quiet_trainer
from scipy.spatial.distance import cdist
from shaped import Shaped

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.metrics.term_detection import maximum_term_weighted_value, z_normalise
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import TaskData
from wavlm_lightning.tasks.content.query_by_example import QueryByExample
from wavlm_lightning.tasks.search.term_search import FeatureMoments, TermSearch
from wavlm_lightning.upstreams import Fbank, Mfcc, Upstream, WavLMUpstream

SPLITS = ("documents", "queries-valid", "queries-test")
TOGETHER = "+".join(SPLITS)


def run(task: QueryByExample, folder, **data) -> float:
    source = TaskData(str(folder), test_split=TOGETHER, **data)
    return quiet_trainer().test(task, source, verbose=False)[0]["test/mtwv"]


def by_hand(upstream: Upstream, corpus: Corpus, asked: str) -> tuple[list[float], list[np.ndarray]]:
    """Value and scores `(queries, documents)` of each layer, one query and one document at a time."""
    read = {}
    for split in ("documents", asked):
        read[split] = [
            (upstream(torch.from_numpy(wave)[None], torch.tensor([len(wave)])).hidden[:, 0].double(), meta)
            for _, wave, meta in corpus.split(split).utterances()
        ]
    values, scores = [], []
    for layer in range(upstream.num_layers):
        frames = torch.cat([hidden[layer] for part in read.values() for hidden, _ in part])
        mean, deviation = frames.mean(0), frames.std(0).clamp(min=1e-9)
        costs = []
        for query, _ in read[asked]:
            costs.append([])
            for document, _ in read["documents"]:
                one, other = ((hidden[layer] - mean) / deviation for hidden in (query, document))
                matrix = np.exp(cdist(one, other, "cosine")) - 1
                low, high = matrix.min(1, keepdims=True), matrix.max(1, keepdims=True)
                path = dtw((matrix - low) / (high - low), step_pattern="asymmetric", open_begin=True, open_end=True)
                costs[-1].append(-path.normalizedDistance)
        truth = [[query["term"] in document["terms"] for _, document in read["documents"]] for _, query in read[asked]]
        values.append(maximum_term_weighted_value(z_normalise(costs), truth).value)
        scores.append(np.array(costs))
    return values, scores


@pytest.mark.parametrize("upstream", [pytest.param(WavLMUpstream("tiny"), marks=pytest.mark.slow), Mfcc()])
def test_the_whole_search_by_hand(tiny, monkeypatch, upstream):
    task, seen = QueryByExample(upstream), {}
    honest = QueryByExample._values

    def values(self, split, scores, truth):
        seen[split] = scores
        return honest(self, split, scores, truth)

    monkeypatch.setattr(QueryByExample, "_values", values)
    found = run(task, tiny / "qbe", eval_batch_seconds=8.0)
    corpus = Corpus.open(tiny / "qbe")
    (valid, valid_scores), (test, test_scores) = (by_hand(upstream, corpus, split) for split in SPLITS[1:])
    for split, wanted in zip(SPLITS[1:], (valid_scores, test_scores), strict=True):
        for ours, theirs in zip(
            seen[split], wanted, strict=True
        ):  # in the order of lengths, so compared in that of scores
            assert np.allclose(np.sort(ours, axis=None), np.sort(theirs, axis=None), atol=2e-5)
    assert [row["valid"] for row in task.details["layers"]] == pytest.approx(valid)
    assert [row["test"] for row in task.details["layers"]] == pytest.approx(test)
    assert task.details["layer"] == int(np.argmax(valid))
    assert found == pytest.approx(test[task.details["layer"]])
    assert not [p for p in task.parameters() if p.requires_grad] and task.weighted_sum.weights() == []
    json.dumps(task.details, allow_nan=False)


def test_a_cache_changes_nothing_but_half_precision(tiny, tmp_path):
    plain, cached = QueryByExample(Fbank()), QueryByExample(Fbank())
    values = run(plain, tiny / "qbe"), run(cached, tiny / "qbe", cache=str(tmp_path))
    assert values[0] == pytest.approx(values[1], abs=0.02)
    for one, other in zip(plain.searches, cached.searches, strict=True):
        assert torch.allclose(one.mean, other.mean, atol=1e-2)
        assert torch.equal(one.terms, other.terms)
        documents = torch.randn(1, 3, 40, Fbank().dim) * one.deviation + one.mean
        scores = (search.scores(documents, torch.full((3,), 40)) for search in (one, other))
        assert torch.allclose(*scores, atol=1e-2)


def test_moments_are_those_of_all_frames():
    torch.manual_seed(0)
    parts = [torch.randn(2, n, 3) * 5 + 40 for n in (1, 7, 30)]
    parts[2][:, :, 1] = parts[0][:, :, 1] = parts[1][:, :, 1] = 4.0
    moments = FeatureMoments.of(parts[0]) + FeatureMoments.of(parts[1]) + FeatureMoments.of(parts[2])
    mean, deviation = moments.statistics()
    frames = torch.cat(parts, dim=1)
    assert torch.allclose(mean, frames.mean(1))
    assert torch.allclose(deviation, frames.std(1).clamp(min=1e-9), rtol=1e-5)


def planted(queries: int, documents: int) -> tuple[TermSearch, torch.Tensor, torch.Tensor]:
    """Noise, in which every third document holds one query; of 4 frames the last, and so too short to be looked for."""
    torch.manual_seed(0)
    spoken = [torch.randn(10, 1, 12) for _ in range(queries - 1)] + [torch.randn(4, 1, 12)]
    hidden, truth = torch.randn(1, documents, 60, 12), torch.zeros(documents, queries, dtype=torch.bool)
    for place in range(0, documents, 3):
        query = place // 3 % queries
        hidden[0, place, 20 : 20 + len(spoken[query])] = spoken[query][:, 0]
        truth[place, query] = True
    moments = FeatureMoments.of(hidden.flatten(1, 2))
    return TermSearch(spoken, torch.arange(queries), moments, "cosine_exp"), hidden, truth


def test_what_is_planted_is_found_and_wrong_terms_drop_to_chance():
    search, hidden, truth = planted(queries=21, documents=126)
    scores = search.scores(hidden, torch.full((126,), 60))[:, 0].T.numpy()
    assert (scores[-1] == 0).all() and (scores[:-1] < 1e-6).all()
    normalised, there = z_normalise(scores), truth.T.numpy()
    assert maximum_term_weighted_value(normalised[:-1], there[:-1]).value == pytest.approx(1)
    assert maximum_term_weighted_value(normalised, there).value == pytest.approx(20 / 21)
    order = np.random.default_rng(0).permutation(126)
    assert maximum_term_weighted_value(normalised, there[:, order]).value < 0.03


def test_truth_is_which_terms_a_document_holds():
    search, _, _ = planted(queries=3, documents=3)
    terms, counts = torch.tensor([[2, 0], [1, 0], [0, 0]]), torch.tensor([2, 1, 0])
    assert search.truth(terms, counts).tolist() == [[True, False, True], [False, True, False], [False] * 3]
    assert search.truth(torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2)).tolist() == [[False] * 3] * 2


def test_superb_counts_the_queries_that_nobody_submitted(tiny, monkeypatch):
    grid = {"queries-valid": {"queries": 12, "documents": 30}, "queries-test": {"queries": 3, "documents": 6}}
    values = {}
    for name, given in {"alone": {}, "grid": {"trial_grid": grid}}.items():
        monkeypatch.setattr(
            Corpus, "inventories", property(lambda self, given=given: {**self.body["inventories"], **given})
        )
        for protocol in ("superb", "fixed"):
            task = QueryByExample(Fbank(), protocol=protocol)
            run(task, tiny / "qbe")
            (values[name, protocol],) = task.details["layers"]
    assert values["alone", "superb"] == values["alone", "fixed"] == values["grid", "fixed"]
    assert values["grid", "superb"]["test"] == values["alone", "fixed"]["test"]  # its grid lacks nothing
    assert values["alone", "fixed"]["valid"] > 0.5
    assert 0 < values["grid", "superb"]["valid"] <= 3 / 12


def test_terms_of_queries_and_documents():
    task = QueryByExample(Shaped(1, 4))
    task.build(["apple", "pear"])
    assert task.read_target({"term": "pear"}).tolist() == [1]
    assert task.read_target({"terms": ["pear", "apple"]}).tolist() == [1, 0]
    assert task.read_target({"terms": []}).dtype == torch.int64
    with pytest.raises(UserError, match="neither a term nor terms"):
        task.read_target({"text": "pear"})
    with pytest.raises(UserError, match="the term 'plum'"):
        task.read_target({"term": "plum"})


def test_what_it_is_not_for_is_said(tiny, monkeypatch):
    task, source = QueryByExample(Fbank()), TaskData(str(tiny / "qbe"), test_split=TOGETHER, eval_batch_seconds=1.0)
    with pytest.raises(UserError, match="nothing to train"):
        quiet_trainer(max_steps=1).fit(task, source)
    with pytest.raises(UserError, match="no prediction for a single recording"):
        quiet_trainer().predict(task, source)
    with pytest.raises(UserError, match="no prediction for a single recording"):
        task.readable(torch.zeros(1), torch.zeros(1))
    with pytest.raises(UserError, match=r"set data\.test_split: documents\+queries-valid\+queries-test"):
        quiet_trainer().test(task, TaskData(str(tiny / "qbe"), test_split="documents"), verbose=False)
    with pytest.raises(UserError, match="limit_test_batches"):
        quiet_trainer(limit_test_batches=3).test(task, source, verbose=False)
    honest = QueryByExample.read_target
    monkeypatch.setattr(
        QueryByExample,
        "read_target",
        lambda self, meta: honest(self, {k: v for k, v in meta.items() if k == "term"} or {"terms": []}),
    )
    with pytest.raises(UserError, match="no term of split 'queries-valid' is in any document"):
        quiet_trainer().test(QueryByExample(Fbank()), source, verbose=False)
