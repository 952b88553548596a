"""Stream a data set of the Hugging Face hub into a corpus through the library `datasets`, without keeping its files."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from wavlm_lightning.audio import BadAudio, load_mono_bytes
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.foreign.dataset_card import class_names, label_columns, licence_of, named_classes
from wavlm_lightning.data.foreign.fields import check_columns, chosen_splits, given_columns, metadata, with_usual
from wavlm_lightning.data.foreign.options import HELD_OUT
from wavlm_lightning.data.foreign.planning import free_key, named_by
from wavlm_lightning.data.label_sets import label_sets
from wavlm_lightning.data.recordings import Meta
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.system.errors import UserError, pip_install
from wavlm_lightning.system.files import locked
from wavlm_lightning.system.progress import progress_bar
from wavlm_lightning.system.reading import reason_of


def prepare_stream(name: str, arguments: argparse.Namespace) -> Corpus:
    """Write a corpus from a data set on the hub; nothing of it stays on the disk but the corpus.

    A data set of one split is one split of the corpus, because speakers cannot be divided before all are known.

    Raises:
        UserError: `datasets` is missing, the data set cannot be loaded, or audio in it cannot be used.
    """
    _check_options(name, arguments)
    streams = _streams(name, arguments)
    splits = chosen_splits(list(streams), arguments.splits, name)
    facts = _facts(name, arguments.revision)
    licence = facts.pop("licence", None)
    source: dict[str, Any] = {"recipe": "huggingface", "kind": "hub", "dataset": name, **facts, "skipped": []}
    if arguments.config:
        source["config"] = arguments.config
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    busy = f"{out}: another process is preparing this corpus; wait for it, or choose another --out"
    with locked(out / ".lock", busy, optional=True):
        terms = arguments.licence if arguments.licence != "unknown" else licence or "unknown"
        writer = CorpusWriter(out, arguments.name or name.rpartition("/")[2], terms, source)
        written: dict[str, list[Meta]] = {}
        found: Counter[str] = Counter()
        dropped: Counter[str] = Counter()
        with progress_bar(unit=" utterances", desc=str(out)) as bar:
            for theirs, ours in splits.items():
                reader = _Reader(name, theirs, streams[theirs], arguments, found, dropped, source["skipped"])
                metas = written.setdefault(ours or "train", [])
                writer.write_split(ours or "train", _counted(reader.utterances(), metas, bar))
        source["columns"] = dict(sorted(found.items()))
        source["fields_left_out"] = dict(dropped)
        source["divided"] = (
            "splits: as the data set has them"
            if len(splits) > 1
            else ("splits: one, as the data set has it; for held-out speakers download it and name its folder")
        )
        source["split_by"] = "manifest"
        labels = label_sets(written, tuple(arguments.label_columns))
        return writer.finish({name: classes for name, classes in labels.items() if classes})


def _check_options(name: str, arguments: argparse.Namespace) -> None:
    """Refuse options that need the whole data set."""
    given = {
        "--valid": arguments.valid != HELD_OUT,
        "--test": arguments.test != HELD_OUT,
        "--split-by": arguments.split_by != "auto",
    }
    if unused := [option for option, asked in given.items() if asked]:
        raise UserError(
            f"{unused[0]}: {name} is streamed with the splits that it has; leave the option out, or download the "
            "data set and name its folder"
        )


def _counted(utterances: Iterator[Utterance], metas: list[Meta], bar: Any) -> Iterator[Utterance]:
    for utterance in utterances:
        metas.append(utterance.meta)
        yield utterance
        bar.update()


def _streams(name: str, arguments: argparse.Namespace) -> Mapping[str, Any]:
    """An iterable data set for each split."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"{name}: no folder of that name, and data sets of the hub need the library datasets; "
            f"{pip_install('datasets')}"
        ) from error
    try:
        loaded = datasets.load_dataset(name, arguments.config, streaming=True, revision=arguments.revision)
    except Exception as error:  # the library raises what the hub, fsspec and its readers raise
        raise UserError(
            f"{name}: the data set cannot be opened ({reason_of(error)}); check the name, --config and --revision, "
            "and log in with `hf auth login` if it is gated"
        ) from error
    return loaded if isinstance(loaded, Mapping) else {"train": loaded}


def _facts(name: str, revision: str | None) -> dict[str, Any]:
    """The commit on the hub and the licence of its card; what cannot be had is left out, and `revision` stays as asked for."""
    try:
        from huggingface_hub import HfApi

        info = HfApi().dataset_info(name, revision=revision)
        licence = licence_of(info.card_data.get("license")) if info.card_data else None
        return {"revision": info.sha} | ({"licence": licence} if licence else {})
    except Exception:
        return {"revision": revision or "unknown"}


class _Reader:
    """Reads one split.

    Args:
        name: of the data set.
        split: its name there.
        stream: the iterable data set.
        arguments: of the command.
        found: counts where columns are from.
        dropped: counts fields that are not kept.
        skipped: audio that cannot be used, with `on_error="skip"`.
    """

    def __init__(
        self,
        name: str,
        split: str,
        stream: Any,
        arguments: argparse.Namespace,
        found: Counter[str],
        dropped: Counter[str],
        skipped: list[dict[str, str]],
    ) -> None:
        from datasets import Audio

        self.where, self.found, self.dropped, self.skipped = f"{name}, {split}", found, dropped, skipped
        self.split, self.on_error = split, arguments.on_error
        if stream.features is None:
            stream = stream._resolve_features()
        features = stream.features
        audio = [column for column, feature in features.items() if isinstance(feature, Audio)]
        given = given_columns(arguments.columns, "--columns")
        asked = given.pop("audio", None)
        if asked not in audio if asked else len(audio) != 1:
            raise UserError(
                f"{name}: its columns of audio are {', '.join(audio) or 'none'}, of {', '.join(features)}; choose one with "
                "--columns audio=NAME"
            )
        self.audio = asked or audio[0]
        kept = [column for column, feature in features.items() if getattr(feature, "dtype", "") != "binary"]
        others = [column for column in kept if column not in audio]
        check_columns(given, others, name)
        self.others = others
        self.classes = class_names(features.to_dict())
        self.chosen = with_usual(given, others)
        arguments.label_columns = label_columns(arguments.label_columns, self.classes, self.chosen)
        self.stream = stream.cast_column(self.audio, Audio(decode=False))  # we decode, as everywhere

    def utterances(self) -> Iterator[Utterance]:
        keys: set[str] = set()
        for number, row in enumerate(self._rows()):
            where = f"{self.where}: row {number}"
            cell = row[self.audio]
            fields = {name: row[name] for name in self.others}
            meta = metadata(named_classes(fields, self.classes, where), self.chosen, where, self.dropped)
            label_sets({self.split: [meta]})  # refuses labels that are none before the rest is streamed
            path = cell.get("path") if isinstance(cell, dict) else None
            stem = str(path).rpartition("/")[2].rpartition(".")[0] if path else ""
            key = free_key(named_by(meta) or stem or f"{self.split}-{number:08d}", keys)
            meta["file"] = f"{self.split}: {path or f'row {number}'}"
            try:
                waveform = load_mono_bytes(self._content(cell, where), _suffix(path), where)
            except BadAudio as error:
                if self.on_error == "stop":
                    raise UserError(f"{error}; leave it out with --on-error skip") from error
                self.skipped.append({"file": meta["file"], "key": key, "why": str(error)})
                continue
            self.found.update(f"{name} from {field}" for name, field in self.chosen.items() if name in meta)
            yield Utterance(key, waveform, meta)

    def _rows(self) -> Iterator[dict[str, Any]]:
        try:
            yield from self.stream
        except UserError:
            raise
        except Exception as error:  # the library raises what the hub, fsspec and its readers raise
            raise UserError(
                f"{self.where}: the stream broke off ({reason_of(error)}); run the command again"
            ) from error

    def _content(self, cell: Any, where: str) -> bytes:
        data = cell.get("bytes") if isinstance(cell, dict) else None
        path = cell.get("path") if isinstance(cell, dict) else None
        # A file of the data set itself, or inside an archive of it; a table must not name files of this machine.
        if data is None and isinstance(path, str) and path.rpartition("::")[2].startswith("hf://"):
            import fsspec

            with fsspec.open(path, "rb") as file:
                data = file.read()
        if not data:
            raise BadAudio(f"{where}: the cell holds no audio")
        return data


def _suffix(path: Any) -> str:
    name = str(path or "").rpartition("/")[2]
    return f".{name.rpartition('.')[2].lower()}" if "." in name else ""
