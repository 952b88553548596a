"""CHiME-4: sentences of WSJ0 in buses, cafes, pedestrian areas and streets, real and simulated (Vincent et al. 2017).

DIR is the folder `CHiME3` (or `CHiME4`) with `data/audio/16kHz` and `data/transcriptions`. Training has one channel of the
tablet, the tests have the channel that the one-channel track lists for each utterance (`isolated_1ch_track`). The four cells of
development and evaluation, real and simulated, are splits of their own, whose names are also the `condition` of their utterances.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from wavlm_lightning.data.recordings import (
    CorpusPlan,
    Recording,
    check_counts,
    clean_key,
    require_file,
    require_folder,
)
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_lines

HELP = "CHiME-4, one channel, the four cells as splits; DIR holds data/audio/16kHz and data/transcriptions"

PLACES = ("bus", "caf", "ped", "str")
CELLS = ("dt05_real", "dt05_simu", "et05_real", "et05_simu")
TRAINING = {"tr05_real": 1_600, "tr05_simu": 7_138}
OFFICIAL = {"dt05_real": 1_640, "dt05_simu": 1_640, "et05_real": 1_320, "et05_simu": 1_320}
_MARKS = re.compile(r"[\\*!`()+?:~]")
_NOISE = re.compile(
    r"\[.*|<NOISE>|<\w*_\w*>"
)  # `[loud_breath]`, `<door_slam>`; `<and>` is a word that was said in error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the channel of training, and where the texts of simulated training are."""
    parser.add_argument(
        "--channel", type=int, choices=(1, 3, 4, 5, 6), default=5, help="of training (%(default)s; 2 faces backward)"
    )
    parser.add_argument(
        "--wsj0",
        type=Path,
        metavar="DIR",
        help="WSJ0 with its .dot files: the texts of simulated training; without it training has real recordings alone",
    )


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Utterances with `text`, `speaker`, `noise` (`bus`, `caf`, `ped`, `str`) and `condition` (`dt05_real`, ...)."""
    audio = require_folder(root / "data" / "audio" / "16kHz", "the audio of CHiME-4")
    texts = require_folder(root / "data" / "transcriptions", "the texts of CHiME-4")
    training = {"tr05_real": _dots(texts / "tr05_real.dot_all")}
    if arguments.wsj0 is not None:
        training["tr05_simu"] = _dots_of_wsj0(arguments.wsj0)
    splits: dict[str, list[Recording]] = {"train": []}
    counts: dict[str, int] = {}
    for cell, said in training.items():
        found = _recordings(audio / "isolated", cell, said, f".CH{arguments.channel}")
        splits["train"] += found
        counts[cell] = len(found)
    for cell in CELLS:
        splits[cell] = _recordings(audio / "isolated_1ch_track", cell, _dots(texts / f"{cell}.dot_all"), "")
        counts[cell] = len(splits[cell])
    wanted = {**{cell: TRAINING[cell] for cell in training}, **OFFICIAL}
    check_counts(counts, wanted, arguments.allow_partial, root)
    speakers = {split: sorted({r.meta["speaker"] for r in part}) for split, part in splits.items()}
    return CorpusPlan(
        name="chime4",
        licence="WSJ0: LDC93S6A; CHiME-4: see its terms",
        splits=splits,
        inventories={"speakers": speakers, "conditions": list(CELLS)},
        source={"channel": arguments.channel, "training": list(training), "track": "isolated_1ch_track"},
    )


def _recordings(audio: Path, cell: str, said: dict[str, str], channel: str) -> list[Recording]:
    """The utterances of a cell: `AUDIO/dt05_bus_real/F01_22GC010A_BUS.CH5.wav`, without the channel in the track of one."""
    data, kind = cell.split("_")
    recordings = []
    for place in PLACES:
        folder = require_folder(
            audio / f"{data}_{place}_{kind}", f"the {kind} utterances of {data} in the noise {place}"
        )
        for path in sorted(folder.glob(f"*{channel}.wav")):
            name = path.name.removesuffix(f"{channel}.wav")
            speaker, sentence, _ = (*name.split("_"), "", "")[:3]
            text = said.get(name, said.get(sentence))
            if text is None:
                raise UserError(f"{path}: has no text in the transcriptions; they must be of the same release")
            meta = {"text": text, "speaker": speaker, "noise": place, "condition": cell, "language": "en"}
            recordings.append(Recording(path, clean_key(f"{name}_{kind.upper()}"), meta))
    return recordings


def _dots(path: Path) -> dict[str, str]:
    """Texts by utterance, from lines `THE TEXT (F01_22GC010A_BUS)`."""
    require_file(path, "the texts of a part of CHiME-4")
    found = {}
    for number, line in enumerate(read_lines(path, "the texts of a part of CHiME-4"), start=1):
        if not line.strip():
            continue
        text, bracket, name = line.strip().removesuffix(")").rpartition("(")
        if not bracket or not name or " " in name:
            raise UserError(f"{path}: line {number} does not end with an utterance in brackets; download it again")
        found[name] = dot_text(text)
    return found


def _dots_of_wsj0(folder: Path) -> dict[str, str]:
    """Texts of the training sentences of WSJ0, by sentence (`01TC0201`)."""
    require_folder(folder, "WSJ0")
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*.dot")):
        if "si_tr_s" in path.parts:
            found |= {name.upper(): text for name, text in _dots(path).items()}
    if not found:
        raise UserError(f"{folder}: no .dot file below si_tr_s; give the folder of WSJ0 that holds transcrp/dots")
    return found


def dot_text(line: str) -> str:
    """The words of a detailed transcript (`.dot`) in upper case, without noises, pauses and the marks of the transcribers.

    Words in angle brackets were said, and taken back by the speaker; as in Kaldi's WSJ, they count.

    Example:
        >>> dot_text("[loud_breath] The *boys <say> said .POINT five %PERCENT . [door_slam]")
        'THE BOYS SAY SAID POINT FIVE PERCENT'
    """
    words = []
    for token in line.upper().split():
        if _NOISE.fullmatch(token):
            continue
        word = _MARKS.sub("", token.strip("<>"))
        # Spoken punctuation is written with its sign: `,COMMA`, `%PERCENT`.
        if word and not word[0].isalnum() and word[0] != "'":
            word = word[1:]
        if any(sign.isalnum() for sign in word):
            words.append(word.rstrip(".-,;"))
    return " ".join(words)
