"""`wavlm prepare huggingface`: audio data sets of Hugging Face, in a folder (parquet, `save_to_disk`, audiofolder) or by name.

Code that comes with a data set is never run. Folders of parquet and Arrow files need pyarrow, names the library `datasets`: both
are the extra `[datasets]`.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavlm_lightning.data.foreign.options import add_division, add_writing
from wavlm_lightning.system.errors import UserError

if TYPE_CHECKING:  # `wavlm prepare --help` imports this module and must not wait for numpy
    from wavlm_lightning.data.corpus import Corpus
    from wavlm_lightning.data.foreign.arrow_tables import TableFile
    from wavlm_lightning.data.foreign.dataset_card import DatasetCard
    from wavlm_lightning.data.foreign.planning import LeftOut
    from wavlm_lightning.data.recordings import Recording

HELP = "an audio data set of Hugging Face: a folder (parquet, save_to_disk, audiofolder) or a name on the hub"
NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All arguments of the command."""
    parser.add_argument(
        "source", metavar="NAME|DIR", help="a folder, or a name such as google/fleurs, which is streamed"
    )
    add_writing(parser)
    add_division(parser)
    columns = "columns of the data set by our names, such as text=sentence speaker=client_id audio=speech id=uuid"
    parser.add_argument("--columns", nargs="+", default=[], metavar="OURS=THEIRS", help=columns)
    parser.add_argument("--config", help="configuration (often a language), if the data set has several")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="only these, by the names of the data set")
    parser.add_argument("--revision", help="branch, tag or commit on the hub; the commit is kept in corpus.json")


def prepare(arguments: argparse.Namespace) -> Corpus:
    """Write the corpus.

    Raises:
        UserError: there is no such data set, it holds no audio, or audio cannot be used.
    """
    from wavlm_lightning.system.files import check_output

    check_output(arguments.out)
    folder = Path(arguments.source)
    if folder.is_dir():
        return _of_folder(folder, arguments)
    if folder.exists() or NAME.fullmatch(arguments.source) is None:
        raise UserError(f"{arguments.source}: neither a folder nor a name on the hub, such as google/fleurs")
    from wavlm_lightning.data.foreign.hub_stream import prepare_stream

    return prepare_stream(arguments.source, arguments)


def _of_folder(folder: Path, arguments: argparse.Namespace) -> Corpus:
    from wavlm_lightning.data.foreign.arrow_tables import parquet_files, saved_facts, saved_tables
    from wavlm_lightning.data.foreign.dataset_card import read_card
    from wavlm_lightning.data.foreign.planning import LeftOut, write_foreign

    if arguments.revision:
        raise UserError("--revision: is of a name on the hub; a folder is what it is")
    card = read_card(folder)
    left_out = LeftOut(folder, arguments.on_error)
    facts: dict[str, Any] = {}
    licence = card.licence
    metadata = [path for name in ("metadata.csv", "metadata.jsonl") for path in sorted(folder.rglob(name))]
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        tables = saved_tables(folder)
        saved, version = saved_facts(folder, tables)
        licence = licence or saved
        facts |= {"kind": "save_to_disk"} | ({"version": version} if version else {})
        recordings = _of_tables(folder, tables, card, arguments, left_out, facts)
    elif any(folder.rglob("*.parquet")):
        facts["kind"] = "parquet"
        tables = parquet_files(folder, card, arguments.config)
        recordings = _of_tables(folder, tables, card, arguments, left_out, facts)
    elif metadata:
        from wavlm_lightning.data.foreign.audiofolder import recordings_of

        facts["kind"] = "audiofolder"
        recordings = recordings_of(folder, metadata, arguments, left_out, facts)
    else:
        raise UserError(
            f"{folder}: no parquet file, no folder of `save_to_disk` and no metadata.csv here; for a folder of audio files alone "
            "use `wavlm prepare folder`"
        )
    if arguments.licence == "unknown" and licence:
        arguments.licence = licence
    return write_foreign(recordings, arguments, folder, "huggingface", left_out, **facts)


def _of_tables(
    folder: Path,
    tables: Sequence[TableFile],
    card: DatasetCard,
    arguments: argparse.Namespace,
    left_out: LeftOut,
    facts: dict[str, Any],
) -> list[Recording]:
    """A recording for each row."""
    from wavlm_lightning.data.foreign.arrow_tables import AudioCell, other_columns, rows_of, schema_classes, schema_of
    from wavlm_lightning.data.foreign.dataset_card import label_columns, named_classes
    from wavlm_lightning.data.foreign.fields import check_columns, chosen_splits, given_columns, metadata, with_usual
    from wavlm_lightning.data.foreign.planning import free_key, named_by
    from wavlm_lightning.data.recordings import Recording

    splits = chosen_splits([table.split for table in tables], arguments.splits, folder)
    given = given_columns(arguments.columns, "--columns")
    recordings: list[Recording] = []
    found: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    keys: set[str] = set()
    for table in tables:
        if table.split not in splits:
            continue
        schema = schema_of(table)
        audio = _audio_column(schema, given.get("audio"), table.path)
        columns = other_columns(schema)
        check_columns(given, [*columns, audio], table.path)
        classes = {**(card.features.get(arguments.config or card.default or "default") or {}), **schema_classes(schema)}
        chosen = with_usual({name: field for name, field in given.items() if name != "audio"}, columns)
        arguments.label_columns = label_columns(arguments.label_columns, classes, chosen)
        for number, (group, row, fields, path) in enumerate(rows_of(table, audio, columns)):
            where = f"{table.path}: row {number}"
            meta = metadata(named_classes(fields, classes, where), chosen, where, dropped)
            found.update(f"{name} from {field}" for name, field in chosen.items() if name in meta)
            name = named_by(meta) or (Path(path).stem if path else f"{table.path.stem}-{number:06d}")
            meta["file"] = f"{table.path.relative_to(folder)}: {path or f'row {number}'}"
            if splits[table.split]:
                meta["split"] = splits[table.split]
            cell = AudioCell(table.path, audio, group, row, folder)
            recordings.append(Recording(table.path, free_key(name, keys), meta, stored=cell))
    facts["columns"] = dict(sorted(found.items()))
    facts["fields_left_out"] = dict(dropped)
    return recordings


def _audio_column(schema: Any, asked: str | None, where: Path) -> str:
    from wavlm_lightning.data.foreign.arrow_tables import audio_columns

    have = audio_columns(schema)
    if asked is None and len(have) == 1:
        return have[0]
    if asked is not None and asked in have:
        return asked
    said = (
        f"several columns of audio ({', '.join(have)})"
        if have
        else f"no column of audio files among {', '.join(schema.names)}"
    )
    raise UserError(f"{where}: has {said}; choose one with --columns audio=NAME, or leave this data set out")
