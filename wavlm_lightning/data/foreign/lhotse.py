"""Lhotse: recordings with supervisions, cuts (jsonl, jsonl.gz), and Shar folders; the library itself is not needed.

Give files, or a folder with `[NAME_]recordings_PART.jsonl.gz`, `..._supervisions_PART...` and `..._cuts_PART...`. Each PART
is a split of its name; `--split train=PART valid=PART` renames or chooses; a single one is divided into train, valid and
test. A folder with `cuts.000000.jsonl.gz` and `recording.000000.tar` is a Shar folder; folders of them are splits.

An utterance is a supervision (`--by supervision`), or a whole recording or cut with all its supervisions as `turns` (`--by
recording`, for diarization). Text, speaker, gender and language are kept, custom fields that are text or numbers become
columns, alignments of words and phones `words` and `phones`.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavlm_lightning.data.finding import printable
from wavlm_lightning.data.foreign.options import add_division, add_writing
from wavlm_lightning.data.foreign.planning import LeftOut, free_key, named_splits, write_foreign
from wavlm_lightning.data.recordings import AudioFile, Embedded, Recording, clean_key
from wavlm_lightning.data.transcripts import visible
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_text, reading, shown

if TYPE_CHECKING:  # `wavlm prepare --help` must not wait for numpy
    from wavlm_lightning.data.corpus import Corpus

HELP = "Lhotse manifests (recordings and supervisions, or cuts) and Shar folders"
NAME = re.compile(r"(?:.*[_.-])?(recordings|supervisions|cuts)(?:[_.-](.+))?\.jsonl(?:\.gz)?")
SHARD = re.compile(r"(cuts|recording)\.(\d+)\.(?:jsonl(?:\.gz)?|tar)")
ALIGNED = {"word": "words", "phone": "phones"}  # alignments of Lhotse -> fields of ours
FIELDS = ("text", "language", "speaker", "gender")
OURS = {*FIELDS, "file", "split", "turns", "words", "phones", "id", "intent"}  # a custom field has another name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the manifests, splits, what an utterance is, the root of paths, and what all formats have."""
    where = "manifests (jsonl, jsonl.gz), or a folder with them, or a Shar folder"
    parser.add_argument("places", type=Path, nargs="+", metavar="MANIFEST", help=where)
    parser.add_argument("--split", nargs="+", default=[], metavar="NAME=PART", help="which part is which split")
    units = "what becomes an utterance (default: supervision)"
    parser.add_argument("--by", choices=("supervision", "recording"), default="supervision", help=units)
    root = "where relative paths of recordings start (default: the current folder)"
    parser.add_argument("--root", type=Path, default=Path(), help=root)
    add_writing(parser)
    add_division(parser)


def prepare(arguments: argparse.Namespace) -> Corpus:
    """Make a corpus of Lhotse's manifests.

    Raises:
        UserError: a manifest is missing, not of the form of Lhotse, or contradicts another one, or a recording cannot be used.
    """
    where = arguments.places[0]
    left_out = LeftOut(where, arguments.on_error)
    keys: set[str] = set()
    recordings: list[Recording] = []
    for split, parts in _splits(arguments).items():
        for part in parts:
            stretches = part.stretches(arguments.root, left_out)
            for stretch in stretches:
                recordings += _utterances(stretch, arguments.by, split, keys, left_out)
    return write_foreign(recordings, arguments, where, "lhotse", left_out, by=arguments.by)


@dataclass(frozen=True)
class Stretch:
    """A recording or a cut: audio, where it begins there, how long it is, and its supervisions with times from its start."""

    name: str
    audio: AudioFile
    channels: tuple[int, ...]  # that the audio has
    channel: Any  # that a cut reads: a number or a list; None for all
    start: float
    seconds: float
    whole: bool  # whether it is all of its audio
    supervisions: list[dict[str, Any]]
    custom: dict[str, Any]


@dataclass(frozen=True)
class Part:
    """The manifests of one part."""

    recordings: Path | None = None
    supervisions: Path | None = None
    cuts: Path | None = None
    shar: Path | None = None

    def stretches(self, root: Path, left_out: LeftOut) -> Iterator[Stretch]:
        """The recordings or cuts of this part."""
        if self.shar is not None:
            yield from _of_shar(self.shar, left_out)
        elif self.cuts is not None:
            for where, cut in read_lines(self.cuts):
                with reading(where, "a cut of Lhotse", "write it again"):
                    if (made := _of_cut(cut, root, left_out)) is not None:
                        yield made
        else:
            assert self.recordings is not None
            yield from _of_recordings(self.recordings, self.supervisions, root, left_out)


def _splits(arguments: argparse.Namespace) -> dict[str | None, list[Part]]:
    parts = _parts(arguments.places)
    if not arguments.split:
        return (
            {None: [*parts.values()]} if len(parts) == 1 else {clean_key(name): [part] for name, part in parts.items()}
        )
    splits: dict[str | None, list[Part]] = {}
    for split, names in named_splits(arguments.split).items():
        if missing := [name for name in names if name not in parts]:
            there = ", ".join(map(repr, parts))
            raise UserError(
                f"--split {split}={','.join(names)}: there is no part {missing[0]!r}; the parts are {there}"
            )
        splits[split] = [parts[name] for name in names]
    return splits


def _parts(places: list[Path]) -> dict[str, Part]:
    """Manifests by the part that their names end with."""
    parts: dict[str, dict[str, Path]] = {}

    def add(part: str, role: str, path: Path) -> None:
        other = parts.setdefault(part, {}).setdefault(role, path)
        if other != path:
            raise UserError(f"{other} and {path}: both are the {role} of part {part!r}; name one of them")

    for place in places:
        if not place.is_dir():
            named = NAME.fullmatch(place.name)
            add((named and named[2]) or "all", _role(place), place)
            continue
        shards = [folder for folder in [place, *sorted(place.iterdir())] if folder.is_dir() and _is_shar(folder)]
        for folder in shards:
            add("all" if folder == place else folder.name, "shar", folder)
        for path in sorted(place.iterdir()) if not shards else []:
            if (named := NAME.fullmatch(path.name)) and path.is_file():
                add(named[2] or "all", named[1], path)
    if not parts:
        raise UserError(f"{places[0]}: no manifest of Lhotse here, such as recordings_train.jsonl.gz; name the files")
    for part, roles in parts.items():
        shown_roles = " and ".join(sorted(roles))
        if ("cuts" in roles or "shar" in roles) and len(roles) > 1:
            raise UserError(
                f"{places[0]}: part {part!r} has {shown_roles}, which hold the same; name the files to read"
            )
        if set(roles) == {"supervisions"}:
            raise UserError(f"{roles['supervisions']}: supervisions have no audio; name their recordings, too")
    return {part: Part(**roles) for part, roles in parts.items()}


def _is_shar(folder: Path) -> bool:
    return any(SHARD.fullmatch(path.name) for path in folder.iterdir())


def _role(path: Path) -> str:
    """What a manifest lists, from its first line."""
    for where, line in read_lines(path):
        if "sources" in line:
            return "recordings"
        if "recording_id" in line:
            return "supervisions"
        if str(line.get("type", "")).endswith("Cut"):
            return "cuts"
        raise UserError(f"{where}: neither a recording nor a supervision nor a cut of Lhotse; name another file")
    raise UserError(f"{path}: empty; name a manifest of Lhotse")


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each line stands, and the JSON object on it; UserError names a line that is none."""
    text = read_text(path, "a manifest of Lhotse (jsonl)")
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            with reading(where, "a JSON object (a manifest of Lhotse has one a line)", "write the manifest again"):
                content = json.loads(line)
                if not isinstance(content, dict):
                    raise TypeError(f"it is {type(content).__name__}")
            yield where, content


def _of_recordings(path: Path, supervisions: Path | None, root: Path, left_out: LeftOut) -> Iterator[Stretch]:
    spoken: dict[str, list[dict[str, Any]]] = {}
    for where, line in read_lines(supervisions) if supervisions is not None else ():
        with reading(where, "a supervision of Lhotse", "write it again"):
            spoken.setdefault(str(line["recording_id"]), []).append(line)
    seen = set()
    for where, line in read_lines(path):
        with reading(where, "a recording of Lhotse", "write it again"):
            name = str(line["id"])
            if name in seen:
                raise UserError(f"{where}: the recording {name!r} is listed twice; leave one out")
            seen.add(name)
            if (audio := _audio(line, root, left_out, name)) is None:
                continue
            theirs = spoken.get(name, [])
            if supervisions is not None and not theirs:
                left_out.add("recordings without a supervision", name, fault=False)
                continue
            channels, seconds = _channels(line), float(line["duration"])
        yield Stretch(name, audio, channels, None, 0.0, seconds, True, theirs, {})
    for name in spoken:
        if name not in seen:
            left_out.add("recordings of supervisions that are not listed", name)


def _of_cut(cut: dict[str, Any], root: Path, left_out: LeftOut) -> Stretch | None:
    name = str(cut["id"])
    if cut.get("type") not in ("MonoCut", "MultiCut"):
        left_out.add(f"cuts of type {cut.get('type')}, whose audio is made by Lhotse", name)
        return None
    if not cut.get("recording"):
        left_out.add("cuts without a recording", name)
        return None
    recording = cut["recording"]
    if (audio := _audio(recording, root, left_out, name)) is None:
        return None
    start, seconds, whole = float(cut["start"]), float(cut["duration"]), float(recording["duration"])
    is_whole = start == 0 and abs(seconds - whole) < 1e-6
    supervisions, custom = cut.get("supervisions") or [], cut.get("custom") or {}
    return Stretch(
        name, audio, _channels(recording), cut.get("channel"), start, seconds, is_whole, supervisions, custom
    )


def _of_shar(folder: Path, left_out: LeftOut) -> Iterator[Stretch]:
    """Cuts of a Shar folder; the tar beside each list holds the audio of each cut alone, under the cut's name."""
    lists = sorted(path for path in folder.iterdir() if path.name.startswith("cuts.") and SHARD.fullmatch(path.name))
    tars = {
        found[2]: path for path in folder.iterdir() if (found := SHARD.fullmatch(path.name)) and found[1] == "recording"
    }
    for path in lists:
        number = SHARD.fullmatch(path.name)
        assert number is not None
        if (tar := tars.pop(number[2], None)) is None:
            raise UserError(f"{folder}: {path.name} has no recording.{number[2]}.tar; copy the whole folder")
        members = _members(tar)
        for where, cut in read_lines(path):
            with reading(where, "a cut of Lhotse", "write it again"):
                name = str(cut["id"])
                if name not in members:
                    left_out.add(f"cuts whose audio is not in {tar.name}", name)
                    continue
                if cut.get("type") not in ("MonoCut", "MultiCut"):
                    left_out.add(f"cuts of type {cut.get('type')}, whose audio is made by Lhotse", name)
                    continue
                channels, seconds = _channels(cut["recording"]), float(cut["duration"])
                audio = AudioFile(tar, stored=members[name])
                supervisions, custom = cut.get("supervisions") or [], cut.get("custom") or {}
            yield Stretch(name, audio, channels, cut.get("channel"), 0.0, seconds, True, supervisions, custom)
    if tars:
        raise UserError(f"{folder}: {min(tars.values()).name} has no list of cuts beside it; copy the whole folder")


def _members(path: Path) -> dict[str, Embedded]:
    members: dict[str, Embedded] = {}
    with reading(path, "a tar of Lhotse's Shar", "copy it again"), tarfile.open(path) as tar:
        for member in tar:
            stem, _, ending = member.name.rpartition(".")
            if ending not in ("json", "nodata", "nometa"):
                members[stem] = Embedded(path, member.offset_data, member.size)
    return members


def _audio(recording: dict[str, Any], root: Path, left_out: LeftOut, name: str) -> AudioFile | None:
    """The file of a recording; None if it is left out."""
    if transforms := recording.get("transforms"):
        kinds = ", ".join(sorted({str(each.get("name")) if isinstance(each, dict) else "?" for each in transforms}))
        left_out.add(f"recordings that Lhotse changes ({kinds})", name)
        return None
    sources = recording["sources"]
    if len(sources) != 1:
        left_out.add("recordings of several files", name)
        return None
    if sources[0]["type"] != "file":
        left_out.add(f"recordings from a source of type {sources[0]['type']}, where only files are read", name)
        return None
    path = root / sources[0]["source"]
    if not path.is_file():
        left_out.add(f"recordings whose file is not there (relative paths start at --root {root.resolve()})", name)
        return None
    return AudioFile(path)


def _channels(recording: dict[str, Any]) -> tuple[int, ...]:
    return tuple(channel for source in recording["sources"] for channel in source["channels"])


def _utterances(stretch: Stretch, by: str, split: str | None, keys: set[str], left_out: LeftOut) -> Iterator[Recording]:
    with reading(f"{left_out.where}: {stretch.name}", "a recording or cut of Lhotse", "write its manifest again"):
        if by == "recording":
            turns: list[list[Any]] = []
            for each in stretch.supervisions:
                if each.get("speaker"):
                    begin, end = float(each["start"]), float(each["start"]) + float(each["duration"])
                    turns.append([str(each["speaker"]), max(0.0, begin), min(stretch.seconds, round(end, 6))])
            meta: dict[str, Any] = {}
            if len(stretch.supervisions) == 1:
                meta = _meta(stretch.supervisions[0], 0.0, left_out)
                if _is_cut(stretch.supervisions[0], stretch.seconds):  # more is written than is heard
                    meta = {name: value for name, value in meta.items() if name not in ("text", "words", "phones")}
                    left_out.add("texts of which the cut holds only a part", stretch.name, fault=False)
            elif speakers := {turn[0] for turn in turns}:
                meta = {"speaker": min(speakers)} if len(speakers) == 1 else {}
            if len(turns) < len(stretch.supervisions):
                left_out.add("recordings with a supervision without a speaker", stretch.name)
                return
            meta["turns"] = sorted(turns, key=lambda turn: turn[1])
            made = [(stretch.name, 0.0, stretch.seconds, stretch.whole, stretch.channel, meta)]
        elif not stretch.supervisions:
            made = [(stretch.name, 0.0, stretch.seconds, stretch.whole, stretch.channel, {})]
        else:
            made = []
            for each in stretch.supervisions:
                start, seconds = float(each["start"]), float(each["duration"])
                # Times of manifests are rounded; what reaches further beyond its cut belongs to another one.
                if _is_cut(each, stretch.seconds) or seconds <= 0:
                    left_out.add("supervisions that reach beyond their recording or cut, or are empty", str(each["id"]))
                    continue
                whole = stretch.whole and abs(start) < TOLERANCE and abs(seconds - stretch.seconds) < TOLERANCE
                channel = each.get("channel", stretch.channel)
                made.append((str(each["id"]), max(start, 0.0), seconds, whole, channel, _meta(each, start, left_out)))
        for name, start, seconds, whole, channel, fields in made:
            if (chosen := _channel(channel, stretch.channels)) == UNREAD:
                left_out.add("utterances of some of the channels of a recording, where one or all are read", name)
                continue
            key = free_key(name, keys)
            columns = {**_columns(stretch.custom, name, left_out), **fields}
            columns["file"] = printable(str(stretch.audio.stored or stretch.audio.path))
            if key != name:
                columns["id"] = name
            if split is not None:
                columns["split"] = split
            begin = stretch.start + start
            first, last = (0.0, None) if whole else (begin, begin + seconds)
            yield Recording(stretch.audio.path, key, columns, first, last, channel=chosen, stored=stretch.audio.stored)


TOLERANCE = 1e-3  # seconds: the resolution of times in manifests
UNREAD = -1


def _is_cut(supervision: dict[str, Any], seconds: float) -> bool:
    """Whether a supervision begins before or ends after a stretch of `seconds`."""
    start = float(supervision["start"])
    return start < -TOLERANCE or start + float(supervision["duration"]) > seconds + TOLERANCE


def _channel(channel: Any, channels: tuple[int, ...]) -> int | None:
    """The place of a channel in the file; None for all of them, `UNREAD` for some."""
    wanted = [*channels] if channel is None else channel if isinstance(channel, list) else [channel]
    if set(wanted) == set(channels):
        return None
    return channels.index(wanted[0]) if len(wanted) == 1 and wanted[0] in channels else UNREAD


def _meta(supervision: dict[str, Any], start: float, left_out: LeftOut) -> dict[str, Any]:
    """Fields of a supervision; alignments with times from its own start."""
    meta: dict[str, Any] = {**_columns(supervision.get("custom") or {}, str(supervision["id"]), left_out)}
    for name in FIELDS:
        value = supervision.get(name)
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{name} {shown(value)} is not text")
        if value and (text := visible(value)):
            meta[name] = text
    for kind, items in (supervision.get("alignment") or {}).items():
        if kind not in ALIGNED:
            left_out.add(f"alignments of kind {kind}, which no task reads", str(supervision["id"]), fault=False)
            continue
        rows: list[tuple[str, float, float]] = [
            (str(item[0]), float(item[1]) - start, float(item[1]) + float(item[2]) - start) for item in items
        ]
        meta[ALIGNED[kind]] = [[symbol, round(max(begin, 0.0), 6), round(end, 6)] for symbol, begin, end in rows]
    return meta


def _columns(custom: dict[str, Any], owner: str, left_out: LeftOut) -> dict[str, Any]:
    columns = {}
    for name, value in custom.items():
        if name in OURS or not isinstance(value, str | int | float):
            what = "is a field of ours" if name in OURS else "is neither text nor a number"
            left_out.add(f"custom fields `{name}`, which {what}", owner, fault=False)
        elif value != "":
            columns[name] = visible(value) if isinstance(value, str) else value
    return columns
