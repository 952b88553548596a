"""Read a tar of samples that others wrote (WebDataset): where its audio lies, how long it is, and what is said about it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from wavlm_lightning.audio import BadAudio, check_length, load_mono_bytes
from wavlm_lightning.data.finding import SUFFIXES
from wavlm_lightning.data.foreign.fields import metadata, with_usual
from wavlm_lightning.data.recordings import Embedded
from wavlm_lightning.data.shard_index import HEADER, check_header
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import write_json
from wavlm_lightning.system.reading import check_file, read_json, reading, reason_of

TEXTS = ("txt", "cls")  # members that hold one text
JSON, FOLDER, KEY = "json:", "folder", "key"
LARGEST_TEXT = 1 << 22  # bytes of a member of metadata
SAMPLE = re.compile(r"((?:.*/)?[^./][^/.]*)\.([^/]+)")  # WebDataset: the key ends at the first dot of the file's name


@dataclass(frozen=True)
class TarOptions:
    """How to read samples.

    Attributes:
        audio: the extension of the audio, such as `wav` or `mic1.wav`; None for the only one that a sample has.
        columns: name in the corpus -> where it is: `json:FIELD` (with dots for fields of fields), the extension of a member of
            text, `folder`, `key`, or `key:SEPARATOR` (the key's beginning).
        on_error: `stop` at audio that cannot be used, or `skip` it.
    """

    audio: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    on_error: Literal["stop", "skip"] = "stop"


class Row(NamedTuple):
    """An utterance of a tar."""

    key: str  # as WebDataset says: with folders
    name: str  # of the audio member
    offset: int
    size: int  # in bytes
    samples: int  # at 16 kHz
    sound: str  # hash of the samples at 16 kHz
    meta: str  # JSON


@dataclass(frozen=True)
class Sound(Embedded):
    """An utterance of a tar as `Division` compares it: by the hash of its samples, which were decoded before.

    Attributes:
        size: in samples.
        sound: hash of the samples.
    """

    sound: str

    def content(self) -> bytes:
        return self.sound.encode()


@dataclass(frozen=True)
class Scan:
    """What is in a tar."""

    sha256: str
    size: int  # in bytes
    modified_ns: int
    rows: list[Row]
    left_out: dict[str, int]  # reason -> number
    skipped: list[dict[str, str]]  # audio that cannot be used: file, key, why
    columns: dict[str, int]  # "text from json:transcript" -> utterances


def scan(path: Path, options: TarOptions, note: Path) -> Scan:
    """Read a tar and decode all of its audio, unless `note` says what is in it, and it has not changed since.

    Raises:
        UserError: it is no plain tar, or (with `on_error="stop"`) audio in it cannot be used.
    """
    check_file(path, "a shard (tar)")
    with reading(path, "a shard (tar)", "copy it again"):
        state = path.stat()
    stamp = _stamp(path, state, options)
    if (earlier := _earlier(note, stamp)) is not None:
        return earlier
    with reading(path, "a shard (tar)", "copy it again, or leave it out"), path.open("rb") as file:
        _check_kind(path, file.read(2 * HEADER))
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        found = _scan(path, file, options, digest, state)
        after = os.fstat(file.fileno())
    if (after.st_size, after.st_mtime_ns) != (state.st_size, state.st_mtime_ns):
        raise UserError(f"{path}: changes while it is read; wait until it is complete")
    write_json(note, {"stamp": stamp, **asdict(found)}, durable=False, indent=None)
    return found


def _check_kind(path: Path, head: bytes) -> None:
    for magic, program in (
        (b"\x1f\x8b", "gunzip"),
        (b"BZh", "bunzip2"),
        (b"\xfd7zXZ", "unxz"),
        (b"(\xb5/\xfd", "unzstd"),
    ):
        if head.startswith(magic):
            raise UserError(
                f"{path}: a compressed tar has no random access; unpack it with {program} and index the plain tar"
            )


def _scan(path: Path, file: io.BufferedReader, options: TarOptions, digest: str, state: os.stat_result) -> Scan:
    left_out: Counter[str] = Counter()
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            if member.isdir():
                continue
            found = SAMPLE.fullmatch(member.name)
            if not member.isreg() or member.issparse():
                left_out["links and special files"] += 1
            elif found is None or "__MACOSX/" in member.name:
                left_out["hidden files and files without an extension"] += 1
            elif not _is_text(member.name):
                left_out["files whose name is not UTF-8"] += 1
            else:
                members = samples.setdefault(found[1].removeprefix("./"), {})
                if members.setdefault(extension := found[2].lower(), member) is not member:
                    raise UserError(
                        f"{path}: sample {found[1]!r} has two members {extension!r}; its keys are not unique, so write it again"
                    )
        _check_end(path, file, tar.offset)
    rows: list[Row] = []
    skipped: list[dict[str, str]] = []
    columns: Counter[str] = Counter()
    for key, members in samples.items():
        extension = _audio_of(members, options.audio, f"{path}: sample {key!r}")
        if extension is None:
            left_out["samples without audio"] += 1
            continue
        where = f"{path}: {members[extension].name}"
        meta, chosen = _meta(key, members, file, options, where, left_out)
        for other in members.keys() - {extension, "json", *TEXTS, *chosen.values()}:
            left_out[f"other members (.{other})"] += 1
        try:
            row = _row(key, members[extension], extension, file, where)
        except BadAudio as error:
            if options.on_error == "stop":
                raise UserError(f"{error}; repair or remove it, or use --on-error skip") from error
            skipped.append({"file": f"{path.name}/{members[extension].name}", "key": key, "why": str(error)})
            continue
        columns.update(f"{name} from {source}" for name, source in chosen.items() if name in meta)
        meta.setdefault("file", f"{path.name}/{row.name}")
        rows.append(row._replace(meta=json.dumps(meta, ensure_ascii=False)))
    return Scan(digest, state.st_size, state.st_mtime_ns, rows, dict(left_out), skipped, dict(columns))


def _check_end(path: Path, file: io.BufferedReader, end: int) -> None:
    """Refuse tars put one behind the other: readers stop at the end of the first."""
    file.seek(end)
    while block := file.read(1 << 20):
        if block.strip(b"\0"):
            raise UserError(
                f"{path}: goes on after the end of its archive, so it was joined of several or written over; split it, or write "
                "it again"
            )


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # a surrogate stands for a byte
        return False
    return True


def _audio_of(members: Mapping[str, tarfile.TarInfo], wanted: str | None, where: str) -> str | None:
    """The extension of the audio of a sample; None if it has none."""
    if wanted is not None:
        return wanted if wanted in members else None
    audio = [extension for extension in members if f".{extension.rpartition('.')[2]}" in SUFFIXES]
    plain = [extension for extension in audio if "." not in extension]  # `flac`, where `clean.flac` is further audio
    found = plain or audio
    if len(found) > 1:
        raise UserError(
            f"{where} has several audio members ({', '.join(sorted(found))}); choose one with --audio EXTENSION"
        )
    return found[0] if found else None


def _row(key: str, member: tarfile.TarInfo, extension: str, file: io.BufferedReader, where: str) -> Row:
    data = os.pread(file.fileno(), member.size, member.offset_data)
    # What every later reading compares, so a tar that it could not read is refused here.
    header = os.pread(file.fileno(), HEADER, member.offset_data - HEADER)
    check_header(Path(where), header, member.name, member.size, "write it with another program")
    waveform = load_mono_bytes(data, f".{extension.rpartition('.')[2]}", where)
    check_length(waveform, where)
    sound = hashlib.sha256(waveform.astype("<f4").tobytes()).hexdigest()[:32]
    return Row(key, member.name, member.offset_data, member.size, len(waveform), sound, "")


def _meta(
    key: str,
    members: Mapping[str, tarfile.TarInfo],
    file: io.BufferedReader,
    options: TarOptions,
    where: str,
    left_out: Counter[str],
) -> tuple[dict[str, Any], dict[str, str]]:
    """The metadata of a sample, and where each column is from."""
    fields: dict[str, Any] = {}
    asked = options.columns.values()
    if "json" in members:
        text = _text(members["json"], file, where)
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: the .json beside it is no JSON ({reason_of(error)}); write it again") from error
        if isinstance(content, dict):
            fields.update({f"{JSON}{name}": value for name, value in content.items()})
            for source in asked:
                if source.startswith(JSON) and source not in fields:
                    fields[source] = _inner(content, source.removeprefix(JSON).split("."))
        else:
            left_out["JSON that is no object"] += 1
    for extension in {*TEXTS, *asked} & members.keys() - {"json"}:
        fields[f"{JSON}{extension}" if extension in TEXTS else extension] = _text(
            members[extension], file, where
        ).strip()
    for source in asked:
        if source == FOLDER:
            fields[source] = key.rpartition("/")[0].rpartition("/")[2]
        elif source == KEY or source.startswith(f"{KEY}:"):
            name = key.rpartition("/")[2]
            separator = source.removeprefix(KEY).removeprefix(":")
            fields[source] = name.partition(separator)[0] if separator else name
        elif source in TEXTS:
            fields[source] = fields.pop(f"{JSON}{source}", None)
    chosen = with_usual(options.columns, fields, JSON)
    if "text" not in chosen and f"{JSON}txt" in fields:
        fields["txt"] = fields.pop(f"{JSON}txt")
        chosen["text"] = "txt"
    return metadata(fields, chosen, where, left_out, JSON), chosen


def _inner(content: Any, names: list[str]) -> Any:
    for name in names:
        content = content.get(name) if isinstance(content, dict) else None
    return content


def _text(member: tarfile.TarInfo, file: io.BufferedReader, where: str) -> str:
    if member.size > LARGEST_TEXT:
        raise UserError(
            f"{where}: the member {member.name} beside it has {member.size:,} bytes, more than a text has; leave it out"
        )
    data = os.pread(file.fileno(), member.size, member.offset_data)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: the member {member.name} beside it is not text in UTF-8; write it again") from error


def _stamp(path: Path, state: os.stat_result, options: TarOptions) -> str:
    facts = [os.path.realpath(path), state.st_size, state.st_mtime_ns, asdict(options)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _earlier(note: Path, stamp: str) -> Scan | None:
    try:
        kept = read_json(note, "the note of an earlier run")
        if kept.pop("stamp") != stamp:
            return None
        rows = [Row(*row) for row in kept.pop("rows")]
        return Scan(rows=rows, **kept)
    except (KeyError, TypeError, UserError):
        return None
