"""Divide recordings into train, valid and test: whole speakers where they are known, and equal files never apart."""

from __future__ import annotations

import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from wavlm_lightning.data.recordings import Embedded, Recording, clean_key, hold_out
from wavlm_lightning.system.errors import UserError

FEWEST_SPEAKERS = 3  # one for each of train, valid and test


class Divided(NamedTuple):
    """Recordings by split."""

    splits: dict[str, list[Recording]]
    unit: str  # what stays together: `speaker` or `file`; `manifest` if the splits were given
    said: str  # what was decided and why, for the screen


@dataclass(frozen=True)
class Division:
    """How recordings are divided, unless their metadata have a `split`.

    Args:
        valid: share held out for validation.
        test: share held out for test.
        split_by: hold out whole speakers, or single files. `auto` takes speakers wherever at least 3 units are left, where a
            recording without a speaker is a unit of its own. Stretches of one file, and files of equal content, always stay
            together.
    """

    valid: float = 0.05
    test: float = 0.05
    split_by: str = "auto"

    def divide(self, recordings: list[Recording], where: Path | str) -> Divided:
        """Recordings by split, each in the order given; `where` is the list they come from, for messages.

        Raises:
            UserError: some have a split and others not, two names of splits are equal as file names, or nothing is left to
                train on.
        """
        given = [r for r in recordings if "split" in r.meta]
        if given and len(given) < len(recordings):
            raise UserError(
                f"{where}: {len(recordings) - len(given)} rows have no split, {len(given)} have; give all or none"
            )
        if given:
            return Divided(_as_given(recordings, where), "manifest", "splits: as given")
        by_speaker, why = self._by_speaker(recordings)
        plain = {_file(r): r.key for r in reversed(recordings)}  # a file -> key of its first recording
        units = [(_speaker(r) if by_speaker else None) or plain[_file(r)] for r in recordings]
        joined, twins = _join_equal(recordings, units)
        what = "speakers" if by_speaker else "files"
        split_of = hold_out(joined, {"valid": self.valid, "test": self.test}, what)
        splits: dict[str, list[Recording]] = {"train": [], "valid": [], "test": []}
        for recording, unit in zip(recordings, joined, strict=True):
            splits[split_of[unit]].append(recording)
        held = [f"{sum(each == name for each in split_of.values())} to {name}" for name in splits]
        said = f"splits: {len(split_of)} {what}, {', '.join(held)}; {why}"
        if twins:
            said += f"; {twins} files have the content of another one and stay with it"
        return Divided({name: part for name, part in splits.items() if part}, "speaker" if by_speaker else "file", said)

    def _by_speaker(self, recordings: list[Recording]) -> tuple[bool, str]:
        known = {speaker for r in recordings if (speaker := _speaker(r)) is not None}
        unknown = sum(_speaker(r) is None for r in recordings)
        if self.split_by == "file":
            return False, "single files, as asked for, so a speaker may be in several splits"
        if self.split_by == "speaker":
            if unknown or len(known) < FEWEST_SPEAKERS:
                raise UserError(
                    "--split-by speaker needs a speaker for every file and at least 3 of them; use --split-by file"
                )
            return True, "no speaker is in two splits"
        if not known:
            return False, "no speaker is known, so a voice may be in several splits"
        if len(known) + unknown < FEWEST_SPEAKERS:
            few = "one speaker is" if len(known) == 1 else "two speakers are"
            return False, f"{few} too few to hold out whole ones, so each may be in several splits"
        if unknown:
            return True, f"no known speaker is in two splits; {unknown} recordings without a speaker count as one each"
        return True, "no speaker is in two splits (--split-by file mixes them)"


def _as_given(recordings: list[Recording], where: Path | str) -> dict[str, list[Recording]]:
    splits: dict[str, list[Recording]] = {}
    named: dict[str, str] = {}
    for recording in recordings:
        name = clean_key(recording.meta["split"])
        other = named.setdefault(name, recording.meta["split"])
        if other != recording.meta["split"]:
            both = f"{other!r} and {recording.meta['split']!r}"
            raise UserError(f"{where}: the splits {both} would both be {name!r}; rename one")
        splits.setdefault(name, []).append(recording)
    return splits


def _speaker(recording: Recording) -> str | None:
    speaker = recording.meta.get("speaker")
    return None if speaker is None else str(speaker)


def _file(recording: Recording) -> str:
    return repr(recording.stored) if recording.stored else str(recording.path)


def _join_equal(recordings: Sequence[Recording], names: list[str]) -> tuple[list[str], int]:
    """Units by recording, where units that share a file or equal content are one; and the files that equal another one."""
    first: dict[str, str] = {}  # unit -> the one that it joins

    def root(name: str) -> str:
        while first.get(name, name) != name:
            name = first[name]
        return name

    def join(one: str, other: str) -> None:
        low, high = sorted((root(one), root(other)))
        first[high] = low

    sizes: dict[int, dict[str, tuple[Recording, str]]] = defaultdict(dict)
    for recording, name in zip(recordings, names, strict=True):
        if (size := _size(recording)) is not None:
            sizes[size].setdefault(_file(recording), (recording, name))
    twins = 0
    for group in sizes.values():
        contents: dict[str, str] = {}
        for recording, name in group.values() if len(group) > 1 else ():
            with contextlib.suppress(OSError, UserError):  # reading the audio says what is wrong with the file
                other = contents.setdefault(_digest(recording), name)
                twins += other != name
                join(other, name)
    return [root(name) for name in names], twins


def _size(recording: Recording) -> int | None:
    """Bytes of the file, if they can be compared without decoding or running anything."""
    if recording.stored is not None:
        return recording.stored.size if isinstance(recording.stored, Embedded) else None
    return recording.path.stat().st_size if recording.path.is_file() else None


def _digest(recording: Recording) -> str:
    if recording.stored is not None:
        return hashlib.sha256(recording.stored.content()).hexdigest()
    with recording.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
