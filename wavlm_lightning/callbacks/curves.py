"""Curves of a run as CSV: Lightning's logger, with a file that no kill and no full disk leaves half written."""

from __future__ import annotations

import csv
import io
import os
import warnings
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import atomic_write
from wavlm_lightning.system.reading import read_text, reading


class CurveFile(ExperimentWriter):
    """`metrics.csv` of one start of a run: rows are added to its end; a new column writes it anew, atomically."""

    metrics: list[dict[str, float]]  # rows that are not written yet
    metrics_keys: list[str]  # columns of the file

    def save(self) -> None:
        """Write the rows since the last call; if that is not possible they are kept for the next one, with a warning."""
        if not self.metrics:
            return
        path = Path(self.metrics_file_path)
        keys = sorted({*self.metrics_keys, *(key for row in self.metrics for key in row)})
        try:
            if keys == self.metrics_keys and path.is_file():
                self._append(path)
            else:
                self._write_anew(path, keys)
        except (OSError, UserError) as error:  # a run does not end because its curves cannot be written
            warnings.warn(
                f"{path}: {len(self.metrics)} rows of curves could not be written yet ({error})", stacklevel=2
            )
            return
        self.metrics_keys, self.metrics = keys, []

    def _append(self, path: Path) -> None:
        text = io.StringIO()
        csv.DictWriter(text, self.metrics_keys).writerows(self.metrics)
        with path.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            content = text.getvalue().encode()
            try:
                if file.write(content) != len(content):
                    raise OSError("only a part of the rows fits the disk")
            except OSError:
                file.truncate(end)
                raise

    def _write_anew(self, path: Path, keys: list[str]) -> None:
        earlier: list[dict[str, str]] = []
        if path.is_file():
            again = "remove it, or choose another run folder"
            text = read_text(path, "training curves", again)
            with reading(path, "training curves", again):
                earlier = list(csv.DictReader(io.StringIO(text)))
        with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, keys)
            writer.writeheader()
            writer.writerows([*earlier, *self.metrics])


class Curves(CSVLogger):
    """Lightning's CSVLogger, with `CurveFile`.

    Example:
        >>> Trainer(logger=Curves("runs/mine", name="curves"))
    """

    _experiment: CurveFile | None  # Lightning's name

    @property
    @rank_zero_experiment
    def experiment(self) -> CurveFile:
        """The file of this start."""
        if self._experiment is None:
            Path(self.root_dir).mkdir(parents=True, exist_ok=True)
            self._experiment = CurveFile(log_dir=self.log_dir)
        return self._experiment
