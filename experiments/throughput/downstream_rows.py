"""Rows about heads on a frozen upstream: one step, ten epochs with cached features, seven learning rates at once."""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.throughput.encoders import TRANSFORMERS, build
from experiments.throughput.results import Place, Result
from experiments.throughput.speech import mini
from experiments.throughput.whole_steps import InTurns, time_steps
from wavlm_lightning.data.batch import Waveforms
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder.cpu import linears
from wavlm_lightning.system.timing import CLOCKS, Rounds
from wavlm_lightning.tasks import KeywordSpotting, TaskData
from wavlm_lightning.upstreams import WavLMUpstream
from wavlm_lightning.workflows.fit.messages import quiet

DATASETS = ["ks", "ic", "sid", "er"]
"""Tasks whose heads read no more than means over time."""


def time_downstream(row: str, settings: dict[str, Any], place: Place, tick: Callable[[], object]) -> Result:
    """One training step of keyword spotting, the upstream run each time, beside transformers in a plain loop.

    Args:
        row: name of the row.
        settings: `size`, `batch`, `device`, `rounds`, `clock`.
        place: where corpora are made.
        tick: called after each step.
    """
    corpus, device = mini(place.work, "ks"), settings["device"]
    linears.use("auto")
    task = KeywordSpotting(WavLMUpstream(settings["size"]))
    data = TaskData(str(corpus.directory), batch_size=settings["batch"])
    peer = build(TRANSFORMERS, settings["size"], device, False, None, {})
    batches = _batches(corpus, settings["batch"])
    turns = InTurns("ours", TRANSFORMERS, _loop(peer.states, batches, device), settings["clock"], tick)
    timed = time_steps(task, data, turns, settings["rounds"], accelerator=device)
    linears.use(None)
    return Result(row, settings, "s", timed.seconds, "ours", [TRANSFORMERS], {"utterances": settings["batch"]})


def time_cache(row: str, settings: dict[str, Any], place: Place, tick: Callable[[], object]) -> Result:
    """KS, IC, SID and ER for some epochs, once with means that are computed once, once without.

    Args:
        row: name of the row.
        settings: `size`, `epochs`, `measured` (epochs for which the upstream is really run at each step, an even number:
            one costs what the next one costs), `rounds`, `clock`.
        place: where corpora are made.
        tick: called after each round.
    """
    from experiments.throughput.pooled_cache.run import compare

    for dataset in DATASETS:
        mini(place.work, dataset)
    column = 0 if settings["clock"] == "wall" else 1
    timed = Rounds({"ours, cached": [], "the upstream at each step": []})
    difference = 0.0
    for _ in range(settings["rounds"]):
        rows = compare(place.work / "tiny", DATASETS, settings["epochs"], settings["measured"], settings["size"])
        timed.seconds["ours, cached"].append(sum(row["cached"][column] for row in rows))
        timed.seconds["the upstream at each step"].append(sum(row["plain"][column] for row in rows))
        difference = max(difference, *(row["loss_difference"] for row in rows))
        tick()
    notes = {"largest difference of losses": difference}
    return Result(row, settings, "s", timed.seconds, "ours, cached", ["the upstream at each step"], notes=notes)


def time_rates(row: str, settings: dict[str, Any], place: Place, tick: Callable[[], object]) -> Result:
    """Phoneme recognition at seven learning rates: one pass for all heads beside seven runs.

    Args:
        row: name of the row.
        settings: `size`, `updates`, `batch`, `device`, `rounds`, `clock`.
        place: where corpora are made.
        tick: called after each training.
    """
    from experiments.throughput.many_heads.run import heads, seconds
    from wavlm_lightning.tasks.joint.many_heads import ManyHeads

    arguments = argparse.Namespace(
        corpus=str(mini(place.work, "pr").directory),
        task="pr",
        updates=settings["updates"],
        batch_size=settings["batch"],
        accelerator=settings["device"],
        precision="32-true",
    )
    upstream = WavLMUpstream(settings["size"])
    timed, clock = Rounds({"ours, at once": [], "seven runs": []}), CLOCKS[settings["clock"]]
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The first fit is slower; not counted.
        seconds(heads(arguments, upstream)[0], argparse.Namespace(**{**vars(arguments), "updates": 1}), clock)
        for _ in range(settings["rounds"]):
            together = ManyHeads({repr(head.learning_rate): head for head in heads(arguments, upstream)})
            timed.seconds["ours, at once"].append(seconds(together, arguments, clock))
            tick()
            apart = [seconds(head, arguments, clock) for head in heads(arguments, upstream)]
            timed.seconds["seven runs"].append(sum(apart))
            tick()
    return Result(row, settings, "s", timed.seconds, "ours, at once", ["seven runs"])


def _batches(corpus: Corpus, size: int) -> Iterator[list[np.ndarray]]:
    """Endless batches of waveforms, in the order of the corpus."""
    utterances = itertools.cycle([waveform for _, waveform, _ in corpus.split("train").utterances()])
    while True:
        yield [next(utterances) for _ in range(size)]


def _loop(states: Callable[[Tensor], Any], batches: Iterator[list[np.ndarray]], device: str) -> Callable[[], object]:
    """A step of a head as s3prl has it: weighted sum, projection, mean, classes, Adam."""
    layers = len(states(torch.zeros(1, 16_000, device=device)))
    dim = states(torch.zeros(1, 16_000, device=device))[0].shape[-1]
    weights = nn.Parameter(torch.zeros(layers, device=device))
    projection, classes = nn.Linear(dim, 256).to(device), nn.Linear(256, 12).to(device)
    optimizer = torch.optim.Adam([weights, *projection.parameters(), *classes.parameters()], lr=1e-4)

    def step() -> None:
        audio = Waveforms.pad(next(batches)).audio.to(device)
        with torch.no_grad():
            hidden = torch.stack(list(states(audio)))
        features = (weights.softmax(0)[:, None, None, None] * hidden).sum(0)
        logits = classes(projection(features).mean(1))
        loss = F.cross_entropy(logits, torch.zeros(len(audio), dtype=torch.long, device=device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
