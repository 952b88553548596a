"""What may change when a run goes on (`--ckpt_path`): the new options are compared with the `config.yaml` of that run.

One rule: what decides on the weights and on the choice of the best checkpoint stays, and another value is refused by name;
how long a run trains, where, how fast, and what is watched may change, and is then really used. `MAY_CHANGE` lists the latter;
everything else stays, options of classes outside this package included. The table in `docs/stages.md` says the same (a
test compares them). Optimiser and seeds are compared with the checkpoint as well (`training.as_asked`), corpora and batches by
their hashes (`data.loading.resume`), frozen encoders by their fingerprint (`tasks.checkpoint`).
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import fnmatch
import importlib
import inspect
import typing
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.upstreams.wavlm import RANDOM
from wavlm_lightning.workflows.fit.seeds import adopt, settle

# What a key is about -> patterns of keys, without `init_args`; what is below such a key may change, too.
MAY_CHANGE: dict[str, tuple[str, ...]] = {
    "how long it trains": (
        *("trainer.max_steps", "trainer.max_epochs", "trainer.max_time", "trainer.min_steps", "trainer.min_epochs"),
        "trainer.fast_dev_run",
    ),
    "when and on how much it validates": (
        *("trainer.val_check_interval", "trainer.check_val_every_n_epoch", "trainer.num_sanity_val_steps"),
        *("trainer.limit_val_batches", "trainer.limit_test_batches", "trainer.limit_predict_batches"),
        "data.eval_batch_seconds",
    ),
    "on which devices, if the batches stay the same": (
        *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "threads"),
        *("trainer.benchmark", "trainer.deterministic"),
    ),
    "how fast, with the same values": (
        *("data.num_workers", "data.cache", "data.cache_gib", "data.shuffle_shards", "trainer.inference_mode"),
        *("model.compile", "model.activation_checkpointing"),
        *("model.upstream.*fine_tuning.compile", "model.upstream.*fine_tuning.activation_checkpointing"),
    ),
    "where its files are, if their content is the same": (
        *("data.corpus", "data.pseudo_corpus", "data.noise_corpus", "data.*transforms*.corpus"),
        "model.upstream.*source",
        *("model.upstream.*label", "trainer.default_root_dir"),
    ),
    "what is logged and kept": (
        *("trainer.logger", "trainer.log_every_n_steps", "trainer.enable_*", "trainer.profiler", "trainer.barebones"),
        *("trainer.detect_anomaly", "trainer.model_registry", "checkpoint_every", "keep_checkpoints", "recipe"),
        *("ckpt_path", "weights_only"),
    ),
}
# Callbacks that only watch or keep; others may change weights, so they stay as they were.
WATCHING = {
    *(
        "Probe",
        "Health",
        "Curves",
        "KeepExamples",
        "ModelCheckpoint",
        "OnExceptionCheckpoint",
        "EarlyStopping",
        "Timer",
    ),
    *(
        "LearningRateMonitor",
        "DeviceStatsMonitor",
        "ThroughputMonitor",
        "ModelSummary",
        "RichModelSummary",
        "StepProgress",
    ),
    *("TQDMProgressBar", "RichProgressBar", "ProgressBar"),
}
# Read when a run begins and never again: they may be left out, and the record keeps the run's own.
READ_ONCE = (("start_from", "start_with"), ("front_end_from",))
PRECISIONS = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true", "None": "32-true"}
LONGEST = 80  # characters of a value in a message


def check_going_on(asked: Mapping[str, Any], before: Mapping[str, Any], run: Path) -> None:
    """Refuse options that differ from those of the run that goes on, if they must stay.

    Args:
        asked: content of the `config.yaml` that would be written.
        before: content of that of the run; empty if there is none, and nothing is compared.
        run: its folder, for the message.

    Raises:
        UserError: naming each key with its old and new value.
    """
    asked, before = adopt(copy.deepcopy(dict(asked)), before), copy.deepcopy(dict(before))
    for content in (asked, before):
        settle(content, content.get("seed_everything"))
    found = [(key, old, new) for key, old, new in _differences(before, asked, "") if not _may_change(key, before)]
    if not found:
        return
    key, old, new = found[0]
    rest = f" (and {len(found) - 1} more: {', '.join(other for other, *_ in found[1:4])})" if len(found) > 1 else ""
    again = "model.encoder" if "encoder" in _arguments(before.get("model")) else "model.start_from"
    raise UserError(
        f"--ckpt_path: {key} is {_shown(new)} here and {_shown(old)} in {run / 'config.yaml'}{rest}, and a run that goes on "
        f"keeps it; give the value of that run, or begin a new run with its weights: {again} {run}, without --ckpt_path and "
        "with another --trainer.default_root_dir"
    )


def keep_read_once(model: Any, before: Mapping[str, Any]) -> None:
    """Put what only the beginning of a run has read back into a `model` section, where it was left out; in place."""
    now, then = _arguments(model), _arguments(before.get("model"))
    for names in READ_ONCE:
        if now.get(names[0]) is None and then.get(names[0]) is not None:
            for name in names:
                if name in then and name in now:
                    now[name] = then[name]


def _arguments(block: Any) -> Any:
    found = block.get("init_args") if hasattr(block, "get") else None  # a dict, or jsonargparse's Namespace
    return found if hasattr(found, "get") else {}


def _may_change(key: str, before: Mapping[str, Any]) -> bool:
    if fnmatch.fnmatch(key, "model.upstream.*source"):
        # A frozen encoder is recognised by its weights; those of a trained one are in the checkpoint, whatever is named.
        return not _is_trained(_arguments(before.get("model")).get("upstream"))
    patterns = [pattern for group in MAY_CHANGE.values() for pattern in group]
    return any(fnmatch.fnmatch(key, each) or fnmatch.fnmatch(key, f"{each}.*") for each in patterns)


def _is_trained(upstream: Any) -> bool:
    """Whether a section of an upstream, or of one that it wraps, says `frozen: false`."""
    if not isinstance(upstream, Mapping):
        return False
    return upstream.get("frozen") is False or any(map(_is_trained, upstream.values()))


def _differences(old: Any, new: Any, key: str, kind: Any = None) -> Iterator[tuple[str, Any, Any]]:
    """Key, old and new value of everything that differs; `kind` is the class that the options are of, if it is known.

    An option that the package did not have when the run began had its default. One that it no longer has is left out.
    """
    if key == "trainer.callbacks":
        old, new = _acting(old), _acting(new)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        kind = _class(str(new["class_path"])) if "class_path" in new else kind
        of_class = key.endswith(".init_args") or dataclasses.is_dataclass(kind)
        declared = of_class or not key or "." not in key or "class_path" in old
        defaults, kinds = _parameters(kind) if of_class else ({}, {})
        for name in dict.fromkeys([*old, *new]):
            below = f"{key}.{name}" if key else str(name)
            if name in new and (name in old or name in defaults):
                inside = kind if name == "init_args" else kinds.get(name)
                yield from _differences(old.get(name, defaults.get(name)), new[name], below, inside)
            elif not declared and (old.get(name), new.get(name)) != (None, None):
                yield _plain(below), old.get(name, "not set"), new.get(name, "not set")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new) and key != "data.init_args.corpus":
        for place, pair in enumerate(zip(old, new, strict=True)):
            yield from _differences(*pair, f"{key}.{place}")
    elif not _same(key, old, new):
        yield _plain(key), old, new


def _parameters(kind: Any) -> tuple[dict[str, Any], dict[str, type]]:
    """Defaults of the parameters of a class as YAML has them, and the data classes among their types."""
    if kind is None:
        return {}, {}
    try:
        parameters = inspect.signature(kind).parameters.values()
        hints = typing.get_type_hints(kind if dataclasses.is_dataclass(kind) else kind.__init__)
    except (TypeError, ValueError, NameError):
        return {}, {}
    defaults, kinds = {}, {}
    for each in parameters:
        with contextlib.suppress(TypeError):  # a required parameter, or a default that a YAML cannot say
            defaults[each.name] = _as_yaml(each.default)
    for name, hint in hints.items():
        for kind_of_it in (hint, *typing.get_args(hint)):
            if isinstance(kind_of_it, type) and dataclasses.is_dataclass(kind_of_it):
                kinds[name] = kind_of_it
    return defaults, kinds


def _as_yaml(value: Any) -> Any:
    """A default as `config.yaml` would say it: numbers, texts, and lists and dictionaries of them.

    Raises:
        TypeError: it is or holds another object, which has no such form.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {name: _as_yaml(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_as_yaml(each) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(type(value).__name__)


def _same(key: str, old: Any, new: Any) -> bool:
    if old == new:
        return True
    if key == "trainer.precision":
        return PRECISIONS.get(str(old), str(old)) == PRECISIONS.get(str(new), str(new))
    if key.endswith("class_path") and isinstance(old, str) and isinstance(new, str):
        return _class(old) is _class(new) is not None  # a class that has moved
    if fnmatch.fnmatch(key, "model.*source") or key == "model.init_args.encoder":
        return RANDOM + str(old) == str(new) or str(old) == RANDOM + str(
            new
        )  # older versions wrote `base` for `random:base`
    return False


def _class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        return None


def _acting(callbacks: Any) -> list[Any]:
    """The callbacks that may change weights."""
    listed = callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []
    names = [str(each.get("class_path") if isinstance(each, Mapping) else each) for each in listed]
    return [each for each, name in zip(listed, names, strict=True) if name.rpartition(".")[2] not in WATCHING]


def _plain(key: str) -> str:
    """A key as it is given on the command line: without `init_args`."""
    return ".".join(part for part in key.split(".") if part != "init_args")


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
