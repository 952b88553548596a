"""Audio that a head answers with, as one file for each recording, or one for each part of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import atomic_write
from wavlm_lightning.system.paths import unique_names

FORMATS = ("wav", "flac")
LONGEST_NAME = 100  # letters; file systems take 255 bytes


class AudioWriter:
    """Writes 16-bit audio at 16 kHz, one file for each recording and part, in one folder.

    A file has the name of its recording, with `-1`, `-2`, ... behind it if there are several parts; characters that some systems
    do not take become `_`, and recordings of one name are numbered. Files are written whole or not at all; those of earlier
    runs that have other names stay.

    Args:
        folder: where the files go; made if missing.
        recordings: of this run, in order.
        given: recordings and folders of recordings as the user named them.
        form: `wav` or `flac`.
        parts: waveforms of each answer.

    Attributes:
        names: by recording, the name of its file, or a list of those of its parts.

    Raises:
        UserError: the files would lie among the recordings, and the next run would hear them as well.
    """

    def __init__(
        self, folder: Path, recordings: Sequence[Path], given: Sequence[Path], form: str, parts: int = 1
    ) -> None:
        if form not in FORMATS:
            raise UserError(f"--audio-format {form}: must be one of {', '.join(FORMATS)}")
        place = folder.resolve()
        for each in given:
            if each.is_dir() and place.is_relative_to(each.resolve()):
                raise UserError(f"--out {folder}: lies in {each}, whose recordings are heard; give a folder elsewhere")
        self.folder = folder
        self.names: dict[Path, str | list[str]] = {}
        made = file_names(recordings, form, parts)
        for place_of, recording in enumerate(recordings):
            own = made[parts * place_of : parts * (place_of + 1)]
            self.names[recording] = own[0] if parts == 1 else own
        files = {place / name for name in made}
        for recording in recordings:
            if recording.resolve() in files:
                raise UserError(f"--out {folder}: would replace the recording {recording}; give another folder")
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, recording: Path, waveform: np.ndarray) -> dict[str, Any]:
        """Write the answer `(samples,)` or `(samples, parts)`, float, at its own level.

        Returns what it adds to the row of `predictions.jsonl`: `audio`, the name of the file or a list of those of its parts, and
        if samples beyond full scale had to be clipped their number, `clipped`.
        """
        names = self.names[recording]
        parts = (
            zip([names], waveform[None], strict=True) if isinstance(names, str) else zip(names, waveform.T, strict=True)
        )
        for name, samples in parts:
            with atomic_write(self.folder / name) as temporary:
                form = Path(name).suffix[1:].upper()
                soundfile.write(temporary, np.clip(samples, -1.0, 1.0), SAMPLE_RATE, format=form, subtype="PCM_16")
        clipped = int((np.abs(waveform) > 1).sum())
        return {"audio": names, "clipped": clipped} if clipped else {"audio": names}


def file_names(recordings: Sequence[Path], form: str, parts: int = 1) -> list[str]:
    """A file name for each recording and part: safe on all systems, and unique where case does not count.

    Example:
        >>> file_names([Path("a/my talk.mp3"), Path("b/my talk.wav")], "wav")
        ['my_talk.wav', 'my_talk-2.wav']
        >>> file_names([Path("talk.mp3")], "wav", parts=2)
        ['talk-1.wav', 'talk-2.wav']
    """
    stems = [re.sub(r"[^\w.-]+", "_", recording.stem).lstrip(".-")[:LONGEST_NAME] for recording in recordings]
    ends = [""] if parts == 1 else [f"-{number}" for number in range(1, parts + 1)]
    return [
        f"{name}.{form}" for name in unique_names([f"{stem or 'recording'}{end}" for stem in stems for end in ends])
    ]
