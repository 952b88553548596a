"""What a recipe gives: files on disk, how to read them, and the corpus they make; nothing is decoded here.

`wavlm_lightning.data.writing` makes the corpus of it.
"""

from __future__ import annotations

import hashlib
import math
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavlm_lightning.system.errors import UserError

if TYPE_CHECKING:  # recipes must import in no time, for `wavlm prepare --help`
    import numpy as np

Meta = dict[str, Any]
Inventories = dict[str, Any]


@dataclass(frozen=True)
class Recording:
    """A stretch of a file to read, under the key and with the metadata its utterance will have.

    Attributes:
        path: any file libsndfile reads.
        key: of the utterance; no dots, slashes or white space (see `clean_key`).
        meta: as in `wavlm_lightning.data.shards.Utterance`.
        start: where the stretch begins, in seconds.
        end: where it ends, in seconds; None for the end of the file.
        gain_db: louder or softer by this, before trimming (SUPERB's SV). Where nothing depends on the level, leave it
            as published: `data.gain_db` changes it at load.
        trim: remove all quiet stretches (`wavlm_lightning.audio.trim_silence`; SUPERB's SV).
        longer_than: what is left after trimming must be longer than this, in seconds; else it is left out of the
            corpus and counted in `source.too_short`.
        allow_silence: take it even if its peak is below -80 dBFS, as in corpora whose silence is a class.
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

    def waveform(self) -> np.ndarray:
        """Decode it: float32 `(samples,)` in [-1, 1], 16 kHz mono.

        Raises:
            BadAudio: the file cannot be used, or nothing is left after trimming.
        """
        from wavlm_lightning.audio import check_waveform, gain, load_mono, trim_silence

        waveform = load_mono(self.path, start=self.start, end=self.end, allow_silence=self.allow_silence)
        if self.gain_db:
            waveform = gain(waveform, self.gain_db)
        if self.trim:
            waveform = trim_silence(waveform)
            # A recording that may be too short may also be trimmed to nothing; others must hold something.
            if not self.longer_than:
                check_waveform(waveform, f"{self.path}: after trimming", self.allow_silence)
        return waveform


@dataclass(frozen=True)
class CorpusPlan:
    """What a recipe gives: everything that is known before a sample is decoded.

    Attributes:
        name: of the corpus.
        licence: terms of use of the audio.
        splits: recordings by split, in the order they are written; empty splits are left out.
        inventories: label sets for `corpus.json`, or a function that makes them from the metadata, by split, of what
            was written.
        trials: for a split, rows of (1 same speaker or 0, key, key).
        source: how the corpus was made; kept in `corpus.json`.
        shard_files: recordings of one shard, which is what one process does at a time and an interruption may lose.
    """

    name: str
    licence: str
    splits: dict[str, list[Recording]]
    inventories: Inventories | Callable[[dict[str, list[Meta]]], Inventories]
    trials: dict[str, list[tuple[int, str, str]]] | None = None
    source: dict[str, Any] = field(default_factory=dict)
    shard_files: int = 500


def clean_key(name: str) -> str:
    """A usable key: everything but letters, digits, `_` and `-` becomes `_`.

    Example:
        >>> clean_key("id10270/5r0dWxy17C8/00001")
        'id10270_5r0dWxy17C8_00001'
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)


def require_folder(path: Path, what: str) -> Path:
    """The folder, or a `UserError` that says what should be there.

    Args:
        path: where it should be.
        what: it holds, to end the sentence "it should hold ...".
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; it should hold {what}")
    return path


def require_file(path: Path, what: str) -> Path:
    """The file, or a `UserError` that says what it should be ("it should be ...")."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; it should be {what}")
    return path


def existing(recordings: list[Recording]) -> list[Recording]:
    """Those whose file is there; `check_counts` then says what is missing."""
    return [recording for recording in recordings if recording.path.is_file()]


def hold_out(units: Iterable[str], shares: dict[str, float], what: str) -> dict[str, str]:
    """Deal units (speakers, say) to splits by the hash of their names, so that others do not move when one is added.

    Args:
        units: names; double ones count once.
        shares: of the units that a split gets, rounded up; `train` gets the rest.
        what: the units are, for the message.

    Returns:
        The split of each unit.

    Raises:
        UserError: nothing would be left to train on.
    """
    order = sorted(set(units), key=lambda unit: hashlib.sha256(unit.encode()).hexdigest())
    held = [split for split, share in shares.items() for _ in range(math.ceil(share * len(order)))]
    if len(held) >= len(order):
        options = " and ".join(f"--{split}" for split in shares)
        raise UserError(f"{options} would hold out all {len(order)} {what}")
    return dict(zip(order, [*held, *["train"] * (len(order) - len(held))], strict=True))


def check_counts(
    found: dict[str, int], official: dict[str, int], allow_partial: bool, where: Path, what: str = "utterances"
) -> None:
    """Compare what is there with what the corpus officially holds.

    Args:
        found: counts by split.
        official: what they should be; splits it does not name are not checked.
        allow_partial: warn on standard error instead of refusing.
        where: the folder, for the message.
        what: is counted.

    Raises:
        UserError: a count differs and `allow_partial` is off.
    """
    wrong = [
        f"{split} has {found.get(split, 0):,} {what} instead of {wanted:,}"
        for split, wanted in official.items()
        if found.get(split, 0) != wanted
    ]
    if not wrong:
        return
    sentence = f"{where}: not the whole corpus, {', '.join(wrong)}"
    if not allow_partial:
        raise UserError(f"{sentence}; complete it, or take what is there with --allow-partial")
    print(f"warning: {sentence}; scores will not compare with published ones", file=sys.stderr)
