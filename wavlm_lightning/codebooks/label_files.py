"""The label file of a shard: its path, its header, and checks that it belongs to the shard."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.codebooks.soft_labels import check_soft
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.remote.safetensors_header import Header, header_end, parse_header
from wavlm_lightning.data.shard_index import ShardIndex
from wavlm_lightning.encoder.checkpoints.labels_seen import LABELLED, entries_of
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.paths import plain_name
from wavlm_lightning.system.reading import reason_of, shown

# The tensors of soft labels and the metadata that says how they were made; files of older versions have none, and older
# versions do not read them.
SOFT_CLASSES, SOFT_WEIGHTS, SOFT = "soft_classes", "soft_weights", "soft"
CONTENT_SHA256 = "content_sha256"  # metadata of a label file: hash of its tensors; files of older versions have none
BEGINNING = 4096  # bytes read first: header and starts of a shard of half an hour; larger shards need a second read


def labels_directory(corpus: Corpus, name: str) -> Path:
    """The folder of a label set: `CORPUS/labels/NAME`."""
    return corpus.directory / "labels" / plain_name(name, "the name of a label set", "choose a plain one")


def label_file(directory: Path, shard: ShardIndex) -> Path:
    """The file of a shard in the folder of a label set."""
    return directory / f"{shard.path.stem}.safetensors"


@dataclass(frozen=True)
class LabelHead:
    """Metadata and starts of a label file."""

    metadata: dict[str, str]  # codebook_sha256, shard_sha256, rate; in newer files size and content_sha256
    starts: np.ndarray  # first label of each utterance, and the total: int64 (utterances + 1,)
    labels: int  # in the whole file
    soft: int  # soft labels a frame; 0 if they are hard alone

    @classmethod
    def read(cls, path: Path) -> LabelHead:
        """Read the head of a file, usually with a single `pread`: an epoch of 94,000 hours begins with 188,000 of them.

        A damaged file is a ValueError, a missing one a FileNotFoundError.
        """
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait for somebody who writes
        try:
            # Otherwise read-ahead would load the labels behind the head from disk, for each file.
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
            content, size = os.pread(file, BEGINNING, 0), os.fstat(file).st_size
            if (end := header_end(content)) > size:
                raise ValueError(f"a header of {end:,} bytes in {size:,}")
            if len(content) < end:
                content = os.pread(file, end, 0)
            header = parse_header(content)
            try:
                first, end = header.place("starts")
                labels = int(header.tensors["labels"]["shape"][0])
                if header.tensors["labels"]["dtype"] != "U16" or header.tensors["starts"]["dtype"] != "I64":
                    raise ValueError("its labels are not of type uint16, or its starts not of type int64")
                soft = _soft_width(header, labels)
                metadata = header.metadata
                metadata["codebook_sha256"], metadata["shard_sha256"], float(metadata["rate"])
                whole = header.bytes
            except (KeyError, TypeError, IndexError, AttributeError) as error:
                raise ValueError(f"its header lacks {error}") from error
            if size != whole:
                raise ValueError(f"{size:,} of {whole:,} bytes")
            if not header.begin <= first <= end <= size:
                raise ValueError("the places of its utterances lie outside the file")
            starts = content[first:end] if end <= len(content) else os.pread(file, end - first, first)
        finally:
            os.close(file)
        return cls(metadata, np.frombuffer(starts, dtype="<i8"), labels, soft)


def _soft_width(header: Header, labels: int) -> int:
    """Soft labels a frame of a file with so many labels; 0 if it has none."""
    found = [header.tensors[name] for name in (SOFT_CLASSES, SOFT_WEIGHTS) if name in header.tensors]
    if not found:
        return 0
    shapes = {tuple(tensor["shape"]) for tensor in found}
    if [tensor["dtype"] for tensor in found] != ["U16", "F16"] or len(shapes) != 1 or len(min(shapes)) != 2:
        raise ValueError("its soft labels are not a matrix of classes, uint16, and one of weights, float16")
    ((rows, width),) = shapes
    if rows != labels:
        raise ValueError(f"soft labels of {rows} frames, and {labels} labels")
    return int(width)


def check_content(path: Path, size: int) -> None:
    """Read a label file whole and compare it with the hash in its header and with the number of labels.

    Raises:
        ValueError: a label or a start was changed after the file had been written, or a label is not below `size`.
    """
    content = path.read_bytes()
    header = parse_header(content)
    expected = header.metadata.get(CONTENT_SHA256)
    if expected is not None and hashlib.sha256(memoryview(content)[header.begin :]).hexdigest() != expected:
        raise ValueError("its labels are not those that were written: the hash in its header is of others")
    first, end = header.place("labels")
    labels = np.frombuffer(content[first:end], dtype="<u2")
    if labels.size and int(labels.max()) >= size:
        raise ValueError(f"it holds label {int(labels.max())} of a codebook of {size}")
    if not _soft_width(header, len(labels)):
        return
    classes, weights = (
        np.frombuffer(content[slice(*header.place(name))], dtype=dtype).reshape(header.tensors[name]["shape"])
        for name, dtype in ((SOFT_CLASSES, "<u2"), (SOFT_WEIGHTS, "<f2"))
    )
    if not np.array_equal(classes[:, 0], labels) or (classes.size and int(classes.max()) >= size):
        raise ValueError("its soft labels do not begin with the hard ones, or are none of the codebook")
    if not (weights >= 0).all() or not (weights[:, 0] > 0).all() or not np.isfinite(weights).all():
        raise ValueError("the weights of its soft labels are no shares")


def shard_facts(shard: ShardIndex) -> dict[str, str]:
    """What the header of a label file says of its shard: hash of the tar, and of an index in place, which chooses utterances."""
    in_place = shard.modified_ns is not None and shard.index_sha256 is not None
    return {"shard_sha256": shard.sha256, **({"index_sha256": str(shard.index_sha256)} if in_place else {})}


def check_labels(path: Path, shard: ShardIndex, samples: np.ndarray, *, head: dict[str, Any], again: str) -> None:
    """Check that a label file belongs to a shard, whose utterances have `samples`, and to the label set of `head`.

    `again` is the command that makes the labels again. A missing file of a remote corpus is a FileNotFoundError, since it
    can be downloaded again; everything else is a UserError.
    """
    try:
        found = LabelHead.read(path)
    except FileNotFoundError as error:
        if shard.remote:
            raise
        raise UserError(f"{path}: this shard has no labels; {again}") from error
    except Exception as error:  # parsers of a damaged header raise what they like
        raise UserError(f"{path}: damaged ({reason_of(error)}); remove the file and {again}") from error
    starts, meta = found.starts, found.metadata
    if any(meta.get(name, value) != value for name, value in shard_facts(shard).items()):  # older ones have no index
        raise UserError(f"{path}: these labels were made from another version of {shard.path.name}; {again}")
    if meta["codebook_sha256"] != head["codebook_sha256"]:
        raise UserError(f"{path}: made by another codebook than that in labels.json; remove the folder and {again}")
    if float(meta["rate"]) != head["rate"]:
        raise UserError(f"{path}: its rate is {meta['rate']} labels/s, labels.json says {head['rate']}; {again}")
    if meta.get("size", str(head["size"])) != str(head["size"]):
        raise UserError(f"{path}: labels of a codebook of {meta['size']}, labels.json says {head['size']}; {again}")
    if meta.get(SOFT) != soft_words(head) or found.soft != head.get("soft", {}).get("labels", 0):
        raise UserError(f"{path}: its soft labels are not those of labels.json; remove the file and {again}")
    if len(starts) != shard.utterances + 1:
        raise UserError(
            f"{path}: labels for {len(starts) - 1} utterances, but the shard holds {shard.utterances}; {again}"
        )
    lasts = starts[1:] - starts[:-1]  # labels of each utterance
    if starts[0] != 0 or (len(lasts) and lasts.min() < 0):
        raise UserError(f"{path}: damaged (the places of its utterances do not ascend); remove the file and {again}")
    if starts[-1] > found.labels:
        raise UserError(f"{path}: it ends before the labels of its last utterance; remove the file and {again}")
    # The last window (25 ms) and rounding to the frame grid may cost labels at the end, but less than 0.1 s.
    differs = np.abs(lasts - samples * (head["rate"] / SAMPLE_RATE))
    if head.get("partial") is True:  # utterances without alignment have no labels, and pre-training does not read them
        without = (lasts == 0) & (differs > 0.1 * head["rate"])
        if int(without.sum()) > int(meta.get("unlabelled", 0)):
            raise UserError(f"{path}: {int(without.sum())} utterances have no labels, its header says fewer; {again}")
        differs[without] = 0
    if len(lasts) and differs.max() > 0.1 * head["rate"]:
        place = int((differs > 0.1 * head["rate"]).argmax())
        raise UserError(
            f"{path}: utterance {shard.keys[place]!r} has {lasts[place]} labels for "
            f"{samples[place] / SAMPLE_RATE:.2f} s at {head['rate']:g} labels/s; {again}"
        )


def check_label_set(head: Any) -> str | None:
    """What is wrong with the content of `labels.json`; None if it is whole."""
    if not isinstance(head, dict):
        return "it is not an object"
    size, rate, sha256 = head.get("size"), head.get("rate"), head.get("codebook_sha256")
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= 2**16:
        return f"its size is {shown(size)}, not a number of labels from 1 to 65536"
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not (math.isfinite(rate) and rate > 0):
        return f"its rate is {shown(rate)}, not labels per second"
    if LABELLED in head and not entries_of(head[LABELLED]):  # an encoder of these labels would be called unsupervised
        return f"its `labelled` is {shown(head[LABELLED])}, not utterances, seconds and corpus"
    if not isinstance(sha256, str):
        return "it names no codebook"
    return check_soft(head["soft"], size) if "soft" in head else None


def soft_words(head: dict[str, Any]) -> str | None:
    """The metadata `soft` of the label files of a `labels.json`; None if its labels are hard alone."""
    return json.dumps(head["soft"], sort_keys=True) if "soft" in head else None
