"""The result card: one JSON file a run, all that a table or a plot ever needs to know about it."""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from wavlm_lightning.system.errors import UserError

FORMAT = "wavlm_lightning/card/1"
CARD_NAME = "card.json"


class MetricValue(TypedDict):
    """One figure of a run; `value` and `chance` are in `unit`."""

    value: float
    unit: str
    better: Literal["lower", "higher"]
    chance: NotRequired[float]


class CorpusReference(TypedDict):
    """What the figure was measured on; `seconds` of audio in `utterances`."""

    name: str
    path: str
    split: str
    utterances: int
    seconds: float


# The functional form because "class" is a keyword of Python and still the right word in the file.
UpstreamReference = TypedDict(
    "UpstreamReference",
    {"label": str, "class": str, "sha256": str, "parameters": int, "frame_rate": float, "layers": int},
)


class Selection(TypedDict):
    """How the tested checkpoint was chosen: the metric, whether high or low is good, and the split it was measured on."""

    metric: str
    value: float
    mode: NotRequired[Literal["min", "max"]]
    split: str


@dataclass(kw_only=True)
class ResultCard:
    """The outcome of one downstream run.

    Args:
        task: abbreviation, such as "PR", "KS" or "SID".
        metrics: name -> {"value", "unit", "better"} and, where it means something, "chance".
        headline: the name of the main metric, a key of `metrics`.
        corpus: {"name", "path", "split", "utterances", "seconds"} of the test.
        upstream: {"label", "class", "sha256", "parameters", "frame_rate" (Hz), "layers"}; an upstream without
            weights has sha256 "" and 0 parameters.
        learning_rate: of the head.
        seed: of the head's training.
        steps: optimiser steps of the head.
        best_step: the step of the tested checkpoint.
        selection: {"metric", "value", "split"} that chose that checkpoint, or None if the last one was taken.
        trainable_parameters: parameters that the optimiser saw.
        layer_weights: softmax over layers (sums to 1), empty if the upstream has a single layer.
        protocol: "superb" or "fixed", see `wavlm_lightning.tasks.Task`.
        details: whatever else the task has to say of the test, JSON-like.
        runtime_seconds: wall time of the test.
        command: what to type to do it again.
        created: ISO 8601 time.
        versions: {"wavlm_lightning", "torch", "lightning", "python"}.

    Example:
        >>> card = ResultCard.read(Path("runs/demo/pr-fbank/card.json"))
        >>> card.value, card.main["unit"]
        (61.5, '%')
    """

    task: str
    metrics: dict[str, MetricValue]
    headline: str
    corpus: CorpusReference
    upstream: UpstreamReference
    learning_rate: float
    seed: int
    steps: int
    best_step: int
    selection: Selection | None = None
    trainable_parameters: int = 0
    layer_weights: list[float] = field(default_factory=list)
    protocol: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    runtime_seconds: float = 0.0
    command: str = ""
    created: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def main(self) -> MetricValue:
        """The main metric with its unit and direction."""
        return self.metrics[self.headline]

    @property
    def value(self) -> float:
        """The value of the main metric, in `main["unit"]`."""
        return self.main["value"]

    def write(self, path: Path) -> Path:
        """Writes the card so that a reader sees the whole file or none.

        Args:
            path: a `.json` file, or a directory that gets `card.json`.

        Returns:
            The file written.

        Raises:
            UserError: a field is missing its parts or a figure is not finite.
        """
        path = Path(path)
        if path.suffix != ".json":
            path = path / CARD_NAME
        content = {"format": FORMAT, **asdict(self)}
        _check(content, f"the card for {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        temporary.replace(path)
        return path

    @classmethod
    def read(cls, path: Path) -> "ResultCard":
        """Reads a card and checks every field; keys that this version does not know are ignored.

        Args:
            path: a card file, or a directory that holds `card.json`.

        Raises:
            UserError: no such file, not JSON, another format, or a field that is missing or wrong.
        """
        path = Path(path)
        if path.is_dir():
            path = path / CARD_NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"no result card at {path}; `wavlm test` writes one at the end of a run") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise UserError(
                f"{path} cannot be read as a result card ({error}); delete it and test the run again"
            ) from None
        found = content.get("format") if isinstance(content, dict) else None
        if found != FORMAT:
            raise UserError(
                f"{path} has format {found!r}, this version reads {FORMAT!r}; test the run again with this version"
            )
        _check(content, str(path))
        return cls(**{entry.name: content[entry.name] for entry in fields(cls) if entry.name in content})


def find_cards(directories: Iterable[Path]) -> tuple[dict[Path, ResultCard], list[str]]:
    """Reads every `card.json` below the given directories (or the given files), each once.

    Returns:
        The cards by file, in order of path, and one sentence for each file that cannot be read as a card.

    Raises:
        UserError: a directory does not exist.
    """
    found: set[Path] = set()
    for directory in map(Path, directories):
        if not directory.exists():
            raise UserError(f"{directory} does not exist; give the directory of a run, or one that holds several runs")
        found.update(path.resolve() for path in ([directory] if directory.is_file() else directory.rglob(CARD_NAME)))
    cards: dict[Path, ResultCard] = {}
    problems = []
    for path in sorted(found):
        try:
            cards[path] = ResultCard.read(path)
        except UserError as error:
            problems.append(str(error))
    return cards, problems


# ---- validation: the expected type of every field and of every part of the compound ones

_NUMBER = (int, float)
_REQUIRED: dict[str, Any] = {
    "task": str,
    "metrics": dict,
    "headline": str,
    "corpus": {"name": str, "path": str, "split": str, "utterances": int, "seconds": _NUMBER},
    "upstream": {
        "label": str,
        "class": str,
        "sha256": str,
        "parameters": int,
        "frame_rate": _NUMBER,
        "layers": int,
    },
    "learning_rate": _NUMBER,
    "seed": int,
    "steps": int,
    "best_step": int,
}
_OPTIONAL: dict[str, Any] = {
    "trainable_parameters": int,
    "layer_weights": list,
    "protocol": str,
    "details": dict,
    "runtime_seconds": _NUMBER,
    "command": str,
    "created": str,
    "versions": dict,
}
_SELECTION = {"metric": str, "value": _NUMBER, "split": str}
_METRIC = {"value": _NUMBER, "unit": str, "better": str}


def _check(content: dict[str, Any], where: str) -> None:
    """Raises a UserError that names the first wrong field of a card's JSON."""
    _check_parts(content, _REQUIRED, where, "")
    _check_parts(content, {key: kind for key, kind in _OPTIONAL.items() if key in content}, where, "")
    for name, metric in content["metrics"].items():
        _check_parts(content["metrics"], {name: _METRIC}, where, "metrics.")
        if metric["better"] not in ("lower", "higher"):
            _refuse(where, f"metrics.{name}.better", "is neither 'lower' nor 'higher'")
        if metric.get("chance") is not None:
            _check_parts(metric, {"chance": _NUMBER}, where, f"metrics.{name}.")
    if content.get("selection") is not None:
        _check_parts(content, {"selection": _SELECTION}, where, "")
    if content["headline"] not in content["metrics"]:
        _refuse(where, "headline", f"names {content['headline']!r}, which is not among the metrics")
    weights = content.get("layer_weights", [])
    _check_parts(dict(enumerate(weights)), dict.fromkeys(range(len(weights)), _NUMBER), where, "layer_weights.")
    if weights and abs(sum(weights) - 1) > 1e-3:
        _refuse(where, "layer_weights", f"sums to {sum(weights):.4f}, not to 1 (store them after the softmax)")


def _check_parts(content: dict[Any, Any], expected: dict[Any, Any], where: str, prefix: str) -> None:
    for key, kind in expected.items():
        name = f"{prefix}{key}"
        if key not in content:
            _refuse(where, name, "is missing")
        value = content[key]
        if isinstance(kind, dict):
            if not isinstance(value, dict):
                _refuse(where, name, "is not an object")
            _check_parts(value, kind, where, f"{name}.")
        elif not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            _refuse(where, name, f"has the wrong type ({type(value).__name__})")
        elif isinstance(value, float) and not math.isfinite(value):
            _refuse(where, name, f"is {value}, not a finite number (a run that diverged? try a lower learning rate)")


def _refuse(where: str, name: str, problem: str) -> None:
    raise UserError(f"{where}: {name} {problem}; a card follows {FORMAT}, see wavlm_lightning/reports/cards.py")
