"""Find the recordings in a folder: through links to other folders, and with a count of the files that are left out."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from wavlm_lightning.system.errors import UserError

# The last three are read by PyAV, the extra `[media]`.
SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".w64", ".sph", ".m4a", ".aac", ".webm"}


@dataclass(frozen=True)
class FoundAudio:
    """Audio files of a folder."""

    files: list[Path]  # in the folder and below it, sorted
    left_out: Counter[str] = field(default_factory=Counter)  # suffix of the other files -> their number

    def note(self) -> str | None:
        """A line about the files that are left out; None if there are none."""
        if not self.left_out:
            return None
        kinds = ", ".join(f"{name or 'no suffix'} {count}" for name, count in self.left_out.most_common(8))
        return (
            f"left out {sum(self.left_out.values())} files whose suffix is not {', '.join(sorted(SUFFIXES))}: {kinds}"
        )


def find_audio(folder: Path) -> FoundAudio:
    """All audio files in a folder and below it, by suffix; a linked folder is searched once.

    Raises:
        UserError: a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise UserError(
            f"{error.filename}: cannot be listed ({error.strerror}); correct its permissions or move it away"
        )

    found: list[Path] = []
    left_out: Counter[str] = Counter()
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        if (real := os.path.realpath(place)) in seen:  # a link to a folder above it, or a second way to one
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in names:
            path = Path(place, name)
            if path.suffix.lower() in SUFFIXES and path.is_file():
                found.append(path)
            elif not name.startswith("."):  # such as .DS_Store
                left_out[path.suffix.lower()] += 1
    return FoundAudio(sorted(found), left_out)


def printable(path: Path | str) -> str:
    """A path as text that JSON can hold: bytes that are not UTF-8 become `\\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
