"""QUESST 2014: spoken queries to be found in spoken documents, non-native English part (SUPERB's QbE).

`scoring/language_key_{utterances,dev,eval}.lst` list documents and queries with their language. The ground truth is
`scoring/groundtruth_quesst14_{dev,eval}/quesst14_{dev,eval}.rttm`, with a line `LEXEME DOCUMENT 1 START DURATION QUERY ...`
for each occurrence of a query, whatever the type of the match (exact, reordered, inflected), as in the official scorer.
The scorer's tlist and ecf files repeat the lists and are not needed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from wavlm_lightning.data.recordings import CorpusPlan, Recording, check_counts, existing, require_file, require_named
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_lines

HELP = "QUESST 2014, English part (SUPERB QbE); DIR is quesst14Database or the folder that contains it"

FOLDER = "quesst14Database"
LANGUAGE = "nnenglish"
# split: (torchaudio's name of the subset, its list, English utterances, utterances of all languages)
SUBSETS = {
    "documents": ("docs", "utterances", 2438, 12492),
    "queries-valid": ("dev", "dev", 138, 560),
    "queries-test": ("eval", "eval", 138, 555),  # all languages: [unverified], so a difference only warns
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Splits `documents` (`terms`: keys of the queries they hold), `queries-valid` and `queries-test` (`term`).

    The inventory `trial_grid` records, for each split of queries, the number of queries and documents of the whole
    multilingual task. The official scorer drops queries that no document contains and gives trials that a system did
    not submit a low score; SUPERB submits English alone, so its published figures count the trials of all other
    languages as missed.
    """
    from torchaudio.datasets import QUESST14

    base = require_named(root, FOLDER, "QUESST 2014 (Audio, dev_queries, eval_queries, scoring)")
    for _, name, *_ in SUBSETS.values():
        require_file(base / "scoring" / f"language_key_{name}.lst", "a list of QUESST 2014")
    paths: dict[str, list[Path]] = {}
    listed: dict[str, list[Path]] = {}
    for split, (subset, *_) in SUBSETS.items():
        # torchaudio only reads the list here; it downloads nothing unless told to.
        paths[split] = QUESST14(base.parent, subset, language=LANGUAGE).data
        listed[split] = QUESST14(base.parent, subset, language=None).data
    truth = {"queries-valid": _truth(base, "dev"), "queries-test": _truth(base, "eval")}
    grid = {}
    for split, places in truth.items():
        searched = sum(path.stem in places for path in listed[split])
        if not searched:
            raise UserError(f"{base}: the ground truth of {split} names none of the listed queries; unpack it again")
        grid[split] = {"queries": searched, "documents": len(listed["documents"])}
    queries = {path.stem for split in truth for path in paths[split]}
    terms = _terms(truth, queries)
    splits = {
        "documents": [_recording(path, {"terms": terms.get(path.stem, [])}) for path in paths["documents"]],
        **{split: [_recording(path, {"term": path.stem}) for path in paths[split]] for split in truth},
    }
    splits = {split: existing(part) for split, part in splits.items()}
    official = {split: english for split, (_, _, english, _) in SUBSETS.items()}
    check_counts(splits, official, arguments.allow_partial, base)
    everything = {split: everyone for split, (_, _, _, everyone) in SUBSETS.items()}
    check_counts(listed, everything, allow_partial=True, where=base, what="listed files of all languages")
    unheard = sorted(path.stem for split, places in truth.items() for path in paths[split] if path.stem not in places)
    return CorpusPlan(
        name="quesst14",
        licence="QUESST 2014 (MediaEval) terms, see the README of the database",
        splits=splits,
        inventories={"terms": sorted(queries), "trial_grid": grid},
        source={"language": LANGUAGE, "queries_in_no_document": unheard},
    )


def _recording(path: Path, labels: dict[str, object]) -> Recording:
    # SUPERB's -3 dB (s3prl `downstream/quesst14_dtw/dataset.py`) are applied by `data.gain_db` of the task.
    return Recording(path, path.stem, {"language": "en", **labels})


def _terms(truth: dict[str, dict[str, set[str]]], queries: set[str]) -> dict[str, list[str]]:
    """The queries of each document, in their order."""
    terms: dict[str, list[str]] = {}
    for places in truth.values():
        for query in sorted(queries & places.keys()):
            for document in places[query]:
                terms.setdefault(document, []).append(query)
    return terms


def _truth(base: Path, part: str) -> dict[str, set[str]]:
    """The documents of each query, of all languages."""
    path = base / "scoring" / f"groundtruth_quesst14_{part}" / f"quesst14_{part}.rttm"
    places: dict[str, set[str]] = {}
    for line in read_lines(require_file(path, "the ground truth that QUESST 2014 comes with")):
        fields = line.split()
        # Speech without a query has lines too, with NO_KEYWORD as the query, which no list contains.
        if len(fields) >= 6 and fields[0] == "LEXEME":
            places.setdefault(fields[5], set()).add(fields[1])
    return places
