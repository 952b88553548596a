"""Measure upstreams and label sets one after the other, and keep every figure as soon as it is there."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wavlm_lightning.codebooks.labels import LabelSet
from wavlm_lightning.data.alignments import OWN, AlignmentSet
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.split import Split
from wavlm_lightning.metrics.abx import (
    AbxScore,
    AbxTask,
    Item,
    frames_of,
    items_from_alignments,
    read_items,
    write_items,
)
from wavlm_lightning.metrics.abx.score import MODES
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import check_output, own_folder, write_json
from wavlm_lightning.system.hardware import usable_cores
from wavlm_lightning.system.progress import progress_bar, say
from wavlm_lightning.system.reading import read_json, reading
from wavlm_lightning.upstreams import Upstream
from wavlm_lightning.upstreams.specs import build
from wavlm_lightning.workflows.units.labels import alignment_measures, label_measures, stability_of
from wavlm_lightning.workflows.units.layer_frames import LayerFrames

NAME = "units.json"
FORMAT = "wavlm_lightning/units/1"
MOST_FOR_PROJECTION = 100_000  # frames from which the directions of `pca` are computed


def measure_units(
    upstreams: Sequence[str],
    data: Path | str,
    out: Path,
    *,
    split: str = "valid",
    items: Path | None = None,
    unit: str = "triphone",
    context: str = "within",
    layers: Sequence[int] | None = None,
    labels: Sequence[str] = (),
    alignments: str | None = None,
    compare: Sequence[str] = (),
    pca: int | None = None,
    device: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure layers of upstreams, label sets and alignments on a split of a corpus.

    A call with the same `out` and data measures only what is missing there.

    Args:
        upstreams: specifications, see `upstreams.specs.resolve`; each layer gets an ABX error within and across speakers.
        data: folder of the corpus.
        out: folder of `units.json` and `items.item`.
        split: of the corpus.
        items: item file of Libri-Light's form, whose files are keys of the split; None makes items from the phone times.
        unit: of items that are made: `triphone` or `phone`.
        context: `within`: a, b and x have the same neighbours; `any`: whatever the neighbours, for phones alone.
        layers: of upstreams with more than one; all by default.
        labels: names of label sets of the corpus.
        alignments: name of the set of phone times; by default those of the corpus itself.
        compare: further alignment sets, which are compared with `alignments`.
        pca: project features on this number of directions first, those with the most energy.
        device: of the upstreams; None chooses.
        seed: of ABX's draws.

    Returns:
        The content of `units.json`.

    Raises:
        UserError: there is nothing to measure, arguments do not fit together or to what `out` holds, an item is of no
            utterance of the split, or nothing can be compared.

    Example:
        >>> found = measure_units(["fbank"], "data/mini/pretrain", Path("runs/units"), layers=[0])
        >>> found["upstreams"]["FBANK"]["layers"]["0"]["within"]["error"]
        0.058
    """
    check_output(out)
    if not upstreams and not labels and not compare:
        raise UserError("nothing to measure; name an upstream, --labels or --compare")
    if context == "any" and (unit != "phone" or items is not None):
        raise UserError("--context any is for phones made from times; add --unit phone, and leave out --items")
    if pca is not None and not upstreams:
        raise UserError("--pca is for features of an upstream; name one, or leave it out")
    corpus = Corpus.open(data)
    opened = corpus.split(split)
    times = _times(corpus, alignments, needed=bool(upstreams and items is None) or bool(compare))
    compared, source = _items(corpus, opened, times, items, unit, needed=bool(upstreams))
    names = dict.fromkeys(labels)
    settings = {
        "corpus": {"name": corpus.name, "sha256": corpus.sha256, "split": split, "utterances": len(opened)},
        "seconds": opened.seconds,
        "items": {**source, "items": len(compared), "sha256": _hash(compared), "context": context},
        "times": None if times is None else {"name": times.name, "sha256": times.times_sha256([split])},
        "pca": pca,
        "seed": seed,
    }
    built = _built(upstreams)
    with own_folder(out, "units"):
        begun, file = (out / NAME).exists(), out / "items.item"
        body = _begun(out / NAME, settings)
        if compared and not (begun and file.exists()):  # without figures beside it, a file may be of other items
            write_items(file, compared)
        if context == "any":
            compared = [item._replace(previous="", next="") for item in compared]

        def keep() -> None:
            write_json(out / NAME, body, indent=1)

        for label, upstream in built.items():
            _measure_upstream(body, keep, label, upstream, opened, compared, layers, out / "frames", pca, device, seed)
        sets = {name: LabelSet.open(corpus, name, split) for name in names}
        for name, rows in sets.items():
            _check_same(body["labels"].get(name), "codebook", rows.codebook_sha256, name, out)
            if name not in body["labels"]:
                found = label_measures(rows, times, split)
                said = f"labels {name}"
                body["labels"][name] = found | {"abx": _abx_of_labels(rows, opened, compared, seed, said)}
                keep()
        for one, other in itertools.combinations(sets, 2):
            if not any({pair["one"], pair["other"]} == {one, other} for pair in body["stability"]):
                body["stability"].append({"one": one, "other": other, **stability_of(sets[one], sets[other])})
                keep()
        for name in compare:
            if times is not None:  # `_times` has refused the lack of it
                body["alignments"][name] = alignment_measures(AlignmentSet.open(corpus, name), times, opened)
                keep()
    return body


def _times(corpus: Corpus, name: str | None, needed: bool) -> AlignmentSet | None:
    """The phone times; None if the corpus has none of its own and none are needed."""
    if name is None and not needed and not corpus.inventories.get("phones"):
        return None
    return AlignmentSet.open(corpus, name or OWN)


def _items(
    corpus: Corpus, split: Split, times: AlignmentSet | None, path: Path | None, unit: str, needed: bool
) -> tuple[list[Item], dict[str, Any]]:
    """The items of a file, or those of the phone times, without which labels can be measured; what `units.json` says of them."""
    if path is not None:
        found, known = read_items(path), set(split.keys)
        if missing := sorted({item.file for item in found} - known):
            raise UserError(
                f"{path}: {len(missing)} of its {len({item.file for item in found})} files, such as {missing[0]!r}, are no "
                f"utterance of split {split.name!r} of {corpus.directory}; give the corpus and --split that the items belong to"
            )
        return found, {"file": path.name}
    if times is None:  # then there is no upstream
        return [], {}
    rows = []
    for key, meta, segments in zip(split.keys, split.metas(), times.rows(split.name), strict=True):
        if segments:
            if not meta.get("speaker"):
                if not needed:
                    return [], {}
                raise UserError(f"{corpus.directory}: utterance {key!r} has no speaker, which ABX needs; give --items")
            rows.append((key, str(meta["speaker"]), segments))
    if not (items := items_from_alignments(rows, unit)) and needed:
        raise UserError(
            f"{corpus.directory}: split {split.name!r} has no phone between two phones with times; give --items, or "
            "--alignments NAME of times that `wavlm align` makes"
        )
    return items, {"alignments": times.name, "unit": unit}


def _hash(items: Sequence[Item]) -> str:
    return hashlib.sha256("\n".join(map(repr, items)).encode()).hexdigest()


def _built(specs: Sequence[str]) -> dict[str, Upstream]:
    built: dict[str, Upstream] = {}
    for spec in dict.fromkeys(specs):
        upstream = build(spec)
        if upstream.label in built:
            raise UserError(
                f"{spec}: another upstream is called {upstream.label!r}, too; write NAME={spec} for one of them"
            )
        built[upstream.label] = upstream
    return built


def _begun(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What an earlier call has measured on the same data; a `UserError` if it was other data."""
    if not path.exists():
        return {"format": FORMAT, **settings, "upstreams": {}, "labels": {}, "stability": [], "alignments": {}}
    again = "remove it, or choose another --out"
    body = read_json(path, "measures of units", again)
    with reading(path, "measures of units", again):
        if body["format"] != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        other = [key for key, value in settings.items() if body[key] != value]
        for key, kind in {"upstreams": dict, "labels": dict, "stability": list, "alignments": dict}.items():
            if not isinstance(body[key], kind):
                raise TypeError(f"`{key}` is no {kind.__name__}")
    if other:
        raise UserError(f"{path}: holds figures with other {' and '.join(other)}; {again}")
    return body


def _check_same(found: dict[str, Any] | None, what: str, sha256: str, name: str, out: Path) -> None:
    if found is not None and found.get("sha256") != sha256:
        raise UserError(
            f"{out / NAME}: holds figures of another {what} called {name!r}; rename one, or choose another --out"
        )


def _measure_upstream(
    body: dict[str, Any],
    keep: Callable[[], None],
    label: str,
    upstream: Upstream,
    split: Split,
    items: Sequence[Item],
    layers: Sequence[int] | None,
    frames: Path,
    pca: int | None,
    device: str | None,
    seed: int,
) -> None:
    """ABX of the layers that are missing."""
    _check_same(body["upstreams"].get(label), "upstream", upstream.fingerprint(), label, frames.parent)
    if pca is not None and pca >= upstream.dim:
        raise UserError(f"--pca {pca}: {label} has {upstream.dim} dimensions; choose fewer, or leave it out")
    wanted = list(range(upstream.num_layers))
    if layers is not None and upstream.num_layers > 1:
        if beyond := [layer for layer in layers if layer not in wanted]:
            raise UserError(f"--layers {beyond[0]}: {label} has layers 0 to {wanted[-1]}")
        wanted = sorted(set(layers))
    entry = body["upstreams"].setdefault(label, {**upstream.describe(), "layers_of": upstream.num_layers, "layers": {}})
    missing = [layer for layer in wanted if str(layer) not in entry["layers"]]
    if not missing:
        return
    places = {item: frames_of(item.onset, item.offset, upstream.frame_rate) for item in set(items)}
    stretches: dict[str, tuple[int, int]] = {}
    for item, (first, last) in places.items():
        low, high = stretches.get(item.file, (first, last))
        stretches[item.file] = (min(low, first), max(high, last))
    folder = frames / hashlib.sha256(label.encode()).hexdigest()[:12]
    passed = LayerFrames(folder, upstream, split, stretches, missing, device)
    starts, lengths = np.empty((2, len(items)), dtype=np.int64)
    for number, item in enumerate(items):
        first, last = places[item]
        begin = first - stretches[item.file][0]
        starts[number] = passed.begins[item.file] + begin
        lengths[number] = max(min(last - first, passed.available[item.file] - begin), 0)
    whole = np.array([places[item][1] - places[item][0] for item in items])
    tasks, kept = _tasks(items, lengths, seed, label)
    if not tasks:
        passed.remove()
        raise UserError(
            f"{label}: no two of these items can be compared; give more speech, or --unit phone --context any"
        )
    entry |= {"items": int(kept.sum()), "items_cut": int((kept & (lengths < whole)).sum())}
    total = len(missing) * sum(task.cells for task in tasks.values())
    with progress_bar(total=total, desc=f"ABX {label}", unit=" cells", leave=False) as bar:
        for layer in missing:
            features = passed.layer(layer)
            if pca is not None:
                features = _projected(features, pca, seed)
            try:
                found = {
                    mode: _entry(task.features_error(features, starts[kept], lengths[kept], usable_cores(), bar.update))
                    for mode, task in tasks.items()
                }
            except ValueError as error:
                raise UserError(f"{label}: layer {layer}: {error}; it cannot be scored") from error
            entry["layers"][str(layer)] = found
            keep()
    passed.remove()


def _tasks(items: Sequence[Item], lengths: np.ndarray, seed: int, what: str) -> tuple[dict[str, AbxTask], np.ndarray]:
    """The tasks that have a triple, of the items with a frame; and which these items are, bool `(items,)`."""
    kept = lengths > 0
    if not kept.all():
        say(f"{what}: {int((~kept).sum())} of {len(items)} items have no frame and are left out")
    some = [item for item, there in zip(items, kept, strict=True) if there]
    tasks: dict[str, AbxTask] = {}
    for mode in MODES:
        try:
            tasks[mode] = AbxTask(some, mode, seed=seed)
        except ValueError as error:
            say(f"{what}: {error}")
    return tasks, kept


def _abx_of_labels(labels: LabelSet, split: Split, items: Sequence[Item], seed: int, what: str) -> dict[str, Any]:
    """ABX of units, 0/1 distances; empty without items that can be compared."""
    if not items:
        return {}
    rows = {key: labels.rows[number] for number, key in enumerate(split.keys)}
    begins = dict(zip(rows, itertools.accumulate(map(len, rows.values()), initial=0), strict=False))
    places = np.array([frames_of(item.onset, item.offset, labels.rate) for item in items])
    there = np.array([len(rows[item.file]) for item in items])
    starts = np.array([begins[item.file] for item in items]) + places[:, 0]
    lengths = np.maximum(np.minimum(places[:, 1], there) - places[:, 0], 0)
    tasks, kept = _tasks(items, lengths, seed, what)
    units = np.concatenate(list(rows.values()))
    with progress_bar(
        total=sum(t.cells for t in tasks.values()), desc=f"ABX {what}", unit=" cells", leave=False
    ) as bar:
        return {
            mode: _entry(task.units_error(units, starts[kept], lengths[kept], usable_cores(), bar.update))
            for mode, task in tasks.items()
        }


def _entry(score: AbxScore) -> dict[str, Any]:
    value, low, high = score.interval
    return {"error": value, "low": low, "high": high, "cells": score.cells, "pairs": len(score.pairs)}


def _projected(features: np.ndarray, dim: int, seed: int) -> np.ndarray:
    """Features on the `dim` directions with the most energy; no mean is removed, so that angles change little."""
    rng = np.random.default_rng(seed)
    some = features
    if len(features) > MOST_FOR_PROJECTION:
        some = features[np.sort(rng.choice(len(features), MOST_FOR_PROJECTION, replace=False))]
    some = some.astype(np.float64)
    _, directions = np.linalg.eigh(some.T @ some)
    return features @ directions[:, -dim:].astype(features.dtype)
