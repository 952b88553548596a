"""Read training curves from the `metrics.csv` files of Lightning's CSVLogger, of which a resumed run has several."""

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_text, reading, reason_of


@dataclass(frozen=True)
class Series:
    """One logged quantity: `values[i]` was logged at optimiser step `steps[i]`; steps ascend."""

    steps: list[int]
    values: list[float]

    @property
    def last(self) -> float:
        return self.values[-1]

    def scaled(self, factor: float) -> "Series":
        """The values times a factor: curves hold fractions, pages show percentages."""
        return Series(self.steps, [factor * value for value in self.values])


@dataclass(frozen=True)
class Curves:
    """The curves of one run, by the names they were logged under.

    Example:
        >>> read_curves([Path("runs/demo/pretrain/metrics.csv")])["valid/loss"].last
        3.52
    """

    series: dict[str, Series] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.series)

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def __getitem__(self, name: str) -> Series:
        found = self.get(name)
        if found is None:
            raise KeyError(name)
        return found

    def get(self, name: str) -> Series | None:
        """The series logged as `name`, or as Lightning's `name_step` or `name_epoch`; None if there is none."""
        candidates = (name, f"{name}_step", f"{name}_epoch")
        return next((self.series[each] for each in candidates if each in self.series), None)

    @property
    def last_step(self) -> int:
        """The highest step of any series; 0 without series."""
        return max((series.steps[-1] for series in self.series.values()), default=0)


def read_curves(paths: Iterable[Path]) -> Curves:
    """Read and merge the metric files of one run, in the order in which they were written; missing files are empty.

    A run that was stopped and resumed leaves one file per start. Points are merged by name and step; if two files hold
    the same step, the later file wins, because a resumed run repeats the steps after its checkpoint.
    """
    points: dict[str, dict[int, float]] = {}
    for path in map(Path, paths):
        if path.is_file():
            for name, step, value in _read_points(path):
                points.setdefault(name, {})[step] = value
    return Curves({name: Series(sorted(some), [some[step] for step in sorted(some)]) for name, some in points.items()})


def _read_points(path: Path) -> list[tuple[str, int, float]]:
    text = read_text(path, "training curves", "remove it")
    with reading(path, "training curves", "remove it"):
        reader = csv.DictReader(io.StringIO(text))
        rows = list(reader)
        columns = reader.fieldnames
    if not columns:
        return []
    if "step" not in columns:
        raise UserError(f"{path} has no column `step`; give the metrics.csv that Lightning's CSVLogger writes")
    points = []
    for index, row in enumerate(rows):
        try:
            points.extend(_row_points(row))
        except (ValueError, TypeError, OverflowError) as error:
            # A run that is killed while it writes leaves half a line at the end of an otherwise good file.
            if index == len(rows) - 1:
                continue
            raise UserError(f"{path}, line {index + 2}: {reason_of(error)}; delete that line or the file") from None
    return points


def _row_points(row: dict[str, str | None]) -> list[tuple[str, int, float]]:
    """The finite values of one row; an empty cell means that nothing was logged at this step."""
    if not row.get("step"):
        return []
    step = int(float(row["step"] or 0))
    cells = {name: float(cell) for name, cell in row.items() if name not in (None, "step", "epoch") and cell}
    return [(name, step, value) for name, value in cells.items() if math.isfinite(value)]
