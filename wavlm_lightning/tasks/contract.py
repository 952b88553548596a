"""What a task asks of its data, and what a data module serves: two typed objects, exchanged once when a run begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from wavlm_lightning.data.corpus import Corpus, Split
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.upstreams import Upstream
from wavlm_lightning.upstreams.cache import Level

PROCESSING = ("gain_db", "trim")  # keys of `corpus.json` under which a corpus recipe records what it did to the audio


NamedMeta = tuple[AbstractContextManager[None], dict[str, Any]]
"""The metadata of an utterance, and a context in which an error says which utterance it is."""


@dataclass(frozen=True)
class Needs:
    """What one task asks of the data module; `Task.needs` fills it in from the task's attributes and methods.

    Attributes:
        name: of the task.
        upstream: computes the features of a cache; its frame rate is the unit of `data.max_frames`.
        protocol: `superb` or `fixed`.
        read_target: the target of an utterance from its metadata.
        crop_target: the target of a crop of an utterance; see `Task.crop_target`.
        selection_split: the split that chooses the checkpoint, of the names of valid and test.
        cache_level: what a feature cache may store for the task; None refuses a cache.
        normalize: whether the weighted sum normalises each layer, which a cache of means cannot know.
        framewise: the target has one entry a frame, so that no transform may change the length of the waveform.
        transcribes: the target is all that was said, so that neither crops nor transforms may cut the waveform.
        every_talker: the target is all who speak, so that no transform may add talkers.
        target_audio: further audio of an utterance that is the target, sample by sample with the input.
        reconstructs: the target may be the input itself, without transforms.
        extra_audio: further audio of an utterance that is a second input, of any length.
        check: refuses a corpus with wrong labels, and metadata without a target, before anything is computed; see
            `Task.check_corpus`.
    """

    name: str
    upstream: Upstream
    protocol: str
    read_target: Callable[[dict[str, Any]], Tensor]
    crop_target: Callable[[Tensor, int, int], Tensor]
    selection_split: Callable[[str, str], str]
    cache_level: Level | None = None
    normalize: bool = False
    framewise: bool = False
    transcribes: bool = False
    every_talker: bool = False
    target_audio: tuple[str, ...] = ()
    reconstructs: bool = False
    extra_audio: tuple[str, ...] = ()
    check: Callable[[Corpus, Mapping[str, str], bool, Iterable[NamedMeta]], None] | None = None

    @property
    def resamples(self) -> bool:
        """Whether validation draws with replacement where training does (`data.balance`), as s3prl does for KS."""
        return self.protocol == "superb"


def _no_loader(stage: str) -> Any:
    raise UserError("this data module serves no second pass; use TaskData")


def _no_training() -> Split:
    raise UserError("this data module serves no training split in a test; use TaskData")


def _not_whole(split: Split) -> Any:
    raise UserError("this data module serves no whole utterances of training; use TaskData")


@dataclass(frozen=True)
class Served:
    """What a data module gives the tasks of a run.

    Attributes:
        corpus: with the label inventories that training uses: transforms such as a change of speed may add some.
        opened: `train`, `valid` or `test` -> the opened split, for those that this part of the run uses.
        splits: `train`, `valid` and `test` -> the name of the split in the corpus.
        loader: makes a new loader of the batches of `train`, `valid` or `test`, for a pass of a task's own.
        path: the corpus as the user named it.
        training: opens the split `train`, also in a test.
        labelled: the utterances with true labels that a fit trains on: `utterances`, `seconds`, `corpus`; empty if not known.
        pseudo_labelled: likewise those whose transcripts a recogniser wrote, with `round`, and `labelled`, what that had seen.
        whole: makes a loader of a split or a `Subset` as an evaluation reads it, whole utterances without transforms and
            without the cache, each process its share: for what is fitted on training data under these conditions.
        factor: the gain of all waveforms that are served, of an amplitude.
        changed: what the transforms of validation and test are, JSON-like; empty without any.
    """

    corpus: Corpus
    opened: Mapping[str, Split] = field(default_factory=dict)
    splits: Mapping[str, str] = field(default_factory=dict)
    loader: Callable[[str], Any] = _no_loader
    path: str | Path = ""
    training: Callable[[], Split] = _no_training
    whole: Callable[[Split], Any] = _not_whole
    labelled: Mapping[str, Any] = field(default_factory=dict)
    pseudo_labelled: Mapping[str, Any] = field(default_factory=dict)
    factor: float = 1.0
    changed: Sequence[Any] = ()

    def version(self, name: str) -> str:
        """A hash that changes if an utterance of an opened split does, or what the transforms of an evaluation make of it."""
        return self.opened[name].version(self.changed)

    @property
    def processing(self) -> dict[str, Any]:
        """What the corpus recipe did to the audio: gain and removal of quiet stretches, where it did something."""
        source = self.corpus.body["source"]
        return {name: source[name] for name in PROCESSING if name in source}

    @property
    def level(self) -> float:
        """The gain between the recordings and what is served, of an amplitude: `factor`, and that of the corpus recipe."""
        return self.factor * 10 ** (self.processing.get("gain_db", 0.0) / 20)


def tasks_of(module: Any) -> list[Any]:
    """The task itself, or the first of several heads for each task."""
    if not hasattr(module, "heads"):
        kind = type(module).__name__
        raise UserError(f"TaskData serves tasks, not {kind}; for pre-training use PretrainingData")
    first: dict[str, Any] = {}
    for head in module.heads().values():
        first.setdefault(head.name, head)
    return list(first.values())


def join(trainer: pl.Trainer, serve: Callable[[tuple[Needs, ...]], Served] | None = None) -> None:
    """Tell a data module what the trainer's tasks need, and hand each head what it serves, as `Task.data`.

    This is the only place where the two meet. `TaskData.setup` calls it with `serve`, before any hook of the task. A
    task calls it without, for a data module that does not call it: of any with a `corpus`, the task gets this corpus, and
    its `opened`, `splits` and loaders where it has them.
    """
    source: Any = getattr(trainer, "datamodule", None)
    if serve is None and hasattr(source, "serve"):
        return  # its `setup` has joined them
    module = trainer.lightning_module
    served = _served_by(source) if serve is None else serve(tuple(task.needs() for task in tasks_of(module)))
    for head in module.heads().values():
        head.data = served


def _served_by(source: Any) -> Served | None:
    if not hasattr(source, "corpus"):
        return None
    loaders = {"train": "train_dataloader", "valid": "val_dataloader", "test": "test_dataloader"}
    return Served(
        source.corpus,
        getattr(source, "opened", {}),
        getattr(source, "splits", {}),
        lambda stage: getattr(source, loaders[stage])(),
        getattr(source, "path", source.corpus.directory),
    )
