"""Who is meant: the enrolments that heads about a target speaker hear beside the recordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wavlm_lightning.data.batch import Waveforms
from wavlm_lightning.data.finding import printable
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_table
from wavlm_lightning.tasks.enrolled import ENROLMENT
from wavlm_lightning.workflows.predict.head import TrainedHead
from wavlm_lightning.workflows.predict.written import state_of

TABLES = (".csv", ".tsv")
COLUMNS = ("path", f"audio:{ENROLMENT}")  # as in a manifest of `wavlm prepare folder`


class Enrolments:
    """An enrolment for every recording, or one for each.

    Args:
        head: hears them.
        common: of all recordings; None if `each` has them.
        each: by resolved path of a recording.
        table: where `each` was read.
    """

    def __init__(
        self, head: TrainedHead, common: Path | None, each: Mapping[Path, Path] | None = None, table: str = ""
    ) -> None:
        self.head, self.common, self.each, self.table = head, common, dict(each or {}), table
        # Read once: it also names a file that cannot be used before the recordings are heard.
        self._heard = None if common is None else head.read(common, whole=True)

    @classmethod
    def open(cls, head: TrainedHead, given: Path | None) -> Enrolments | None:
        """What `--enrolment` names; None for a head that hears no enrolment.

        Raises:
            UserError: the head hears an enrolment and none is given, or the other way round, or the file cannot be used.
        """
        if given is None:
            if head.task.extra_audio:
                raise UserError(
                    f"{head.task.name}: answers about one speaker; give a recording of that speaker with --enrolment FILE"
                )
            return None
        check_hears_enrolments(head, f"--enrolment {printable(given)}")
        if given.suffix.lower() not in TABLES:
            return cls(head, given)
        each: dict[Path, Path] = {}
        tabs = given.suffix.lower() == ".tsv"
        table = read_table(given, "a table of enrolments", COLUMNS, "\t" if tabs else ",", not tabs, "correct this row")
        for number, row in table:
            recording, enrolment = (given.parent / row[name] for name in COLUMNS)
            if each.setdefault(recording.resolve(), enrolment) != enrolment:
                raise UserError(
                    f"{given}: line {number} gives {row['path']} a second enrolment; predict each speaker with a table of its own"
                )
        return cls(head, None, each, str(given))

    def of(self, recordings: Sequence[Path]) -> dict[str, Waveforms]:
        """The further audio of a batch of recordings, on the device of the head, for `Task.beside`."""
        if self._heard is not None:
            waveforms = [self._heard] * len(recordings)
        else:
            waveforms = [self.head.read(self._path(recording), whole=True) for recording in recordings]
        return {ENROLMENT: Waveforms.pad(waveforms).to(self.head.device)}

    def _path(self, recording: Path) -> Path:
        if (found := self.each.get(recording.resolve())) is None:
            raise UserError(f"{self.table} has no row with its path, so that no enrolment says who is meant; add one")
        return found

    def states(self) -> list[Any]:
        """What identifies the enrolments: paths, sizes and times of the files."""
        files = [self.common] if self.common is not None else sorted(set(self.each.values()))
        return [[str(file), *state_of(file)] for file in files if file.exists()] + sorted(
            [str(recording), str(file)] for recording, file in self.each.items()
        )


def check_hears_enrolments(head: TrainedHead, given: str) -> None:
    """Refuse an enrolment, which `given` names, for a head that has no use for it."""
    if head.task.extra_audio != (ENROLMENT,):
        raise UserError(f"{given}: {head.task.name} hears no enrolment; leave it out")
