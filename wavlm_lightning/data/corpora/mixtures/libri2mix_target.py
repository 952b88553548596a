"""Libri2Mix for target speakers: mixtures, what the target says alone, and an enrolment (TS-SUPERB's TSE, TS-ASR, pVAD).

Audio as LibriMix generates it, in `Libri2Mix/wav16k/{min,max}/{train-100,dev,test}/{mix_clean,s1,s2}`. Each mixture gives two
utterances, one for each of its readers. Enrolments of dev and test are those of SpeakerBeam's lists (`map_mixture2enrollment`),
which TS-SUPERB uses; of train, TS-SUPERB draws another utterance of the reader anew in every epoch, and here one is drawn for
good, from the other training mixtures. An enrolment ends with the reader's last sample: the zeros with which the mode max
pads files are no voice. TS-SUPERB's TSE has the mode `min`, its TS-ASR the mode `max`.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

from wavlm_lightning.data.corpora.libri2mix import FOLDER, SPLITS, read_turns, turns_of
from wavlm_lightning.data.recordings import (
    AudioFile,
    CorpusPlan,
    Recording,
    check_counts,
    require_file,
    require_folder,
    require_named,
)
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_lines

HELP = "Libri2Mix with enrolments, each mixture once for each reader (TSE, TS-ASR, pVAD of TS-SUPERB)"

MAP = "map_mixture2enrollment"
LIBRISPEECH = {"train": "train-clean-100", "valid": "dev-clean", "test": "test-clean"}
SOURCES = ("s1", "s2")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the lists of enrolments, and where texts and turns are."""
    parser.add_argument(
        "--enrolments",
        type=Path,
        required=True,
        metavar="DIR",
        help=f"SpeakerBeam's egs/libri2mix/data/wav8k/min (or a copy): dev/{MAP}, test/{MAP}; they hold for 16 kHz and max, too",
    )
    parser.add_argument("--mode", choices=("min", "max"), default="max", help="of LibriMix (%(default)s)")
    parser.add_argument(
        "--noise", action="store_true", help="mixtures with WHAM! noise (mix_both) instead of those without (mix_clean)"
    )
    parser.add_argument(
        "--librispeech", type=Path, metavar="DIR", help="LibriSpeech, whose texts TS-ASR reads; of --mode max"
    )
    parser.add_argument(
        "--labels", type=Path, metavar="DIR", help="turns, for pVAD, as `wavlm prepare libri2mix --labels` takes them"
    )


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Utterances `MIXTURE-s1` and `MIXTURE-s2` with further audio `clean` and `enrolment`.

    Metadata: `speaker` (the target), `interferer`, `utterance`, and if asked for `text` and `turns`.
    """
    base = require_named(root, FOLDER, "Libri2Mix as LibriMix makes it")
    if arguments.librispeech is not None and arguments.mode == "min":
        raise UserError("--librispeech: the mode min cuts the longer reader, who then says less than the text; use max")
    kind = "mix_both" if arguments.noise else "mix_clean"
    splits: dict[str, list[Recording]] = {}
    alone: dict[str, int] = {}
    for split, (subset, labels, alignments, _) in SPLITS.items():
        folder = base / "wav16k" / arguments.mode / subset
        mixtures = sorted(require_folder(folder / kind, f"the mixtures {kind} of {subset}").glob("*.wav"))
        for source in SOURCES:
            require_folder(folder / source, f"{'first' if source == 's1' else 'second'} readers alone")
        turns = None if arguments.labels is None else read_turns(arguments.labels, labels, alignments)
        names = [mixture.stem for mixture in mixtures]
        chosen = _drawn(names) if split == "train" else _listed(arguments.enrolments / subset / MAP, names)
        texts = {} if arguments.librispeech is None else _texts(arguments.librispeech / LIBRISPEECH[split], names)
        splits[split] = []
        for mixture in mixtures:
            for number, (source, utterance) in enumerate(zip(SOURCES, _utterances(mixture.stem), strict=True)):
                enrolment = chosen.get((mixture.stem, utterance))
                if enrolment is None:
                    alone[split] = alone.get(split, 0) + 1  # a reader of a single utterance
                    continue
                other = _utterances(mixture.stem)[1 - number]
                meta: dict[str, Any] = {"speaker": _reader(utterance), "interferer": _reader(other)}
                meta |= {"utterance": utterance, "language": "en"}
                if texts:
                    meta["text"] = texts[utterance]
                if turns is not None:
                    meta["turns"] = turns_of(mixture.stem, turns, arguments.labels)["turns"]
                file = require_file(folder / f"{enrolment}.wav", "an enrolment that the list names")
                audio = {"clean": AudioFile(folder / source / mixture.name), "enrolment": AudioFile(file, padded=True)}
                splits[split].append(Recording(mixture, f"{mixture.stem}-{source}", meta, audio=audio))
    official = {split: 2 * count for split, (*_, count) in SPLITS.items()}
    found = {split: len(part) + alone.get(split, 0) for split, part in splits.items()}
    check_counts(found, official, arguments.allow_partial, base, "targets")
    return CorpusPlan(
        name="libri2mix_target",
        licence="CC BY 4.0 (LibriSpeech)" + (", noise CC BY-NC 4.0 (WHAM!)" if arguments.noise else ""),
        splits=splits,
        inventories={
            "speakers": {split: sorted({r.meta["speaker"] for r in part}, key=int) for split, part in splits.items()}
        },
        source={
            "mixtures": f"wav16k/{arguments.mode}/{kind}",
            "enrolments": "SpeakerBeam's; of train, one drawn for each target",
        }
        | ({"without_enrolment": alone} if alone else {}),
    )


def _utterances(mixture: str) -> tuple[str, str]:
    """The utterances of LibriSpeech in a mixture: `1578-6379-0038_6415-111615-0009`."""
    first, _, second = mixture.partition("_")
    if first.count("-") != 2 or second.count("-") != 2:
        raise UserError(f"{mixture}.wav: is not named after two utterances of LibriSpeech; generate Libri2Mix again")
    return first, second


def _reader(utterance: str) -> str:
    return utterance.partition("-")[0]


def _drawn(mixtures: list[str]) -> dict[tuple[str, str], str]:
    """By mixture and target utterance, the file (`s1/MIXTURE`) of another utterance of the reader.

    A hash of the names draws it, so that it depends neither on the order nor on the machine.
    """
    files: dict[str, dict[str, str]] = {}  # reader -> utterance -> file
    for mixture in mixtures:
        for source, utterance in zip(SOURCES, _utterances(mixture), strict=True):
            files.setdefault(_reader(utterance), {}).setdefault(utterance, f"{source}/{mixture}")
    chosen = {}
    for mixture in mixtures:
        for utterance in _utterances(mixture):
            others = sorted(set(files[_reader(utterance)]) - {utterance})
            if others:
                digest = hashlib.sha256(f"{mixture} {utterance}".encode()).digest()
                drawn = others[int.from_bytes(digest[:8], "big") % len(others)]
                chosen[mixture, utterance] = files[_reader(utterance)][drawn]
    return chosen


def _listed(path: Path, mixtures: list[str]) -> dict[tuple[str, str], str]:
    """The same from a list of SpeakerBeam: mixture, target utterance and file of the enrolment in each line."""
    found: dict[tuple[str, str], str] = {}
    for number, line in enumerate(read_lines(path, "a list of enrolments"), start=1):
        fields = line.split()
        if len(fields) != 3:
            raise UserError(
                f"{path}: line {number} is not a mixture, an utterance and an enrolment; download the list again"
            )
        mixture, utterance, enrolment = fields
        source, _, name = enrolment.partition("/")
        if source not in SOURCES or _reader(_utterances(name)[SOURCES.index(source)]) != _reader(utterance):
            raise UserError(
                f"{path}: line {number} gives {utterance} an enrolment of another reader; download the list again"
            )
        found[mixture, utterance] = enrolment
    for mixture in mixtures:
        for utterance in _utterances(mixture):
            if (mixture, utterance) not in found:
                raise UserError(
                    f"{path}: has no enrolment for {utterance} in {mixture}; list and audio must be of one release"
                )
    return found


def _texts(folder: Path, mixtures: list[str]) -> dict[str, str]:
    """What the utterances of mixtures say, from the transcripts of LibriSpeech."""
    require_folder(folder, "the transcripts of LibriSpeech")
    wanted = {utterance for mixture in mixtures for utterance in _utterances(mixture)}
    chapters = {tuple(utterance.split("-")[:2]) for utterance in wanted}
    texts: dict[str, str] = {}
    for reader, chapter in sorted(chapters):
        for line in read_lines(folder / reader / chapter / f"{reader}-{chapter}.trans.txt", "the texts of a chapter"):
            key, _, text = line.partition(" ")
            texts[key] = text.strip()
    if missing := sorted(utterance for utterance in wanted if not texts.get(utterance)):
        raise UserError(
            f"{folder}: has no text of {missing[0]}, as of {len(missing) - 1} more; unpack the archive again"
        )
    return texts
