"""Checks of a `wavlm fit` before it computes anything: monitored metrics, chosen encoder, layers, corpus and splits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.name_hints import nearest
from wavlm_lightning.tasks import Task
from wavlm_lightning.upstreams.chosen_layers import numbered
from wavlm_lightning.upstreams.wavlm import RANDOM, load_encoder, preset_of

PACKAGE = __name__.partition(".")[0]


def logged_names(model: Task) -> list[str]:
    """The metrics that a task, or each of several heads, logs in training and validation."""
    names = []
    for label, head in model.heads().items():
        own = [*(f"valid/{name}" for name in head.directions), head.monitor[0]]
        own += [n for n in head.means if n.startswith("valid/")]
        names += [f"{label}/{name}".lstrip("/") for name in (*own, "train/loss")]
    return list(dict.fromkeys(names))


def check_monitored(trainer: pl.Trainer, model: pl.LightningModule) -> None:
    """Refuse callbacks that wait for a metric which the task never logs; Lightning notices after the first validation.

    Left to Lightning where a class of the user's own, head or callback, may log more.

    Raises:
        UserError: naming the callback, the metric and those that there are.
    """
    if not isinstance(model, Task):
        return
    ours = [*model.heads().values(), *trainer.callbacks]
    if any(type(each).__module__.partition(".")[0] not in (PACKAGE, "lightning") for each in ours):
        return
    names = logged_names(model)
    for callback in trainer.callbacks:
        asked = getattr(callback, "monitor", None)
        counted = isinstance(callback, ModelCheckpoint) and asked in ("step", "epoch")  # which Lightning adds for it
        if isinstance(asked, str) and asked not in names and not counted:
            raise UserError(
                f"trainer.callbacks: {type(callback).__name__} monitors {asked!r}, which {model.name} does not log"
                f"{nearest(asked, names)}; it logs {', '.join(names)}"
            )


def random_upstream(model: Any) -> str | None:
    """The source of an encoder with random weights in a section `model`, also of one that another upstream wraps."""
    for block in _blocks(model):
        kind = str(block.get("class_path", "")).rpartition(".")[2]
        source = (block.get("init_args") or {}).get("source")
        if kind == "WavLMUpstream" and source is not None and preset_of(source) is not None:
            return str(source)
    return None


def _blocks(section: Any) -> Iterator[Any]:
    if hasattr(section, "as_dict"):  # jsonargparse's Namespace
        section = section.as_dict()
    if isinstance(section, Mapping):
        yield section
        for value in section.values():
            yield from _blocks(value)


def check_upstream_chosen(model: Any, words: Sequence[str], what: str) -> None:
    """Refuse a sweep that would train heads on random weights because nobody named an encoder.

    Args:
        model: the parsed section `model`.
        words: options of the command and names of what the sweep varies; one of them may choose random weights.
        what: whose options they are, for the message.
    """
    if (source := random_upstream(model)) is None:
        return
    if any("upstream" in word.partition("=")[0].split(".") for word in words if word.startswith("--model")):
        return
    preset = preset_of(source)
    raise UserError(
        f"{what} names no encoder, so that heads would be trained on random weights ({preset}); add "
        f"--model.upstream.source RUN to its command, or {RANDOM}{preset} to sweep this control"
    )


def check_layers(model: Any) -> None:
    """Refuse `ChosenLayers` with a layer that its WavLM does not have; other upstreams tell when they are built.

    Reads the encoder, if it is there.
    """
    for block in _blocks(model):
        arguments = block.get("init_args") or {}
        inner = arguments.get("upstream")
        if str(block.get("class_path", "")).rpartition(".")[2] != "ChosenLayers" or not isinstance(inner, Mapping):
            continue
        own = inner.get("init_args") or {}
        source = own.get("source")
        if str(inner.get("class_path", "")).rpartition(".")[2] == "WavLMUpstream" and source is not None:
            count = layer_count(str(source), own.get("overrides") or {})
            if count is not None:
                numbered(arguments.get("layers") or [], count + 1, str(own.get("label") or source))


def layer_count(source: str, overrides: Mapping[str, Any]) -> int | None:
    """Transformer layers of a WavLM; None if a checkpoint is not here."""
    if preset_of(source) is None and not Path(source).exists():
        return None
    return _layers(source, json.dumps(dict(overrides), sort_keys=True))


@lru_cache(maxsize=8)  # a sweep asks for each of its trials
def _layers(source: str, changed: str) -> int:
    overrides = json.loads(changed)
    if (preset := preset_of(source)) is None:
        return load_encoder(source, overrides).config.layers
    try:
        return WavLMConfig.preset(preset, **overrides).layers
    except (TypeError, ValueError) as error:
        raise UserError(f"encoder {source!r}: {error}") from error


def check_data(data: Any, missing: bool = False) -> None:
    """Refuse a `TaskData` whose corpus lacks the splits for training, or is not there; other data modules check their own.

    Args:
        data: the parsed section `data`.
        missing: whether the corpus may be missing here.
    """
    if str(data.class_path).rpartition(".")[2] != "TaskData" or (missing and not Path(data.init_args.corpus).exists()):
        return
    corpus = Corpus.open(data.init_args.corpus)
    for stage in ("train", "valid"):
        for name in data.init_args[f"{stage}_split"].split("+"):
            if name not in corpus.splits:
                raise UserError(
                    f"{corpus.directory}: no split {name!r}, which data.{stage}_split names; it has {', '.join(corpus.splits)}"
                )
