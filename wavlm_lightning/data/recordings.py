"""The plan of a corpus: which stretches of which files become which utterances, with helpers for recipes.

Nothing is decoded here; `wavlm_lightning.data.writing` reads the files and writes the corpus.
"""

from __future__ import annotations

import hashlib
import math
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from wavlm_lightning.system.errors import UserError

if TYPE_CHECKING:  # recipes must import quickly, for `wavlm prepare --help`
    import numpy as np

Meta = dict[str, Any]
Inventories = dict[str, Any]


class Stored(Protocol):
    """Audio inside another file, such as a member of an archive; a dataclass, whose `repr` says where it is."""

    def content(self) -> bytes:
        """The bytes of an audio file; `BadAudio` or OSError if they cannot be had."""

    def __str__(self) -> str:
        """Its name in messages."""


@dataclass(frozen=True)
class Embedded:
    """An audio file inside another file, such as an archive of Kaldi or a tar.

    Attributes:
        path: of the file around it.
        offset: its first byte there.
        size: its bytes.
    """

    path: Path
    offset: int
    size: int

    def content(self) -> bytes:
        from wavlm_lightning.audio import BadAudio

        with self.path.open("rb") as file:
            file.seek(self.offset)
            found = file.read(self.size)
        if len(found) < self.size:
            raise BadAudio(f"{self}: truncated, {len(found)} of {self.size} bytes are there")
        return found

    def __str__(self) -> str:
        return f"{self.path}:{self.offset}"


@dataclass(frozen=True)
class AudioFile:
    """Further audio of a recording, such as its clean reference or an enrolment: a file, or a stretch of one.

    Attributes:
        path: any file that libsndfile reads.
        start: where the stretch begins, in seconds; not that of the recording, so a target needs the same.
        end: where it ends, in seconds; None for the end of the file.
        gain_db: gain in dB.
        channel: the one to read, from 0; None averages all.
        stored: where the audio is, if `path` is not the audio file itself.
        padded: leave digital silence at the end out, with which a corpus makes files of one length.
    """

    path: Path
    start: float = 0.0
    end: float | None = None
    gain_db: float = 0.0
    channel: int | None = None
    stored: Stored | None = None
    padded: bool = False

    def waveform(self, allow_silence: bool = False) -> np.ndarray:
        """Decode it: float32 `(samples,)` in [-1, 1], 16 kHz mono; `BadAudio` if the file cannot be used."""
        from wavlm_lightning.audio import check_length

        waveform = self.decode(allow_silence)
        check_length(waveform, f"{self.path} from {self.start:g} s" if self.start else str(self.path))
        return waveform

    def decode(self, allow_silence: bool = False) -> np.ndarray:
        """`waveform` of any length."""
        import numpy as np

        from wavlm_lightning.audio import gain, load_mono

        how: dict[str, Any] = {"start": self.start, "end": self.end, "channel": self.channel}
        if self.stored is None:
            waveform = load_mono(self.path, allow_silence=allow_silence, **how)
        else:
            with tempfile.NamedTemporaryFile() as file:
                file.write(self.stored.content())
                file.flush()
                waveform = load_mono(file.name, allow_silence=allow_silence, called=str(self.stored), **how)
        if self.padded and waveform.any():
            waveform = waveform[: int(np.flatnonzero(waveform)[-1]) + 1]
        return gain(waveform, self.gain_db) if self.gain_db else waveform


@dataclass(frozen=True)
class Recording:
    """A stretch of an audio file that becomes an utterance, with its key and metadata.

    Attributes:
        path: any file that libsndfile reads.
        key: of the utterance, without dots, slashes or white space (see `clean_key`).
        meta: as in `wavlm_lightning.data.shards.Utterance`.
        start: where the stretch begins, in seconds.
        end: where it ends, in seconds; None for the end of the file.
        gain_db: gain before trimming (SUPERB's SV), dB. Where nothing depends on the level keep the published level:
            `data.gain_db` changes it at load time.
        trim: remove all quiet stretches (`wavlm_lightning.audio.trim_silence`; SUPERB's SV).
        longer_than: seconds; a recording that is not longer than this after trimming is left out of the corpus and
            counted in `source.too_short`.
        allow_silence: accept it even if its peak is below -80 dBFS, for corpora in which silence is a class.
        audio: further audio by name, kept beside the utterance (`KEY.NAME.flac`).
        channel: the one to read, from 0; None averages all.
        stored: where the audio is, if `path` is not the audio file itself.
    """

    path: Path
    key: str
    meta: Meta
    start: float = 0.0
    end: float | None = None
    gain_db: float = 0.0
    trim: bool = False
    longer_than: float = 0.0
    allow_silence: bool = False
    audio: dict[str, AudioFile] = field(default_factory=dict)
    channel: int | None = None
    stored: Stored | None = None

    def waveform(self) -> np.ndarray:
        """Decode it: float32 `(samples,)` in [-1, 1], 16 kHz mono.

        Raises:
            BadAudio: the file cannot be used, or less than a frame is left after trimming.
        """
        from wavlm_lightning.audio import check_length, check_waveform, trim_silence

        file = AudioFile(self.path, self.start, self.end, self.gain_db, self.channel, self.stored)
        waveform = file.decode(self.allow_silence)
        if self.trim:
            waveform = trim_silence(waveform)
            # If there is a minimum length, an empty rest is just too short; otherwise it is an error.
            if not self.longer_than:
                check_waveform(waveform, f"{self.path}: after trimming", self.allow_silence)
        if not self.longer_than:
            check_length(waveform, f"{self.path} from {self.start:g} s" if self.start else str(self.path))
        return waveform


@dataclass(frozen=True)
class CorpusPlan:
    """Everything that a recipe knows about a corpus before any audio is decoded.

    Attributes:
        name: of the corpus.
        licence: terms of use of the audio.
        splits: recordings by split, in the order of writing; empty splits are left out.
        inventories: label sets for `corpus.json`, or a function that makes them from the metadata of the written
            utterances, by split.
        trials: for a split, rows of (1 same speaker or 0, key, key).
        source: how the corpus was made; kept in `corpus.json`.
        distinct: refuse the same sound in two splits; published corpora keep the splits that they have.
        shard_files: recordings per shard. A process writes one shard at a time, and an interruption loses at most that.
    """

    name: str
    licence: str
    splits: dict[str, list[Recording]]
    inventories: Inventories | Callable[[dict[str, list[Meta]]], Inventories]
    trials: dict[str, list[tuple[int, str, str]]] | None = None
    source: dict[str, Any] = field(default_factory=dict)
    shard_files: int = 500
    distinct: bool = False


def clean_key(name: str) -> str:
    """A valid key: all characters but letters, digits, `_` and `-` become `_`.

    Example:
        >>> clean_key("id10270/5r0dWxy17C8/00001")
        'id10270_5r0dWxy17C8_00001'
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)


def require_folder(path: Path, what: str) -> Path:
    """`path` if it is a folder; otherwise `UserError`, in a sentence that ends with what it should hold."""
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; it should hold {what}")
    return path


def require_named(root: Path, name: str, what: str) -> Path:
    """The folder `name`, which is `root` or in it: torchaudio reads some data sets only under their published name."""
    root = root.absolute()
    return require_folder(root if root.name == name else root / name, what)


def require_file(path: Path, what: str) -> Path:
    """`path` if it is a file; otherwise `UserError`, in a sentence that ends with what it should be."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; it should be {what}")
    return path


def existing(recordings: list[Recording]) -> list[Recording]:
    """The recordings whose file exists; `check_counts` then reports what is missing."""
    return [recording for recording in recordings if recording.path.is_file()]


def hold_out(units: Iterable[str], shares: dict[str, float], what: str) -> dict[str, str]:
    """Assign units such as speakers to splits by the hash of their names, so that adding one hardly moves the others.

    Each split gets its share of the units, rounded up, and `train` the rest. If nothing is left to train on,
    `UserError` says so with the plural noun `what`.
    """
    order = sorted(set(units), key=lambda unit: hashlib.sha256(unit.encode()).hexdigest())
    held = [split for split, share in shares.items() for _ in range(math.ceil(share * len(order)))]
    if len(held) >= len(order):
        options = " and ".join(f"--{split}" for split in shares)
        raise UserError(f"{options} would hold out all {len(order)} {what}")
    return dict(zip(order, [*held, *["train"] * (len(order) - len(held))], strict=True))


def check_counts(
    found: Mapping[str, int | Sized],
    official: Mapping[str, int],
    allow_partial: bool,
    where: Path,
    what: str = "utterances",
) -> None:
    """Compare counts with the official ones, in the splits that `official` lists.

    `found` holds counts or the recordings to count. A difference raises `UserError` or, with `allow_partial`, prints a
    warning; `where` (the folder) and `what` (a plural noun) are for the message.
    """
    counts = {split: len(part) if isinstance(part, Sized) else part for split, part in found.items()}
    wrong = [
        f"{split} has {counts.get(split, 0):,} {what} instead of {wanted:,}"
        for split, wanted in official.items()
        if counts.get(split, 0) != wanted
    ]
    if not wrong:
        return
    sentence = f"{where}: the corpus is not complete, {', '.join(wrong)}"
    if not allow_partial:
        raise UserError(f"{sentence}; complete it, or use the incomplete one with --allow-partial")
    print(f"warning: {sentence}; scores are not comparable with published ones", file=sys.stderr)
