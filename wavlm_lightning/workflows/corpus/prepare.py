"""Prepare a corpus with a recipe: one of ours, one registered by an installed package, or one named by a dotted path."""

from __future__ import annotations

import argparse
import importlib
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wavlm_lightning.data.corpora import RECIPES
from wavlm_lightning.data.finding import FoundAudio
from wavlm_lightning.data.foreign.planning import left_out_lines
from wavlm_lightning.system.files import check_output
from wavlm_lightning.system.plugins import find_recipe, load, registered_corpora
from wavlm_lightning.system.reading import reading

if TYPE_CHECKING:  # `wavlm prepare --help` imports this module and must not wait for numpy
    from wavlm_lightning.data.corpus import Corpus
    from wavlm_lightning.data.recordings import CorpusPlan


def recipe_named(name: str) -> Any:
    """A recipe (`HELP`, `add_arguments(parser)`, `plan(folder, arguments)`) of ours, registered, or at a dotted path."""
    if name in RECIPES:
        return importlib.import_module(RECIPES[name])
    registered = registered_corpora()
    return load(registered[name]) if name in registered else find_recipe(name)


def prepare(
    recipe: str,
    folder: Path,
    out: Path,
    arguments: argparse.Namespace,
    workers: int | None = None,
    on_error: Literal["stop", "skip"] = "stop",
) -> Corpus:
    """Write the corpus that a recipe plans for a published data set.

    Folders of your own recordings go through `wavlm_lightning.data.folder.FolderRecipe`, the synthetic corpora through
    `wavlm_lightning.data.mini.prepare_mini`.

    Args:
        recipe: its name, see `recipe_named`.
        folder: the data set as published, unpacked.
        out: the corpus folder to make.
        arguments: `allow_partial` and the options that the recipe's `add_arguments` defines.
        workers: processes; one per core by default.
        on_error: `stop` at a file that cannot be used, or `skip` it.

    Raises:
        UserError: see `wavlm_lightning.data.writing.write_corpus`.
    """
    from wavlm_lightning.data.writing import write_corpus

    check_output(out)
    made = plan(recipe, folder, arguments)
    made = replace(made, source={"recipe": recipe, **made.source})
    return write_corpus(made, out, workers, on_error)


def plan(recipe: str, folder: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """What a recipe would write: recordings by split, label sets and trials; no audio is read.

    Raises:
        UserError: the files are not those of the data set as published.
    """
    from wavlm_lightning.data.recordings import require_folder

    require_folder(folder, f"the files of {recipe} (`wavlm prepare {recipe} --help`)")
    # Recipes of others keep their tracebacks, which their authors need.
    ours = (
        reading(folder, f"the files of {recipe} as published", "unpack them again")
        if recipe in RECIPES
        else nullcontext()
    )
    with ours:
        return recipe_named(recipe).plan(folder, arguments)


def summary(corpus: Corpus) -> list[str]:
    """Lines that say what a prepared corpus holds and what was left out."""
    lines = []
    for split in corpus.splits:
        part = corpus.body["splits"][split]
        lines.append(f"{split}: {part['utterances']} utterances, {part['hours']:.3f} h, {len(part['shards'])} shards")
    source, file = corpus.body["source"], corpus.directory / "corpus.json"
    if "divided" in source:
        lines.append(source["divided"])
    if source["skipped"]:
        lines.append(f"skipped {len(source['skipped'])} files, listed in {file} under source.skipped")
    if left_out := source.get("left_out"):
        lines.append(f"{FoundAudio([], Counter(left_out)).note()}")
    if reasons := {**source.get("reasons", {}), **source.get("fields_left_out", {})}:
        lines.append("left out: " + ", ".join(f"{why} {count:,}" for why, count in reasons.items()))
    if "columns" in source:
        found = ", ".join(f"{column} ({count:,})" for column, count in source["columns"].items())
        lines.append(f"metadata: {found or 'no text, speaker or language was found'}")
    lines += [f"left out {line}" for line in left_out_lines(source.get("left_out_by_reason", {}))]
    if source.get("left_out_by_reason"):
        lines.append(f"all names are in {file} under source.left_out_by_reason")
    for split, count in source.get("twice_in_a_split", {}).items():
        lines.append(f"{split}: {count} recordings are the same sound as another one of this split")
    for split, count in source.get("too_short", {}).items():
        lines.append(f"{split}: left out {count} utterances that are too short, as the protocol says")
    for split, count in source.get("trials_dropped", {}).items():
        lines.append(f"{split}: left out {count} trials with a skipped file")
    return lines
