"""A folder of recordings and a table of ratings: one row a rating, or one row a recording with its mean.

The table is CSV or TSV with a header: `path` (from DIR, or absolute) and `rating`; `listener` for models that learn
listeners; `system`, over whose recordings ratings are averaged (without it every recording is a system of its own, and
figures of systems are those of utterances); `speaker`; `split` for splits of your own. Other columns are left out.
"""

from __future__ import annotations

import argparse
from collections import Counter
from functools import partial
from pathlib import Path

from wavlm_lightning.data.corpora.ratings.rated_recordings import Rated, label_sets, score_of
from wavlm_lightning.data.division import Division
from wavlm_lightning.data.recordings import CorpusPlan, Recording, clean_key
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.paths import unique_names
from wavlm_lightning.system.reading import read_table

HELP = "a folder of recordings and a table of ratings (MOS)"
_FACTS = ("speaker", "split")  # further columns that are kept


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the table, its scale and its columns, and how recordings are divided."""
    parser.add_argument("--table", type=Path, metavar="FILE", help="CSV or TSV; DIR/ratings.csv by default")
    ends = ("LOWEST", "HIGHEST")
    parser.add_argument("--scale", type=float, nargs=2, default=(1.0, 5.0), metavar=ends, help="of the scores; 1 to 5")
    for name in ("path", "rating", "listener", "system"):
        parser.add_argument(f"--{name}-column", default=name, metavar="COLUMN", help=f"`{name}` by default")
    parser.add_argument("--valid", type=float, default=0.1, help="share held out for validation (default 0.1)")
    parser.add_argument("--test", type=float, default=0.1, help="share held out for test (default 0.1)")
    units = ("auto", "speaker", "file")
    parser.add_argument("--split-by", choices=units, default="auto", help="what is held out as a whole; see folder")
    parser.add_argument("--name", help="name of the corpus; that of the folder by default")
    parser.add_argument("--licence", default="unknown", help="terms of use, kept in corpus.json")


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Recordings with `rating`, `ratings` by listener where they are known, and `system`."""
    scale = tuple(arguments.scale)
    if not scale[0] < scale[1]:
        raise UserError(f"--scale {scale[0]:g} {scale[1]:g}: give the lowest score first and the highest second")
    table = arguments.table or root / "ratings.csv"
    rated, facts = _read(table, arguments)
    recordings, taken = [], set[str]()
    for name, ratings in rated.items():
        path = root / name  # an absolute name stays as it is
        if not path.is_file():
            raise UserError(f"{path}: no such file, but {table} rates it; correct the column `{arguments.path_column}`")
        (key,) = unique_names([clean_key(str(Path(name).with_suffix("")).lstrip("/"))], taken, case_counts=True)
        taken.add(key)
        known = dict(facts[name])
        system = known.pop("system", None) or name
        recordings.append(Recording(path, key, {**known, "file": name, **ratings.meta(system)}))
    if not recordings:
        raise UserError(f"{table}: rates no recording; add a row for each rating")
    divided = Division(arguments.valid, arguments.test, arguments.split_by).divide(recordings, table)
    counts = Counter("listeners" if recording.meta.get("ratings") else "mean" for recording in recordings)
    source = {"divided": divided.said, "scale": list(scale), "rated": dict(counts)}
    name = arguments.name or root.resolve().name
    inventories = partial(label_sets, scale=scale)
    return CorpusPlan(name, arguments.licence, divided.splits, inventories, source=source, distinct=True)


def _read(table: Path, arguments: argparse.Namespace) -> tuple[dict[str, Rated], dict[str, dict[str, str]]]:
    """By file as the table names it: its ratings, and its system, speaker and split where they are given."""
    rated: dict[str, Rated] = {}
    facts: dict[str, dict[str, str]] = {}
    columns = {"system": arguments.system_column} | {name: name for name in _FACTS}
    needed = [arguments.path_column, arguments.rating_column]
    # A column that was asked for by another name must be there.
    needed += [given for name in ("listener", "system") if (given := getattr(arguments, f"{name}_column")) != name]
    delimiter = "\t" if table.suffix.lower() == ".tsv" else ","
    for number, row in read_table(table, "a table of ratings", needed, delimiter):
        where = f"{table}, line {number}"
        name = row[arguments.path_column]
        listener = row.get(arguments.listener_column, "").strip()
        score = score_of(row[arguments.rating_column], arguments.scale, where)
        rated.setdefault(name, Rated()).add(score, listener)
        found = {kind: row[column].strip() for kind, column in columns.items() if row.get(column, "").strip()}
        if (before := facts.setdefault(name, found)) != found:
            kind = next(kind for kind in columns if before.get(kind) != found.get(kind))
            raise UserError(
                f"{where}: {name} has {kind} {found.get(kind, '')!r} here and {before.get(kind, '')!r} in a row before; make "
                "them equal"
            )
    return rated, facts
