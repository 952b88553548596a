"""Rows about what surrounds training: term search, labels of a codebook, the table of scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.cluster import MiniBatchKMeans

from experiments.throughput.results import Place, Result
from wavlm_lightning.codebooks import Codebook
from wavlm_lightning.metrics.superb import TASKS
from wavlm_lightning.reports.cards import MetricValue, ResultCard
from wavlm_lightning.reports.superb_table import METRIC_OF, board_verdict, superb_table
from wavlm_lightning.system.timing import CLOCKS, time_side_by_side


def time_search(row: str, settings: dict[str, Any], place: Place, tick: Callable[[], object]) -> Result:
    """Query-by-example pairs beside scipy's distances and dtw-python, one core against one; `term_search` has more.

    Args:
        row: name of the row.
        settings: `dim`, `query_frames`, `document_frames`, `pairs` the peers are timed on, `rounds`, `clock`.
        place: not used.
        tick: called at the end.
    """
    from experiments.throughput.term_search.run import compare

    sizes = {name: settings[name] for name in ("dim", "query_frames", "document_frames")}
    clock = CLOCKS[settings["clock"]]
    found = compare(cores=1, rounds=settings["rounds"], peer_pairs=settings["pairs"], clock=clock, **sizes)
    tick()
    seconds = {name: [1.0 / rate for rate in rates] for name, rates in found["rates"].items()}
    peers = [name for name in seconds if not name.startswith("ours")]
    notes = {"ratio, lowest, highest": found["ratio"], "largest difference of costs": found["difference"]}
    return Result(row, settings, "s", seconds, "ours", peers, {"pairs": 1.0}, notes=notes)


def time_labels(row: str, settings: dict[str, Any], place: Place, tick: Callable[[], object]) -> Result:
    """Nearest of 500 centroids for frames of one layer, beside scikit-learn, with which codebooks are fitted, too.

    Args:
        row: name of the row.
        settings: `dim`, `frames`, `clusters`, `rounds`, `clock`.
        place: not used.
        tick: called after each run.
    """
    rng = np.random.default_rng(0)
    frames = rng.standard_normal((settings["frames"], settings["dim"]), dtype=np.float32)
    theirs = MiniBatchKMeans(settings["clusters"], max_iter=1, n_init=1, random_state=0).fit(frames)
    codebook = Codebook(np.ascontiguousarray(theirs.cluster_centers_), 50.0, {}, {})
    variants = {"ours": lambda: codebook.assign(frames), "scikit-learn": lambda: theirs.predict(frames)}
    timed = time_side_by_side(variants, settings["rounds"], settings["clock"], tick)
    agreement = float((codebook.assign(frames) == theirs.predict(frames)).mean())
    work = {"frames": float(settings["frames"])}
    return Result(row, settings, "s", timed.seconds, "ours", ["scikit-learn"], work, notes={"agreement": agreement})


def time_table(row: str, settings: dict[str, Any], place: Place, tick: Callable[[], object]) -> Result:
    """SUPERB's table and verdict for many upstreams; no peer makes one.

    Args:
        row: name of the row.
        settings: `upstreams`, `rounds`, `clock`.
        place: not used.
        tick: called after each run.
    """
    cards = {task: _card(task) for task in TASKS}
    results = {f"upstream {number}": cards for number in range(settings["upstreams"])}

    def report() -> object:
        return superb_table(results, list(TASKS)).to_html(), board_verdict(results)

    timed = time_side_by_side({"ours": report}, settings["rounds"], settings["clock"], tick)
    return Result(row, settings, "s", timed.seconds, "ours", [], {"upstreams": float(settings["upstreams"])})


def _card(task: str) -> ResultCard:
    metrics = {METRIC_OF[column]: MetricValue(value=50.0, unit="%", better="higher") for column in TASKS[task]}
    return ResultCard(
        task=task,
        metrics=metrics,
        headline=next(iter(metrics)),
        corpus={"name": "c", "path": "c", "split": "test", "utterances": 1, "seconds": 1.0},
        upstream={"label": "u", "class": "U", "sha256": "", "parameters": 0, "frame_rate": 50.0, "layers": 13},
        learning_rate=1e-4,
        seed=0,
        steps=1,
        best_step=1,
    )
