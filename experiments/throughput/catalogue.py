"""The rows of the benchmark: what each is called, what it should reach, and how it is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from experiments.throughput import downstream_rows, encoder_rows, other_rows, pretraining_rows
from experiments.throughput.fine_tuning import rows as fine_tuning_rows

ENCODER: dict[str, Any] = {
    "size": "base",
    "batch": 4,
    "seconds": 10.0,
    "precision": "fp32",
    "dropout": 0.0,
    "device": "cpu",
}

FINE_TUNING: dict[str, Any] = {**ENCODER, "batch": 8, "seconds": 12.0}

PRETRAINING: dict[str, Any] = {"batch": 2, "seconds": 10.0, "precision": "fp32", "device": "cpu"}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        title: what the table says.
        measure: see `encoder_rows.time_encoder` for its arguments.
        settings: what the command line may change, and what `measure` obeys.
        must: the required ratio; for seconds at least this many times faster than the best peer, for GiB at most this
            share of the best peer's. None: it is only reported.
        aim: what it should reach.
        device: where it runs.
        original: whether unilm's code is among the peers, if there is a folder of it.
    """

    title: str
    measure: Callable[..., Any]
    settings: dict[str, Any] = field(default_factory=dict)
    must: float | None = None
    aim: float | None = None
    device: str = "cpu"
    original: bool = False


def _encoder(title: str, training: bool, must: float | None, aim: float | None, **changes: Any) -> Row:
    memory = changes.pop("memory", False)
    device = changes.pop("device", "cpu")
    measure = encoder_rows.measure_memory if memory else encoder_rows.time_encoder
    settings = {**ENCODER, "training": training, "device": device, **changes}
    return Row(title, measure, settings, must, aim, device, original=True)


ROWS: dict[str, Row] = {
    "inference-fp32": _encoder("inference fp32, all hidden states", False, 1.4, 1.6),
    "inference-bf16": _encoder("inference bf16, all hidden states", False, 1.15, 1.3, precision="bf16"),
    "training-fp32": _encoder("training fp32, forward + backward", True, 1.2, 1.5, batch=2),
    "training-bf16": _encoder("training bf16, forward + backward", True, 1.0, 1.2, batch=2, precision="bf16"),
    "training-memory": _encoder("training, peak memory", True, 0.75, 0.65, memory=True, seconds=15.0),
    "inference-memory": _encoder("inference, peak memory", False, 0.6, 0.4, memory=True, seconds=15.0),
    "pretraining-step": Row(
        "whole pre-training step, HuBERT Base on both sides",
        pretraining_rows.time_pretraining,
        {**PRETRAINING, "size": "hubert_base"},
        1.2,
        1.5,
    ),
    "pretraining-step-wavlm": Row(
        "whole pre-training step, WavLM Base with mixing against HuBERT Base",
        pretraining_rows.time_pretraining,
        {**PRETRAINING, "size": "base"},
    ),
    "fine-tuning-step": Row(
        "CTC fine-tuning step, forward + backward + Adam", fine_tuning_rows.time_fine_tuning, FINE_TUNING, 1.2, 1.5
    ),
    "fine-tuning-memory": Row(
        "CTC fine-tuning step, peak memory", fine_tuning_rows.measure_memory, FINE_TUNING, 0.7, 0.7
    ),
    "downstream-step": Row(
        "a step of keyword spotting, upstream run at each step",
        downstream_rows.time_downstream,
        {"size": "base", "batch": 8, "device": "cpu"},
    ),
    "pooled-cache": Row(
        "KS + IC + SID + ER, 10 epochs, cached means",
        downstream_rows.time_cache,
        {"size": "base", "epochs": 10, "measured": 2},
        8,
        9.5,
    ),
    "learning-rates": Row(
        "seven learning rates at once, phoneme recognition",
        downstream_rows.time_rates,
        {"size": "base", "batch": 8, "updates": 8, "device": "cpu"},
        4,
        6,
    ),
    "search": Row(
        "QbE pairs, one core",
        other_rows.time_search,
        {"dim": 768, "query_frames": 50, "document_frames": 500, "pairs": 60},
        8,
        15,
    ),
    "kmeans-labels": Row(
        "nearest of 500 centroids", other_rows.time_labels, {"dim": 768, "frames": 20_000, "clusters": 500}
    ),
    "report": Row("SUPERB's table as a page", other_rows.time_table, {"upstreams": 40}),
    **{
        f"gpu-{size}-{what}": _encoder(
            f"{size} {what} bf16, GPU",
            what == "training",
            *goals,
            size=size,
            precision="bf16",
            seconds=16.0,
            batch=16,
            device="cuda",
        )
        for size in ("base", "large")
        for what, goals in (("inference", (None, None)), ("training", (2.0, 2.0)))
    },
    **{
        f"gpu-{size}-training-memory": _encoder(
            f"{size} training bf16, GPU, peak memory",
            True,
            None,
            None,
            size=size,
            precision="bf16",
            seconds=16.0,
            batch=16,
            device="cuda",
            memory=True,
        )
        for size in ("base", "large")
    },
}
