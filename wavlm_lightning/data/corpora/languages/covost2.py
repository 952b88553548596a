"""CoVoST 2: Common Voice 4 with translations (Wang et al. 2020; SUPERB-SG's speech translation is English to German).

DIR is the Common Voice release, or the folder of the spoken language in it (`validated.tsv`, `clips/`). The translations are in
another archive, `covost_v2.en_de.tsv.tar.gz`, whose table says which split a clip belongs to; or in the tables
`covost_v2.en_de.{train,dev,test}.tsv` that CoVoST's `get_covost_splits.py` makes of both. Training has the extended split
(`train` and `train_covost`), as in SUPERB-SG.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import string
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from wavlm_lightning.data.recordings import (
    CorpusPlan,
    Recording,
    check_counts,
    clean_key,
    existing,
    require_file,
    require_folder,
)
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_table

HELP = "CoVoST 2, Common Voice with translations, one pair of languages (SUPERB-SG's translation)"

NAMES = {"train": "train", "valid": "dev", "test": "test"}
# Of the published data set's card; of other pairs every sentence that the table lists must be in Common Voice's.
OFFICIAL = {("en", "de"): {"train": 289_430, "valid": 15_531, "test": 15_531}}
REMOVED = "REMOVE"  # a translator's mark of a sentence that has no translation
RATIO = 5  # of the words of the two sides, at most, by SUPERB-SG's rules
_KEPT_MARKS = "'-"


class Pair(NamedTuple):
    """A clip with what it says, in both languages."""

    split: str
    path: str
    text: str
    translation: str
    client: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the translations, the languages, and the rules of the texts."""
    parser.add_argument(
        "--translations",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with covost_v2.SOURCE_TARGET.tsv, or with covost_v2.SOURCE_TARGET.train.tsv and so on",
    )
    parser.add_argument("--source", default="en", help="the spoken language, as in the folder names (%(default)s)")
    parser.add_argument("--target", default="de", help="the language of the translations (%(default)s)")
    parser.add_argument(
        "--text",
        choices=("as_written", "superb_sg"),
        default="as_written",
        help="superb_sg: uniform punctuation, the source in lower case and without it, pairs of very unlike length left out, "
        "also of the test; needs the package sacremoses",
    )


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Clips with `text`, `translation`, `speaker` (from the client's hash), `language` and `translation_language`."""
    source, target = arguments.source, arguments.target
    require_folder(arguments.translations, f"covost_v2.{source}_{target}.tsv, unpacked")
    # Now, so that a missing package is told before long tables are read.
    normalisers = (_moses(source), _moses(target)) if arguments.text == "superb_sg" else None
    folder = root / source if (root / source).is_dir() else root
    pairs, listed_in_table = _pairs(folder, arguments.translations, source, target)
    found = {split: sum(pair.split == split for pair in pairs) for split in NAMES}
    official = OFFICIAL.get((source, target), listed_in_table)
    check_counts(found, official, arguments.allow_partial, arguments.translations, "sentences")
    kept = pairs if normalisers is None else _superb_sg(pairs, *normalisers)
    listed: dict[str, list[Recording]] = {split: [] for split in NAMES}
    for pair in kept:
        meta = {
            "text": pair.text,
            "translation": pair.translation,
            "speaker": hashlib.sha256(pair.client.encode()).hexdigest()[:16],
            "language": source,
            "translation_language": target,
        }
        listed[pair.split].append(Recording(folder / "clips" / pair.path, clean_key(Path(pair.path).stem), meta))
    splits = {split: existing(part) for split, part in listed.items()}
    wanted = {split: len(part) for split, part in listed.items()}
    check_counts(splits, wanted, arguments.allow_partial, folder / "clips", "clips")
    speakers = sorted({recording.meta["speaker"] for part in splits.values() for recording in part})
    return CorpusPlan(
        name=f"covost2-{source}-{target}",
        licence="CC0-1.0",
        splits=splits,
        inventories={"languages": [source], "translation_languages": [target], "speakers": speakers},
        source={
            "release": folder.resolve().parent.name,
            "text": arguments.text,
            "left_out": {split: found[split] - wanted[split] for split in NAMES},
        },
    )


def _pairs(folder: Path, translations: Path, source: str, target: str) -> tuple[list[Pair], dict[str, int]]:
    """The sentences of all splits, and how many of each the translations list.

    They are of the tables by split if these are there, else of the tables of both archives, which the clip joins.
    """
    stem, what, again = f"covost_v2.{source}_{target}", "a table of CoVoST 2", "download it again"
    pairs: list[Pair] = []
    tables = {split: translations / f"{stem}.{name}.tsv" for split, name in NAMES.items()}
    whole = translations / f"{stem}.tsv"
    if not whole.is_file() and any(path.is_file() for path in tables.values()):
        for split, path in tables.items():
            require_file(path, f"the {NAMES[split]} sentences that get_covost_splits.py made")
            for _, row in read_table(path, what, ("path", "sentence", "translation", "client_id"), "\t", False, again):
                text, translation = unescaped(row["sentence"]), unescaped(row["translation"])
                pairs.append(Pair(split, row["path"], text, translation, row["client_id"]))
        return pairs, dict(Counter(pair.split for pair in pairs))
    require_file(whole, f"the translations from {source} to {target}")
    validated = require_file(folder / "validated.tsv", f"the validated clips of Common Voice in {source}")
    spoken = {
        row["path"]: (row["sentence"], row["client_id"])
        for _, row in read_table(
            validated, "a table of Common Voice", ("client_id", "path", "sentence"), "\t", False, again
        )
    }
    split_of = {"train": "train", "train_covost": "train", "dev": "valid", "test": "test"}
    listed = dict.fromkeys(NAMES, 0)
    for _, row in read_table(whole, what, ("path", "translation", "split"), "\t", False, again):
        if (part := split_of.get(row["split"])) is None:
            continue
        listed[part] += 1
        if (clip := spoken.get(row["path"])) is not None:
            text, client = clip
            pairs.append(Pair(part, row["path"], text, unescaped(row["translation"]), client))
    return pairs, listed


def unescaped(text: str) -> str:
    """A field of CoVoST's tables, which are written without quotes and with a backslash before a quotation mark or backslash."""
    return re.sub(r'\\(["\\])', r"\1", text)


def _superb_sg(pairs: list[Pair], spoken: Callable[[str], str], written: Callable[[str], str]) -> list[Pair]:
    """The pairs that SUPERB-SG keeps, with its texts; both functions make punctuation uniform."""
    return [
        pair._replace(text=source_text(spoken(pair.text)), translation=attached(written(pair.translation)))
        for pair in pairs
        if comparable(pair.text, pair.translation)
    ]


def comparable(text: str, translation: str) -> bool:
    """Whether both sides have words, at most five times as many on one as on the other, and no translator's mark."""
    one, other = len(text.split()), len(translation.split())
    return min(one, other) > 0 and max(one, other) <= RATIO * min(one, other) and REMOVED not in text + translation


def attached(text: str) -> str:
    """Without the spaces before `. ? , '` that tokenisers leave, and `do n't` as one word.

    Example:
        >>> attached("I do n't know .")
        "I don't know."
    """
    for mark in ".?,'":
        text = text.replace(f" {mark}", mark)
    return text.replace("do n't", "don't")


def source_text(text: str) -> str:
    """The source in lower case, without punctuation but apostrophes and hyphens.

    Example:
        >>> source_text('He said: "Well-known, isn\\'t it ?"')
        "he said well-known isn't it"
    """
    marks = set(string.punctuation) - set(_KEPT_MARKS)
    return " ".join("".join(sign for sign in attached(text) if sign not in marks).split()).lower()


def _moses(language: str) -> Callable[[str], str]:
    """Moses' normaliser of punctuation, with the settings of s3prl."""
    try:
        from sacremoses import MosesPunctNormalizer
    except ImportError:
        raise UserError(
            "--text superb_sg: the package sacremoses makes punctuation uniform and is missing; pip install sacremoses, or give "
            "--text as_written"
        ) from None
    return MosesPunctNormalizer(lang=language, pre_replace_unicode_punct=True, post_remove_control_chars=True).normalize
