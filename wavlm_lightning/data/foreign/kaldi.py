"""Kaldi data directories: wav.scp, segments, text, utt2spk, spk2gender, utt2lang, reco2file_and_channel, reco2dur.

A folder with `wav.scp` is divided into train, valid and test; in a folder of such folders each is a split of its name, and
`--split train=data/train valid=data/dev` names them (`train=data/a,data/b` joins two). Relative paths start at `--root`.

Entries of wav.scp are files, `ARCHIVE:OFFSET` of wav in a Kaldi archive, or commands. The commands `cat FILE |`,
`flac -c -d FILE |` and `sph2pipe -f wav FILE |` (with -p, -s, -c N) only read a file, which is then read here. Others are
refused; with `--allow-pipes` they run without a shell.
"""

from __future__ import annotations

import argparse
import io
import math
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavlm_lightning.data.finding import printable
from wavlm_lightning.data.foreign.options import add_division, add_writing
from wavlm_lightning.data.foreign.pipes import Piped, parse_commands, plain_reading
from wavlm_lightning.data.foreign.planning import LeftOut, free_key, named_splits, write_foreign
from wavlm_lightning.data.recordings import AudioFile, Embedded, Recording, clean_key, require_file, require_folder
from wavlm_lightning.data.transcripts import visible
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_text, shown

if TYPE_CHECKING:  # `wavlm prepare --help` must not wait for numpy
    from wavlm_lightning.data.corpus import Corpus

HELP = "a Kaldi data directory, or a folder of them (wav.scp, segments, text, utt2spk, ...)"
DURATION_TOLERANCE = 0.1  # seconds by which reco2dur may differ from the length in the header of the file
RIFF_UNKNOWN = 0x7FFF0000  # lengths from here on are those of writers that cannot seek
BY_UTTERANCE = {"text": "text", "utt2spk": "speaker", "utt2lang": "language"}  # file -> field
GENDERS = {"f": "female", "m": "male"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the folder, splits, root, pipes, and what all formats have."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="has wav.scp, or folders that have it")
    splits = "which folder is which split; relative to DIR if it is there"
    parser.add_argument("--split", nargs="+", default=[], metavar="NAME=FOLDER", help=splits)
    root = "where relative paths in wav.scp start: the folder in which the Kaldi recipe ran (default: the current one)"
    parser.add_argument("--root", type=Path, default=Path(), help=root)
    parser.add_argument("--allow-pipes", action="store_true", help="run the commands of wav.scp; read them first")
    limit = "seconds that a command of wav.scp may take (default 60)"
    parser.add_argument("--pipe-seconds", type=float, default=60.0, help=limit)
    add_writing(parser)
    add_division(parser)


def prepare(arguments: argparse.Namespace) -> Corpus:
    """Make a corpus of Kaldi data directories.

    Raises:
        UserError: a list is missing, contradicts itself or another one, or a recording cannot be used.
    """
    if arguments.pipe_seconds <= 0:
        raise UserError(f"--pipe-seconds {arguments.pipe_seconds:g}: give seconds above 0")
    left_out = LeftOut(arguments.folder, arguments.on_error)
    recordings: list[Recording] = []
    keys: set[str] = set()
    for split, folders in _folders(arguments).items():
        for folder in folders:
            recordings += _Directory(folder, arguments, left_out).recordings(split, keys)
    left_out.settle()
    commands = [recording.stored for recording in recordings if isinstance(recording.stored, Piped)]
    if commands:
        print(
            f"{arguments.folder}: runs {len(set(commands))} commands without a shell, {arguments.pipe_seconds:g} s each at most; "
            f"the first: {' | '.join(str(list(each)) for each in commands[0].commands)}",
            file=sys.stderr,
        )
    return write_foreign(recordings, arguments, arguments.folder, "kaldi", left_out)


def _folders(arguments: argparse.Namespace) -> dict[str | None, list[Path]]:
    """Data directories by split; None for a single one, which is divided."""
    top: Path = arguments.folder
    require_folder(top, "a Kaldi data directory, or folders that are")
    if arguments.split:
        named = named_splits(arguments.split)
        places: dict[str | None, list[Path]] = {
            split: [top / each if (top / each).is_dir() else Path(each) for each in named[split]] for split in named
        }
        for place in [place for part in places.values() for place in part]:
            require_file(place / "wav.scp", "the list of recordings of a Kaldi data directory")
        return places
    if (top / "wav.scp").is_file():
        return {None: [top]}
    found = sorted(path.parent for path in [*top.glob("*/wav.scp"), *top.glob("data/*/wav.scp")])
    if not found:
        raise UserError(
            f"{top}: no wav.scp here, in a folder of it, or in data/*; name the folders with --split NAME=FOLDER"
        )
    splits: dict[str | None, list[Path]] = {}
    for folder in found:
        splits.setdefault(clean_key(folder.name), []).append(folder)
    if twice := next((folders for folders in splits.values() if len(folders) > 1), None):
        raise UserError(
            f"{top}: {twice[0]} and {twice[1]} would be one split; name the folders with --split NAME=FOLDER"
        )
    return splits


class _Directory:
    """One data directory: its lists, and the recordings that they agree on."""

    def __init__(self, folder: Path, arguments: argparse.Namespace, left_out: LeftOut) -> None:
        self.folder, self.arguments, self.left_out = folder, arguments, left_out
        scp = read_list(folder / "wav.scp", "the list of recordings of a Kaldi data directory")
        self.audio: dict[str, AudioFile] = {}
        for name, (number, place) in scp.items():
            if (found := self._audio(name, place, f"{folder / 'wav.scp'}, line {number}")) is not None:
                self.audio[name] = found
        self.listed = set(scp)
        self._channels()
        self._check_durations()

    def recordings(self, split: str | None, keys: set[str]) -> list[Recording]:
        """The utterances, with keys that are not yet in `keys`."""
        stretches = self._stretches()
        metas = self._metas(stretches)
        recordings = []
        for utterance, (recording, start, end, channel) in stretches.items():
            if (meta := metas.get(utterance)) is None or (audio := self.audio.get(recording)) is None:
                continue
            key = free_key(utterance, keys)
            meta |= {"file": printable(str(audio.stored or audio.path))}
            if key != utterance:
                meta["id"] = utterance
            if split is not None:
                meta["split"] = split
            chosen = audio.channel if channel is None else channel
            recordings.append(Recording(audio.path, key, meta, start, end, channel=chosen, stored=audio.stored))
        return recordings

    def _audio(self, name: str, place: str, where: str) -> AudioFile | None:
        """Where the audio of an entry of wav.scp is; None if it is left out."""
        channel = None
        if place.endswith("|"):
            commands = parse_commands(place, where)
            if (plain := plain_reading(commands)) is None:
                if not self.arguments.allow_pipes:
                    program = shown(commands[0][0])
                    self.left_out.add(f"recordings from a command ({program}), run only with --allow-pipes", name)
                    return None
                piped = Piped(commands, self.arguments.root.resolve(), self.arguments.pipe_seconds)
                return AudioFile(self.folder / "wav.scp", stored=piped)
            place, channel = plain
        elif place.endswith("]"):
            self.left_out.add("recordings that are a range of another (`FILE[...]`), which is not read", name)
            return None
        elif (inside := re.fullmatch(r"(.+):(\d+)", place)) and not (self.arguments.root / place).is_file():
            return self._embedded(name, self.arguments.root / inside[1], int(inside[2]))
        path = self.arguments.root / place
        if not path.is_file():
            self.left_out.add(f"recordings whose file is not there (relative paths start at --root {self._root})", name)
            return None
        return AudioFile(path, channel=channel)

    @property
    def _root(self) -> Path:
        return self.arguments.root.resolve()

    def _embedded(self, name: str, archive: Path, offset: int) -> AudioFile | None:
        if not archive.is_file():
            self.left_out.add(
                f"recordings whose archive is not there (relative paths start at --root {self._root})", name
            )
            return None
        with archive.open("rb") as file:
            file.seek(offset)
            head = file.read(12)
        if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
            self.left_out.add("recordings in an archive that do not begin as wav at their offset", name)
            return None
        size = 8 + int.from_bytes(head[4:8], "little")
        if size >= RIFF_UNKNOWN or offset + size > archive.stat().st_size:
            self.left_out.add("recordings in an archive whose header promises more than is there", name)
            return None
        return AudioFile(archive, stored=Embedded(archive, offset, size))

    def _channels(self) -> None:
        """Which channel of its file a recording is, where `reco2file_and_channel` says so and the file has several.

        What a command prints is one recording: a command such as sph2pipe has chosen the channel already.
        """
        path = self.folder / "reco2file_and_channel"
        shared = Counter(str(audio.stored or audio.path) for audio in self.audio.values() if audio.channel is None)
        if not path.is_file():
            return
        for name, (number, rest) in read_list(path, "channels of recordings").items():
            audio = self.audio.get(name)
            if audio is None or audio.channel is not None:
                continue
            if shared[str(audio.stored or audio.path)] < 2 and (
                audio.stored is not None or _channels_of(audio.path) < 2
            ):
                continue
            side = rest.split()[-1] if rest else ""
            if side not in ("A", "B", "1", "2"):
                raise UserError(f"{path}, line {number}: {shown(side)} is no channel; write A or B")
            self.audio[name] = replace(audio, channel="AB12".index(side) % 2)

    def _check_durations(self) -> None:
        path = self.folder / "reco2dur"
        if not path.is_file():
            return
        from wavlm_lightning.audio import stated_seconds

        for name, (number, rest) in read_list(path, "the lengths of recordings").items():
            seconds = _number(rest, f"{path}, line {number}")
            audio = self.audio.get(name)
            if name not in self.listed:
                self.left_out.add("lines of reco2dur without a recording", name)
            if audio is None or audio.stored is not None:
                continue
            lasts = stated_seconds(audio.path)
            if lasts is not None and abs(lasts - seconds) > DURATION_TOLERANCE:
                self.left_out.add("recordings whose file is longer or shorter than reco2dur says", name)
                del self.audio[name]

    def _stretches(self) -> dict[str, tuple[str, float, float | None, int | None]]:
        """Utterance -> recording, start, end and channel."""
        path = self.folder / "segments"
        if not path.is_file():
            return {name: (name, 0.0, None, None) for name in self.listed_in_order()}
        stretches: dict[str, tuple[str, float, float | None, int | None]] = {}
        for name, (number, rest) in read_list(path, "the segments of recordings").items():
            where = f"{path}, line {number}"
            fields = rest.split()
            if len(fields) not in (3, 4) or (len(fields) == 4 and not fields[3].isdecimal()):
                raise UserError(f"{where}: not `utterance recording start end` (and a channel); correct it")
            start, end = _number(fields[1], where), _number(fields[2], where)
            if fields[0] not in self.listed:
                self.left_out.add("segments of a recording that wav.scp lacks", name)
            elif start < 0 or (end <= start and end != -1):
                self.left_out.add("segments that end before they begin", name)
            else:
                channel = int(fields[3]) if len(fields) == 4 else None
                stretches[name] = fields[0], start, None if end == -1 else end, channel
        used = {recording for recording, *_ in stretches.values()}
        for name in self.listed_in_order():
            if name not in used:
                self.left_out.add("recordings without a segment", name, fault=False)
        return stretches

    def listed_in_order(self) -> list[str]:
        """Recordings of wav.scp that can be read, and those that cannot, in a fixed order."""
        return [*self.audio, *sorted(self.listed - set(self.audio))]

    def _metas(self, stretches: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Metadata of the utterances on which all lists agree."""
        metas: dict[str, dict[str, Any]] = {name: {} for name in stretches}
        for list_name, name in BY_UTTERANCE.items():
            path = self.folder / list_name
            if not path.is_file():
                continue
            rows = read_list(path, f"the {name} of utterances")
            for utterance in rows:
                if utterance not in stretches:
                    self.left_out.add(f"lines of {list_name} without an utterance", utterance)
            if list_name == "utt2spk" and len(rows) > 1 and all(key == rest for key, (_, rest) in rows.items()):
                self.left_out.add("speakers that utt2spk only repeats from the utterances", str(path), fault=False)
                continue
            for utterance in stretches:
                if utterance not in rows:
                    self.left_out.add(f"utterances without a line in {list_name}", utterance)
                    metas.pop(utterance, None)
                elif utterance in metas and (value := visible(rows[utterance][1])):
                    metas[utterance][name] = value
        genders = self._genders()
        for utterance, meta in [*metas.items()] if genders is not None else []:
            if (gender := (genders or {}).get(meta.get("speaker", ""))) is None:
                self.left_out.add("utterances of a speaker without a line in spk2gender", utterance)
                del metas[utterance]
            else:
                meta["gender"] = gender
        return metas

    def _genders(self) -> dict[str, str] | None:
        path = self.folder / "spk2gender"
        if not path.is_file():
            return None
        genders = {}
        for speaker, (number, rest) in read_list(path, "the gender of speakers").items():
            if rest not in GENDERS:
                raise UserError(f"{path}, line {number}: {shown(rest)} is neither f nor m; correct it")
            genders[speaker] = GENDERS[rest]
        return genders


def read_list(path: Path, what: str) -> dict[str, tuple[int, str]]:
    """A list of Kaldi: identifier -> number of its line, and the rest of it.

    Raises:
        UserError: it is missing or not UTF-8, or an identifier occurs twice.
    """
    rows: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(io.StringIO(read_text(path, what), newline=None), start=1):
        name, *rest = re.split(r"[ \t]+", line.strip(" \t\n"), maxsplit=1)
        if not name:
            continue
        if name in rows:
            raise UserError(f"{path}, line {number}: {shown(name)} stands in line {rows[name][0]}, too; leave one out")
        rows[name] = number, rest[0] if rest else ""
    return rows


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: {shown(text)} is not a number of seconds; correct it")
    return value


def _channels_of(path: Path) -> int:
    """Channels of an audio file; 1 if it cannot be read, which its turn will say."""
    import soundfile

    try:
        return int(soundfile.info(str(path)).channels)
    except (soundfile.SoundFileError, OSError):
        return 1
