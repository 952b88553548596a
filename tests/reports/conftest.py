from collections.abc import Callable
from pathlib import Path

import pytest

from wavlm_lightning.reports.cards import ResultCard


def make_card(task: str = "KS", label: str = "pre-trained", value: float = 59.7, **changes: object) -> ResultCard:
    metric = {"value": value, "unit": "%", "better": "lower" if task == "PR" else "higher"}
    name = "per" if task == "PR" else "accuracy"
    fbank = label == "FBANK"
    values: dict = {
        "task": task,
        "metrics": {name: metric},
        "headline": name,
        "corpus": {"name": "mini", "path": "corpus", "split": "test", "utterances": 480, "seconds": 480.0},
        "upstream": {
            "label": label,
            "class": "wavlm_lightning.upstreams.WavLMUpstream",
            "sha256": "" if fbank else "ab" * 32,
            "parameters": 0 if fbank else 2_100_000,
            "frame_rate": 100.0 if fbank else 50.0,
            "layers": 1 if fbank else 5,
        },
        "learning_rate": 1e-3,
        "seed": 1,
        "steps": 600,
        "best_step": 500,
        "selection": {"metric": f"valid/{name}", "value": value, "split": "valid"},
        "trainable_parameters": 9000,
        "layer_weights": [] if fbank else [0.1, 0.15, 0.2, 0.25, 0.3],
        "runtime_seconds": 13.2,
        "command": "wavlm test -c runs/ks/config.yaml",
        "created": "2026-01-01T00:00:00+00:00",
        "versions": {"wavlm_lightning": "0.1.0", "torch": "2.11.0", "lightning": "2.6.6", "python": "3.11.2"},
    }
    return ResultCard(**{**values, **changes})


@pytest.fixture
def card() -> Callable[..., ResultCard]:
    return make_card


FIGURES = {
    "PR": {"pre-trained": 43.7, "random weights": 86.1, "FBANK": 61.5},
    "KS": {"pre-trained": 59.7, "random weights": 27.9, "FBANK": 38.0},
    "SID": {"pre-trained": 54.2, "random weights": 19.9, "FBANK": 67.8},
}


@pytest.fixture(scope="session")
def cards() -> list[ResultCard]:
    return [make_card(task, label, value) for task, row in FIGURES.items() for label, value in row.items()]


@pytest.fixture(scope="session")
def metrics_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = ["epoch,step,train/loss,train/masked_accuracy,train/perplexity,valid/loss,valid/masked_accuracy,"
             "valid/unmasked_accuracy,valid/perplexity,valid/target_perplexity,valid/majority_accuracy"]  # fmt: skip
    for step in range(10, 210, 10):
        lines.append(f"0,{step},{5 - step / 200},{step / 1000},{step / 4},,,,,,")
    for step in (100, 200):
        lines.append(f"0,{step},,,,{5 - step / 250},{step / 1250},{step / 800},{step / 5},86.2,0.04")
    path = tmp_path_factory.mktemp("curves") / "metrics.csv"
    path.write_text("\n".join(lines) + "\n")
    return path
