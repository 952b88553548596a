"""QbE: query by example, spoken term search without training (SUPERB; QUESST 2014)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from wavlm_lightning.data.batch import Targets, TaskBatch
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.metrics.term_detection import MTWV, maximum_term_weighted_value, query_values, z_normalise
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.progress import progress_bar
from wavlm_lightning.tasks.base import Protocol, Task
from wavlm_lightning.tasks.search.subsequence_dtw import Distance
from wavlm_lightning.tasks.search.term_search import FeatureMoments, Findings, TermSearch
from wavlm_lightning.upstreams import Upstream, WeightedSum


class QueryByExample(Task):
    """Subsequence dynamic time warping of hidden states; maximum term-weighted value. Nothing is trained.

    Every layer is searched alone; the layer with the highest value for the valid queries is reported on the test queries
    (s3prl `downstream/quesst14_dtw`). Features are normalised by mean and deviation over all frames of the documents and of
    a split's queries, scores for each query over all documents. Reads `term` of each query, `terms` of each
    document, and the corpus' `terms`.

    `wavlm test` reads documents and queries twice, first to collect queries and statistics, then to search; with a cache
    (`data.cache`) the upstream runs only once.

    Where s3prl's practice changes the score: QUESST's scorer counts the queries in other languages as missed, which should
    divide published values by about four. On a corpus that records the size of the whole task (`trial_grid`), `superb`
    counts them as missed, too; `fixed` scores the trials of the corpus alone. On other corpora the two are equal.

    Args:
        upstream: where features come from.
        distance: between frames; `cosine_exp` in SUPERB, whose rules allow the others.
        documents: split with the documents.
        valid_queries: split with the queries that choose the layer.
        test_queries: split with the queries that are reported.
        seed: has no effect, since nothing is random; it is written to the result card.
        protocol: which trials count, see above.
    """

    name = "QbE"
    metric = "mtwv"
    better = "higher"
    cache_level = "frame"

    def __init__(
        self,
        upstream: Upstream,
        distance: Distance = "cosine_exp",
        documents: str = "documents",
        valid_queries: str = "queries-valid",
        test_queries: str = "queries-test",
        seed: int | None = None,
        protocol: Protocol = "superb",
    ) -> None:
        super().__init__(upstream, learning_rate=0.0, seed=seed, protocol=protocol)  # nothing is trained
        # Layers are not mixed, so there are no weights to learn or to report.
        self.weighted_sum = WeightedSum(1)
        self.distance: Distance = distance
        self.splits = documents, valid_queries, test_queries
        self.split_of: dict[str, str] = {}
        self.searches: list[TermSearch] = []
        self.query_keys: list[str] = []  # of the test queries, in the order of their search

    def prepare_data(self) -> None:
        """Refuse everything but a test on one device, before any data is opened."""
        if self.trainer.state.fn != "test":
            raise UserError("QbE has nothing to train and no prediction for a single recording; run `wavlm test`")
        if self.trainer.world_size > 1:
            raise UserError("QbE compares all queries with all documents in one process; set trainer.devices: 1")

    def read_labels(self, corpus: Corpus) -> list[str]:
        """All terms that queries ask for."""
        return list(corpus.inventory("terms"))

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """The term of a query, or those of a document, int64 `(terms,)`."""
        if "terms" not in meta and "term" not in meta:
            raise UserError("QbE: an utterance has neither a term nor terms; use a corpus of queries and documents")
        terms = meta["terms"] if "terms" in meta else [meta["term"]]
        unknown = [term for term in terms if term not in self.labels]
        if unknown:
            raise UserError(f"QbE: an utterance has the term {unknown[0]!r}, which is not among the corpus' terms")
        return torch.tensor([self.labels.index(term) for term in terms], dtype=torch.int64)

    @property
    def chance(self) -> float:
        return 0.0  # of detecting nothing

    def build_head(self, dim: int) -> None:
        pass  # the search compares hidden states

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        raise UserError("QbE searches in hidden states and has no head; run `wavlm test`")

    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        raise UserError("QbE has nothing to train; run `wavlm test`")

    def readable(self, outputs: Tensor, lengths: Tensor) -> list[dict[str, Any]]:
        raise UserError("QbE has no prediction for a single recording; run `wavlm test`")

    def forward(self, inputs: Any) -> tuple[Tensor, Tensor]:
        """Hidden states `(layers, batch, frames, dim)` and valid frames `(batch,)`, from waveforms or cached layers."""
        layers = self.upstream_layers(inputs)
        return layers.hidden.float(), layers.lengths

    def on_test_start(self) -> None:
        # First pass: collect the queries of both splits, and the moments that normalise all features.
        self.split_of = self._split_of()
        moments: dict[str, FeatureMoments] = {}
        queries: dict[str, list[Tensor]] = {name: [] for name in self.splits}
        terms: dict[str, list[Tensor]] = {name: [] for name in self.splits}
        self.query_keys = []
        for batch in self._all_batches():
            hidden, lengths = self(batch.inputs)
            for row, (key, length) in enumerate(zip(batch.keys, lengths.tolist(), strict=True)):
                name, frames = self.split_of[key], hidden[:, row, :length]
                found = FeatureMoments.of(frames)
                moments[name] = moments[name] + found if name in moments else found
                if name != self.splits[0]:
                    if not batch.targets.lengths[row]:
                        raise UserError(f"QbE: query {key!r} of split {name} has no term; correct the corpus")
                    queries[name].append(frames.transpose(0, 1).clone())  # a view would keep the whole batch alive
                    terms[name].append(batch.targets.values[row, 0])
                    if name == self.splits[2]:
                        self.query_keys.append(key)
        documents, *asked = self.splits
        for name in asked:
            if not queries[name]:
                raise UserError(f"QbE: split {name} has no queries; prepare the corpus again, or leave this split out")
        self.searches = [
            TermSearch(queries[name], torch.stack(terms[name]), moments[documents] + moments[name], self.distance)
            for name in asked
        ]

    def _split_of(self) -> dict[str, str]:
        """The split of each key of the test data."""
        assert self.data is not None
        opened, corpus = self.data.opened["test"], self.data.corpus
        if sorted(opened.name.split("+")) != sorted(self.splits):
            raise UserError(f"QbE tests documents and queries together; set data.test_split: {'+'.join(self.splits)}")
        split_of = {key: name for name in self.splits for key in corpus.split(name).keys}
        if len(split_of) < len(opened):
            raise UserError(f"QbE: the splits {', '.join(self.splits)} have keys in common; prepare the corpus again")
        return split_of

    def _all_batches(self) -> Iterator[TaskBatch]:
        assert self.data is not None
        loader = self.data.loader("test")
        with (
            progress_bar(total=len(loader), desc="QbE queries and statistics", leave=False) as bar,
            self.trainer.precision_plugin.test_step_context(),
        ):
            for batch in loader:
                yield batch.to(self.device)
                bar.update()

    def evaluate(self, batch: TaskBatch, metric: Metric, stage: Literal["valid", "test"]) -> None:
        # Second pass: search all queries in the documents of a batch.
        outputs, lengths = self(batch.inputs)
        self.update_metric(metric, outputs, lengths, batch)

    def build_metric(self) -> Metric:
        return Findings()

    def update_metric(self, metric: Metric, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> None:
        """Add the documents of a batch, with the queries of both splits side by side."""
        rows = [row for row, key in enumerate(batch.keys) if self.split_of[key] == self.splits[0]]
        if not rows:
            return
        hidden, lengths = outputs[:, rows], lengths[rows]
        values, counts = batch.targets.values[rows], batch.targets.lengths[rows]
        metric.update(
            torch.cat([search.scores(hidden, lengths) for search in self.searches], dim=2),
            torch.cat([search.truth(values, counts) for search in self.searches], dim=1),
        )

    def score(self, metric: Metric, stage: Literal["valid", "test"]) -> dict[str, Tensor]:
        """The value of the test queries, from the layer that is best for the valid queries."""
        scores, truth = (part.cpu() for part in metric.compute())
        if len(scores) < list(self.split_of.values()).count(self.splits[0]):
            raise UserError("QbE searches all documents; remove trainer.limit_test_batches")
        sizes = [len(search.terms) for search in self.searches]
        parts = zip(self.splits[1:], scores.split(sizes, dim=2), truth.split(sizes, dim=1), strict=True)
        tables = [(name, some.permute(1, 2, 0).numpy(), there.T.numpy()) for name, some, there in parts]
        valid, test = (self._values(*table) for table in tables)
        layer = max(range(len(valid)), key=lambda number: valid[number].value)
        threshold = test[layer].threshold
        self._keep_queries(tables[1][0], tables[1][1][layer], tables[1][2], threshold)
        self.details = {
            "layer": layer,
            "threshold": threshold if math.isfinite(threshold) else None,
            "layers": [
                {"layer": number, "valid": one.value, "test": other.value}
                for number, (one, other) in enumerate(zip(valid, test, strict=True))
            ],
        }
        return {self.metric: torch.tensor(test[layer].value)}

    def _values(self, split: str, scores: np.ndarray, truth: np.ndarray) -> list[MTWV]:
        """The value of each layer, from scores `(layers, queries, documents)` and truth `(queries, documents)`."""
        there = int(truth.any(1).sum())
        if not there:
            raise UserError(f"QbE: no term of split {split!r} is in any document; prepare the corpus again")
        return [
            maximum_term_weighted_value(z_normalise(layer), truth, **self._absent(split, truth)) for layer in scores
        ]

    def _keep_queries(self, split: str, scores: np.ndarray, truth: np.ndarray, threshold: float) -> None:
        """Keep the value of each test query at the best threshold for the interval of their mean."""
        absent = self._absent(split, truth)
        kept, values, weights = query_values(z_normalise(scores), truth, threshold, **absent)
        keys = [self.query_keys[number] for number in kept]
        self.scored.rows = dict(zip(keys, zip(values.tolist(), weights.tolist(), strict=True), strict=True))
        self.scored.what, self.scored.complete = "queries", True

    def _absent(self, split: str, truth: np.ndarray) -> dict[str, int]:
        """Trials that count though the corpus lacks them."""
        there = int(truth.any(1).sum())
        assert self.data is not None
        grid = self.data.corpus.inventories.get("trial_grid", {}).get(split)
        absent = {"absent_queries": 0, "absent_documents": 0}
        if grid and self.protocol == "superb":
            # Trials of the other languages, which the official scorer counts without their scores.
            absent["absent_queries"] = max(0, grid["queries"] - there)
            absent["absent_documents"] = max(0, grid["documents"] - truth.shape[1])
        return absent
