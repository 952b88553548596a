"""Is it the encoder or the head? KS and SID of the demo by a converged, regularised linear classifier.

    python experiments/linear_probe/run.py --demo runs/demo --out runs/linear_probe
    python experiments/linear_probe/run.py --pooling maximum                 other statistics over time than SUPERB's mean

SUPERB's head of KS and SID is linear in the mean over time of the weighted sum of layers, and is trained by Adam without
regularisation. Here logistic regression with an L2 penalty (scikit-learn) takes the same means, of each layer alone and of all
layers side by side; penalty and scaling are chosen on validation. `--pooling` takes another statistic over time, which says
whether the mean loses what a head could use. Needs a finished `wavlm demo`; the features are computed once and kept in `--out`.
Prints two tables and writes every fit to `fits.csv` (`fits-POOLING.csv`).
"""

from __future__ import annotations

import argparse
import csv
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.reports.tables import text_table
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.plugins import import_by_path
from wavlm_lightning.system.progress import progress_bar
from wavlm_lightning.upstreams.cache import FeatureCache, Level
from wavlm_lightning.upstreams.specs import resolve
from wavlm_lightning.workflows.demo.stages import RECIPE
from wavlm_lightning.workflows.recipe.chain import chain

TASKS = {"ks": "keyword", "sid": "speaker"}  # and the field of their metadata that is the class
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # scikit-learn's C, the inverse of the penalty
SPLITS = ("train", "valid", "test")
ALL = "all layers"
# Of the hidden states of an utterance, `(layers, frames, dim)` to `(layers, statistics)`
POOLING: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": lambda x: x.mean(1),
    "maximum": lambda x: x.amax(1),
    "mean+deviation": lambda x: torch.cat([x.mean(1), x.std(1)], dim=1),
}


class Fit(NamedTuple):
    """One classifier; accuracies in percent."""

    task: str
    upstream: str
    layer: str
    scaling: str
    strength: float
    train: float
    valid: float
    test: float


def pooled(cache: FeatureCache, corpus: Corpus, split: str, field: str, pooling: str) -> tuple[np.ndarray, np.ndarray]:
    """A statistic over time of every layer, `(utterances, layers, statistics)`, and the class of each utterance."""
    features, classes = [], []
    for shard in corpus.split(split).shards:
        cache.fill(shard)
        # A cache of means has one frame an utterance.
        features += [POOLING[pooling](cache.read(shard, place).float()).numpy() for place in range(shard.utterances)]
        classes += [str(shard.meta(place)[field]) for place in range(shard.utterances)]
    return np.stack(features), np.array(classes)


def scalings(train: np.ndarray) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Ways to bring features `(utterances, dim)` to a spread of about 1, known from the training split."""
    mean, spread = train.mean(0), train.std(0)
    return {
        "each dimension": lambda x: (x - mean) / np.maximum(spread, 1e-6),
        "all alike": lambda x: (x - mean) / np.sqrt((spread**2).mean()),
    }


def fits(task: str, upstream: str, layer: str, data: dict[str, tuple[np.ndarray, np.ndarray]]) -> list[Fit]:
    """A classifier for every scaling and penalty; `data` has features `(utterances, dim)` and classes of each split."""
    found = []
    for scaling, scaled in scalings(data["train"][0]).items():
        ready = {name: (scaled(x), y) for name, (x, y) in data.items()}
        for strength in STRENGTHS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # the weakest penalties; they are rarely chosen
                model = LogisticRegression(C=strength, max_iter=500).fit(*ready["train"])
            shares = [100 * float(model.score(*ready[name])) for name in SPLITS]
            found.append(Fit(task, upstream, layer, scaling, strength, *shares))
    return found


def geometry(features: np.ndarray) -> list[str]:
    """Of `(utterances, dim)`: distance of the mean from the origin, spread around it, and its share in the widest direction."""
    centre = features.mean(0)
    powers = np.linalg.svd(features - centre, compute_uv=False) ** 2 / len(features)
    return [f"{np.linalg.norm(centre):.1f}", f"{powers.sum() ** 0.5:.1f}", f"{100 * powers[0] / powers.sum():.0f} %"]


def specifications(demo: Path) -> dict[str, str]:
    """The demo's upstreams: label -> specification."""
    encoder = chain(RECIPE)[-1].content["model"]["init_args"]["encoder"]
    return {"pre-trained": str(demo / "pretrain"), "random weights": f"random:{encoder}", "FBANK": "fbank_no_cmvn"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"))
    parser.add_argument("--out", type=Path, default=Path("runs/linear_probe"))
    parser.add_argument(
        "--pooling", choices=list(POOLING), default="mean", help="over time; SUPERB's heads take the mean"
    )
    parser.add_argument("--encoder", action="append", default=[], metavar="LABEL=SPEC", help="a further row")
    arguments = parser.parse_args()
    if wrong := [each for each in arguments.encoder if "=" not in each]:
        parser.error(f"--encoder {wrong[0]}: give LABEL=SPEC")
    rows = specifications(arguments.demo) | dict(each.split("=", 1) for each in arguments.encoder)
    found: list[Fit] = []
    shapes: list[list[str]] = []
    with progress_bar(total=len(rows) * len(TASKS), desc="linear probes", unit="probe") as bar:
        for label, specification in rows.items():
            path, options = resolve(specification)
            upstream = import_by_path(path)(**{**options, "label": label})
            level: Level = "utterance" if arguments.pooling == "mean" else "frame"
            cache = FeatureCache(arguments.out / "cache", upstream.eval(), level)
            for task, field in TASKS.items():
                corpus = Corpus.open(arguments.demo / "corpus" / task)
                whole = {split: pooled(cache, corpus, split, field, arguments.pooling) for split in SPLITS}
                layers = whole["train"][0].shape[1]
                if task == "ks":
                    shapes += [[label, str(n), *geometry(whole["train"][0][:, n])] for n in range(layers)]
                for n in range(layers):
                    found += fits(task, label, str(n), {split: (x[:, n], y) for split, (x, y) in whole.items()})
                if layers > 1:
                    found += fits(task, label, ALL, {s: (x.reshape(len(x), -1), y) for s, (x, y) in whole.items()})
                bar.update()
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = "fits.csv" if arguments.pooling == "mean" else f"fits-{arguments.pooling}.csv"
    with (arguments.out / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Fit._fields)
        writer.writerows([*fit[:5], *(f"{share:.2f}" for share in fit[5:])] for fit in found)
    body = []
    for label in rows:
        for layer in dict.fromkeys(fit.layer for fit in found if fit.upstream == label):
            best = [
                max((f for f in found if (f.task, f.upstream, f.layer) == (task, label, layer)), key=lambda f: f.valid)
                for task in TASKS
            ]
            body.append([label, layer, *(f"{fit.valid:.1f} / {fit.test:.1f}" for fit in best)])
    head = ["upstream", "layer", *(f"{task.upper()} valid / test, %" for task in TASKS)]
    print(text_table(head, body).to_markdown())
    head = ["KS, training split", "layer", "mean from the origin", "spread", "of it in one direction"]
    print(text_table(head, shapes).to_markdown())


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
