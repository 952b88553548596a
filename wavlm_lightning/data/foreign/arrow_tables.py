"""Tables of Hugging Face data sets, parquet files and folders of `save_to_disk`: their splits, rows, and audio in cells."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from wavlm_lightning.audio import BadAudio
from wavlm_lightning.data.foreign.dataset_card import DatasetCard, class_names, licence_of
from wavlm_lightning.system.errors import UserError, pip_install
from wavlm_lightning.system.paths import plain_name
from wavlm_lightning.system.reading import read_json, reading

NUMBERED = re.compile(r"(.+)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?")
KEYWORD = re.compile(r"(?<![a-z])(train(?:ing)?|valid(?:ation)?|val|dev|test(?:ing)?)(?![a-z])")
PLAIN_FOLDERS = ("data", "")  # that name neither a split nor a configuration
AGAIN = "download it again"


@dataclass(frozen=True)
class TableFile:
    """A file of rows: parquet, or Arrow as `save_to_disk` writes it."""

    path: Path
    split: str  # as the data set names it
    folder: Path  # of the data set


@dataclass(frozen=True)
class AudioCell:
    """Audio in a cell of a table, as `Recording.stored`."""

    path: Path
    column: str
    group: int  # row group of a parquet file, batch of an Arrow file
    row: int  # in the group
    folder: Path  # of the data set; a cell may name a file in it

    def content(self) -> bytes:
        """The bytes of an audio file; `BadAudio` if the cell has none."""
        with reading(self.path, "a table of a data set", AGAIN):
            cells = _audio_column(self.path, self.path.stat().st_mtime_ns, self.column, self.group)
            cell = cells[self.row].as_py()
        if isinstance(cell, dict) and cell.get("bytes") is None and isinstance(cell.get("path"), str):
            return self._file(cell["path"])
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes) or not data:
            raise BadAudio(f"{self}: the cell holds no audio")
        return data

    def _file(self, name: str) -> bytes:
        """A file that the cell names: only one of the data set's own folder, because the table may come from a stranger."""
        place = (self.folder / name).resolve()
        if Path(name).is_absolute() or not place.is_relative_to(self.folder.resolve()) or not place.is_file():
            raise BadAudio(f"{self}: the cell holds no audio but the name {name!r}, and {self.folder} has no such file")
        return place.read_bytes()

    def __str__(self) -> str:
        return f"{self.path}: row {self.row} of group {self.group}, {self.column}"


def pyarrow_for(where: Path | str) -> Any:
    """The package pyarrow; a `UserError` says how to install it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"{where}: reading it needs pyarrow; {pip_install('datasets')}") from error
    return pyarrow


def parquet_files(folder: Path, card: DatasetCard, config: str | None) -> list[TableFile]:
    """The parquet files of a data set, by the patterns of its card or by their names.

    Raises:
        UserError: there are several configurations and none is chosen, or the chosen one has no files.
    """
    if card.configs:
        name = config or card.default
        if name is None or name not in card.configs:
            raise UserError(f"{folder}: choose a configuration with --config: {', '.join(card.configs)}")
        found = [
            TableFile(path, split, folder)
            for split, patterns in card.configs[name].items()
            for pattern in patterns
            for path in _matching(folder, pattern)
            if path.suffix == ".parquet"
        ]
        if found:
            return found
    root = folder / plain_name(config, "--config", "give the name of a folder") if config else folder
    paths = sorted(path for path in root.rglob("*.parquet") if not path.name.startswith("."))
    if config and not paths:
        names = sorted({path.relative_to(folder).parts[0] for path in folder.rglob("*.parquet")} - {*PLAIN_FOLDERS})
        raise UserError(
            f"{folder}: no parquet files of a configuration {config!r}; it has the folders {', '.join(names)}"
        )
    found = [TableFile(path, *split_of(path.relative_to(root))) for path in paths]
    homes: dict[str, set[str]] = {}
    for file in found:
        homes.setdefault(file.split, set()).add(str(file.folder))
    mixed = next((places for places in homes.values() if len(places) > 1), None)
    if mixed:
        raise UserError(
            f"{folder}: has parquet files of one split in several folders ({', '.join(sorted(mixed))}), which may be "
            "languages or versions; choose one with --config FOLDER"
        )
    return [TableFile(file.path, file.split, folder) for file in found]


def _matching(folder: Path, pattern: str) -> list[Path]:
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts or "://" in pattern:
        raise UserError(f"{folder}: its card names the files {pattern!r}, outside of it; do not trust this data set")
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def split_of(path: Path) -> tuple[str, Path]:
    """The split of a file by its path in the data set, and the folder that is left without the split's own."""
    numbered = NUMBERED.fullmatch(path.stem)
    if numbered:
        return numbered[1], path.parent
    if found := KEYWORD.search(path.stem.lower()):
        return found[1], path.parent
    if path.parent != Path() and (path.stem.isdigit() or KEYWORD.search(path.parent.name.lower())):
        name = path.parent.name
        return (name, path.parent.parent) if name not in PLAIN_FOLDERS else ("train", path.parent)
    return "train", path.parent


def saved_tables(folder: Path) -> list[TableFile]:
    """The Arrow files of a folder that `save_to_disk` wrote, of one data set or of one with splits."""
    if (folder / "dataset_dict.json").is_file():
        splits = read_json(folder / "dataset_dict.json", "the splits of a saved data set", AGAIN)["splits"]
        names = [plain_name(name, f"{folder}/dataset_dict.json", "do not trust this data set") for name in splits]
    else:
        names = [""]
    found = []
    for name in names:
        place = folder / name
        state = read_json(place / "state.json", "the state of a saved data set", AGAIN)
        with reading(place / "state.json", "the state of a saved data set", AGAIN):
            if state.get("_indices_data_files"):
                raise UserError(f"{place}: holds a selection of rows; save it again after `flatten_indices()`")
            files = [entry["filename"] for entry in state["_data_files"]]
            split = name or str(state.get("_split") or "train")
        for file in files:
            path = place / plain_name(file, f"{place}/state.json", "do not trust this data set", ".arrow")
            found.append(TableFile(path, split, folder))
    return found


def saved_facts(folder: Path, tables: Sequence[TableFile]) -> tuple[str | None, str | None]:
    """Licence and version of a saved data set, as its `dataset_info.json` says; None where it does not."""
    path = tables[0].path.parent / "dataset_info.json"
    if not path.is_file():
        return None, None
    info = read_json(path, "the description of a saved data set", AGAIN)
    version = info.get("version")
    number = version.get("version_str") if isinstance(version, dict) else None
    return licence_of(info.get("license")), str(number) if number else None


def schema_of(table: TableFile) -> Any:
    """The Arrow schema of a table."""
    pyarrow = pyarrow_for(table.path)
    with reading(table.path, "a table of a data set", AGAIN):
        if table.path.suffix == ".parquet":
            return pyarrow.parquet.read_schema(table.path)
        return _arrow(table.path).schema


def features_of(schema: Any) -> dict[str, Any]:
    """The features of a data set that its schema describes; empty if `datasets` did not write it."""
    text = (schema.metadata or {}).get(b"huggingface")
    try:
        return json.loads(text)["info"]["features"] if text else {}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def schema_classes(schema: Any) -> dict[str, list[str]]:
    """Class names by column that the schema of a table describes."""
    return class_names(features_of(schema))


def audio_columns(schema: Any) -> list[str]:
    """The columns that hold audio files: those of the feature Audio, or structures of `bytes` and `path`."""
    import pyarrow.types as kinds

    said = [
        name
        for name, feature in features_of(schema).items()
        if isinstance(feature, dict) and feature.get("_type") == "Audio" and name in schema.names
    ]
    if said:
        return said
    return [
        field.name
        for field in schema
        if (kinds.is_struct(field.type) and {"bytes", "path"} <= {part.name for part in field.type})
        or (field.name == "audio" and (kinds.is_binary(field.type) or kinds.is_large_binary(field.type)))
    ]


def other_columns(schema: Any) -> list[str]:
    """The columns without audio, pictures and other bytes."""
    import pyarrow.types as kinds

    def has_bytes(kind: Any) -> bool:
        if kinds.is_struct(kind):
            return any(has_bytes(part.type) for part in kind)
        return kinds.is_binary(kind) or kinds.is_large_binary(kind)

    return [field.name for field in schema if not has_bytes(field.type)]


def rows_of(
    table: TableFile, audio: str, columns: Sequence[str]
) -> Iterator[tuple[int, int, dict[str, Any], str | None]]:
    """Row group, place in it, fields, and the name of the audio file (None if there is none) of each row; no audio is read."""
    with reading(table.path, "a table of a data set", AGAIN):
        if table.path.suffix == ".parquet":
            import pyarrow.parquet

            file = pyarrow.parquet.ParquetFile(table.path)
            names = [column.path for column in file.schema]
            inner = f"{audio}.path" if f"{audio}.path" in names else None
            for group in range(file.num_row_groups):
                part = file.read_row_group(group, columns=[*columns, *([inner] if inner else [])])
                lines = part.to_pylist() if part.num_columns else [{} for _ in range(part.num_rows)]
                for row, fields in enumerate(lines):
                    cell = fields.pop(audio, None) if inner else None
                    yield group, row, fields, cell.get("path") if cell else None
            return
        for group, batch in enumerate(_arrow(table.path).to_batches()):
            paths = [None] * batch.num_rows
            kind = batch.schema.field(audio).type
            if any(part.name == "path" for part in (kind if hasattr(kind, "num_fields") and kind.num_fields else ())):
                paths = batch.column(audio).field("path").to_pylist()
            fields = batch.select(list(columns)).to_pylist() if columns else [{} for _ in range(batch.num_rows)]
            for row, (line, path) in enumerate(zip(fields, paths, strict=True)):
                yield group, row, line, path


def _arrow(path: Path) -> Any:
    """An Arrow file as a table that stays on the disk."""
    pyarrow = pyarrow_for(path)
    return pyarrow.ipc.open_stream(pyarrow.memory_map(str(path))).read_all()


@lru_cache(maxsize=2)  # rows are read in order
def _audio_column(path: Path, modified_ns: int, column: str, group: int) -> Any:
    """The cells of a row group or batch of a file in this state."""
    if path.suffix == ".parquet":
        pyarrow = pyarrow_for(path)
        return pyarrow.parquet.ParquetFile(path).read_row_group(group, columns=[column]).column(column)
    return _arrow(path).to_batches()[group].column(column)
