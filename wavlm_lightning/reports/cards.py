"""The result card: one JSON file per tested run, with everything that tables and plots need to know about it."""

import math
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, NotRequired, TypedDict, get_args, get_origin, get_type_hints, is_typeddict

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import write_json
from wavlm_lightning.system.reading import read_json, shown

FORMAT = "wavlm_lightning/card/1"
CARD_NAME = "card.json"
LIMITED = ", limit_test_batches "  # in the name of the tested split, before the limit: not all of it was tested


class MetricValue(TypedDict):
    """One figure of a run; `value` and `chance` (what guessing scores) are in `unit`.

    `scale` times the value in curves gives `value`, which is shown with `decimals`; cards of percentages have neither.
    """

    value: float
    unit: str
    better: Literal["lower", "higher"]
    chance: NotRequired[float]
    scale: NotRequired[float]
    decimals: NotRequired[int]


DECIMALS = 2  # of a metric that does not say; the SUPERB board's own precision


def scale(metric: MetricValue) -> float:
    """The factor from a metric's value in curves to that on its card."""
    return metric.get("scale", 100.0 if metric["unit"] == "%" else 1.0)


def percent(metric: MetricValue) -> float:
    """The value in percent, whatever unit the card gives a fraction in."""
    return metric["value"] if metric["unit"] == "%" else 100 * metric["value"] / scale(metric)


def metric_text(metric: MetricValue) -> str:
    """The value with its decimals and unit: "9.3 dB"."""
    return f"{metric['value']:.{metric.get('decimals', DECIMALS)}f} {metric['unit']}".rstrip()


class CorpusReference(TypedDict):
    """The test data: `utterances` with `seconds` of audio in a split of a corpus.

    `sha256` changes with their audio and labels; older cards lack it.
    """

    name: str
    path: str
    split: str
    utterances: int
    seconds: float
    sha256: NotRequired[str]


# The functional form because "class" is a keyword of Python and still the right word in the file.
UpstreamReference = TypedDict(
    "UpstreamReference",
    {
        "label": str,
        "class": str,
        "sha256": str,
        "parameters": int,
        "frame_rate": float,
        "layers": int,
        "trained": NotRequired[bool],
        "labelled": NotRequired[list[dict[str, Any]]],
    },
)


class Selection(TypedDict):
    """How the tested checkpoint was chosen: the metric, whether high or low is good, and the split it was measured on."""

    metric: str
    value: float
    mode: NotRequired[Literal["min", "max"]]
    split: str


class HeadlineInterval(TypedDict):
    """How sure a figure is: the ends of its interval in its unit, and how they were found, see `reports.utterances`."""

    low: float
    high: float
    level: float
    method: str
    resamples: int
    resampled: str
    units: int


PERMUTED = " permuted"
"""The end of the name of a corpus whose labels (or enrolments) are those of other utterances: of a control."""


@dataclass(kw_only=True)
class ResultCard:
    """The outcome of one downstream run.

    Args:
        task: abbreviation, such as "PR", "KS" or "SID".
        metrics: name -> {"value", "unit", "better"} and, where it means something, "chance".
        headline: the name of the main metric, a key of `metrics`.
        headlines: the metrics that tables and pictures show, if they are more than the main one; see `shown`.
        corpus: {"name", "path", "split", "utterances", "seconds", "sha256"} of the test.
        upstream: {"label", "class", "sha256", "parameters", "frame_rate" (Hz), "layers"}; an upstream without
            weights has sha256 "" and 0 parameters. "trained" is there if it was trained with the head. "labelled" lists the
            labelled speech that its weights have learned from, {"utterances", "seconds", "corpus"} of each corpus; it is missing
            where they have seen none, or where the source does not say.
        learning_rate: of the head.
        seed: of the head's training.
        steps: optimiser steps of the head, as planned.
        updates: those that its run has made: fewer if it was stopped. None if that is not known, as on older cards.
        best_step: the step of the tested checkpoint.
        selection: {"metric", "value", "split"} that chose that checkpoint, or None if the last one was taken.
        interval: of the headline: {"low", "high"} in its unit, {"level" (0.95), "method", "resamples", "resampled" (speakers,
            utterances, recordings, trials or queries), "units" (how many of them)}; None without results of utterances.
        intervals: the same of further metrics, by name; empty on older cards.
        interval_note: why there is no interval, as the end of a sentence.
        rates_tried: learning rates (in a sweep, settings) of which this one was chosen; 1 for a run on its own, None if
            the card does not say, as older ones.
        chosen_on: the split on which it was chosen; "" if there was no choice.
        trainable_parameters: parameters that the optimiser saw.
        layer_weights: softmax over layers (sums to 1), empty if the upstream has a single layer.
        protocol: "superb" or "fixed", see `wavlm_lightning.tasks.Task`.
        details: further JSON-like facts of the test; each task decides which.
        fitted: what was fitted on the validation split (a threshold, a clustering), see `Task.fit_on_validation`.
        averaged: updates of the checkpoints whose mean the weights are; empty for weights of a single update.
        started: {"checkpoint", "with", "step"} of the run whose weights this one began with; empty for random ones.
        labelled: {"utterances", "seconds", "corpus"} of the true labels on which the head was trained; empty on older cards.
        pseudo_labelled: the same of those that another recogniser has written, with {"round", "labelled"}: how many teachers
            came before, and the labels that they had seen.
        runtime_seconds: wall time of the test.
        training_seconds: wall time of the training up to the tested checkpoint; 0 if it is not known.
        machine: {"processor", "cores", "threads", "device"} of the test; empty on cards of older versions.
        command: the command that repeats the test.
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
    updates: int | None = None
    selection: Selection | None = None
    headlines: list[str] = field(default_factory=list)
    interval: HeadlineInterval | None = None
    interval_note: str = ""
    intervals: dict[str, HeadlineInterval] = field(default_factory=dict)
    rates_tried: int | None = None
    chosen_on: str = ""
    trainable_parameters: int = 0
    layer_weights: list[float] = field(default_factory=list)
    protocol: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    fitted: dict[str, Any] = field(default_factory=dict)
    averaged: list[int] = field(default_factory=list)
    started: dict[str, Any] = field(default_factory=dict)
    labelled: dict[str, Any] = field(default_factory=dict)
    pseudo_labelled: dict[str, Any] = field(default_factory=dict)
    runtime_seconds: float = 0.0
    training_seconds: float = 0.0
    machine: dict[str, str] = field(default_factory=dict)
    command: str = ""
    created: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def main(self) -> MetricValue:
        return self.metrics[self.headline]

    @property
    def is_control(self) -> bool:
        """Whether labels were those of other utterances, so that the figure is one of chance and no rival of others."""
        return self.corpus["name"].endswith(PERMUTED)

    @property
    def shown(self) -> list[str]:
        """Names of the metrics that tables and pictures show; those of older cards are the main one."""
        return self.headlines or [self.headline]

    @property
    def value(self) -> float:
        """The value of the main metric, in `main["unit"]`."""
        return self.main["value"]

    def write(self, path: Path) -> Path:
        """Check and write the card to a `.json` file, or as `card.json` to a directory; return the file.

        Another process sees the whole file or none. A UserError names a field that lacks a part or is not finite.
        """
        path = Path(path)
        if path.suffix != ".json":
            path = path / CARD_NAME
        content = {"format": FORMAT, **asdict(self)}
        new = ("headlines", "interval", "interval_note", "intervals", "rates_tried", "chosen_on", "training_seconds")
        for name in (*new, "machine", "labelled", "pseudo_labelled"):
            if not content[name]:  # such cards stay as older versions wrote them
                del content[name]
        self._check(content, f"the card for {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content, indent=2, allow_nan=False)
        return path

    @classmethod
    def read(cls, path: Path) -> "ResultCard":
        """Read a card (a file, or the directory of `card.json`) and check every field; unknown keys are ignored.

        Raises:
            UserError: no such file, not JSON, another format, or a field that is missing or wrong.
        """
        path = Path(path)
        if path.is_dir():
            path = path / CARD_NAME
        if not path.exists():
            raise UserError(f"no result card at {path}; `wavlm test` writes one at the end of a run")
        content = read_json(path, "a result card", "delete it and test the run again")
        found = content.get("format")
        if found != FORMAT:
            raise UserError(f"{path} has format {shown(found)}, not {FORMAT!r}; test the run again with this version")
        cls._check(content, str(path))
        if "rates_tried" not in content and isinstance(tried := content.get("details", {}).get("learning_rates"), dict):
            # `wavlm superb` has always listed the figures of the rates; only the number is new.
            content["rates_tried"] = len(tried) + len(content["details"].get("failed_learning_rates", ()))
        return cls(**{entry.name: content[entry.name] for entry in fields(cls) if entry.name in content})

    @classmethod
    def _check(cls, content: dict[str, Any], where: str) -> None:
        kinds = get_type_hints(cls)
        for entry in fields(cls):
            if entry.name in content:
                _check_types(content[entry.name], kinds[entry.name], entry.name, where)
            elif entry.default is MISSING and entry.default_factory is MISSING:
                _refuse(where, entry.name, "is missing")
        if content["headline"] not in content["metrics"]:
            _refuse(where, "headline", f"names {shown(content['headline'])}, which is not among the metrics")
        for name in content.get("headlines", ()):
            if name not in content["metrics"]:
                _refuse(where, "headlines", f"names {shown(name)}, which is not among the metrics")
        weights = content.get("layer_weights")
        if weights and abs(sum(weights) - 1) > 1e-3:
            _refuse(where, "layer_weights", f"sums to {sum(weights):.4f}, not to 1 (store them after the softmax)")


def find_cards(directories: Iterable[Path]) -> tuple[dict[Path, ResultCard], list[str]]:
    """Read every `card.json` below the given directories, and the given card files, each once.

    Returns the cards by file, in order of path, and one sentence for each file that is not readable as a card. A missing
    directory is a UserError.
    """
    found: set[Path] = set()
    for directory in map(Path, directories):
        if not directory.exists():
            raise UserError(f"{directory} does not exist; give the directory of a run, or one that holds several runs")
        found.update(path.resolve() for path in ([directory] if directory.is_file() else directory.rglob(CARD_NAME)))
    cards, problems = {}, []
    for path in sorted(found):
        try:
            cards[path] = ResultCard.read(path)
        except UserError as error:
            problems.append(str(error))
    return cards, problems


def _check_types(value: Any, expected: Any, name: str, where: str) -> None:
    """Compare a value from JSON with a type annotation: TypedDict, dict, list, Literal, `X | None` or a plain type."""
    origin, parts = get_origin(expected), get_args(expected)
    if expected is Any:
        return
    if is_typeddict(expected):
        if not isinstance(value, dict):
            _refuse(where, name, "is not an object")
        for key, kind in get_type_hints(expected).items():
            if key not in value and key in expected.__required_keys__:
                _refuse(where, f"{name}.{key}", "is missing")
            # A part that may be missing may be null as well.
            if value.get(key) is not None or key in expected.__required_keys__:
                _check_types(value[key], kind, f"{name}.{key}", where)
    elif origin is UnionType:
        if value is not None:
            _check_types(value, parts[0], name, where)
    elif origin is Literal:
        if value not in parts:
            _refuse(where, name, f"is {shown(value)}, not one of {', '.join(map(repr, parts))}")
    elif not _is_instance(value, origin or expected):
        _refuse(where, name, f"has the wrong type ({type(value).__name__})")
    elif isinstance(value, float) and not math.isfinite(value):
        _refuse(where, name, f"is {value}, not a finite number (if the run diverged, try a lower learning rate)")
    elif origin in (dict, list):
        for place, part in value.items() if origin is dict else enumerate(value):
            _check_types(part, parts[-1], f"{name}.{place}", where)


def _is_instance(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):  # to Python a bool is an int, on a card it is a mistake
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _refuse(where: str, name: str, problem: str) -> NoReturn:
    raise UserError(f"{where}: {name} {problem}; a card follows {FORMAT}, see wavlm_lightning/reports/cards.py")
