"""Label a corpus with a codebook, shard by shard, with any number of processes and machines, resumable."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.codebooks.audio_progress import HoursBar
from wavlm_lightning.codebooks.codebook import Codebook
from wavlm_lightning.codebooks.extraction import HeldFeatures
from wavlm_lightning.codebooks.features import FeatureSource, features_of
from wavlm_lightning.codebooks.job_shards import JobShard, jobs_for_audio
from wavlm_lightning.codebooks.label_files import (
    CONTENT_SHA256,
    SOFT,
    SOFT_CLASSES,
    SOFT_WEIGHTS,
    LabelHead,
    check_content,
    check_label_set,
    label_file,
    labels_directory,
    shard_facts,
    soft_words,
)
from wavlm_lightning.codebooks.phones import PhoneTimes
from wavlm_lightning.codebooks.soft_labels import SoftSetting, check_wanted, fitting_temperature, soft_labels
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.remote.mirror import is_remote
from wavlm_lightning.data.remote.safetensors_header import header_end
from wavlm_lightning.data.shard_index import ShardIndex
from wavlm_lightning.data.split import Split
from wavlm_lightning.encoder.checkpoints.labels_seen import LABELLED, entries_of
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import check_output, own_folder, write_bytes
from wavlm_lightning.system.reading import read_json
from wavlm_lightning.system.worker_pool import in_order

Place = tuple[str, int]  # a split, and the number of a shard in it


def label_corpus(
    corpus: Corpus,
    codebook: Codebook,
    name: str,
    splits: list[str] | None = None,
    jobs: int | None = 1,
    part: JobShard = JobShard(),  # noqa: B008 - it is frozen
    soft: int | None = None,
    temperature: float | None = None,
    held: HeldFeatures | None = None,
) -> int:
    """Label the shards of a part that have no labels of this codebook yet.

    A label file is written atomically and depends on shard and codebook alone. So the number of parts may change between two
    calls. Parts may run at the same time; the same part twice is refused.

    Args:
        corpus: to label; gets `labels/NAME/labels.json` and `labels/NAME/SPLIT-NNNNNN.safetensors`.
        codebook: the tokeniser.
        name: of the label set.
        splits: which splits; all by default.
        jobs: processes; None chooses by amount of audio and machine.
        part: which shards.
        soft: keep the posteriors of so many of the nearest clusters beside each label, see `soft_labels`.
        temperature: of the posteriors; None takes that of the label set, at first `fitting_temperature`.
        held: features of this codebook that its fit has left in memory: shards that lie in them whole are labelled in this
            process without reading their audio. The labels are the same.

    Returns:
        Number of shards labelled by this call.

    Raises:
        UserError: the corpus is behind a URL, the folder holds labels of another codebook or other soft labels, the codebook
            cannot make soft labels, another process writes this part, audio cannot be decoded, the disk is full, or a process
            was killed.
    """
    if is_remote(corpus.directory):
        raise UserError(
            f"{corpus.name}: labels are written beside the shards, which is not possible on a server; run `wavlm codebook "
            "apply` on the original or a copy of the corpus, and upload its folder labels"
        )
    check_wanted(codebook, soft, temperature)
    directory = labels_directory(corpus, name)
    if not directory.is_dir():  # labels that are complete may lie in a folder that is read-only
        check_output(directory, "labels")
    # What killed processes have left is removed here: it would be uploaded with the corpus.
    with own_folder(directory, "codebook apply", "--name", (part.number, part.of)):
        opened = {split: corpus.split(split) for split in splits or corpus.splits}
        setting = None
        if soft is not None:
            there = _temperature_of(directory / "labels.json")
            fitting = temperature or there or fitting_temperature(codebook, corpus, next(iter(opened)))
            setting = SoftSetting(soft, fitting)
        return _label(corpus, codebook, directory, opened, jobs, part, setting, held)


def _label(
    corpus: Corpus,
    codebook: Codebook,
    directory: Path,
    opened: dict[str, Split],
    jobs: int | None,
    part: JobShard,
    soft: SoftSetting | None,
    held: HeldFeatures | None,
) -> int:
    times = PhoneTimes.of_codebook(codebook, corpus)
    _write_head(directory / "labels.json", codebook, soft, {} if times is None else times.head())
    mine = part.deal([(split, number) for split, each in opened.items() for number in range(len(each.shards))])
    samples = {(split, number): corpus.body["splits"][split]["shards"][number]["samples"] for split, number in mine}
    pending = [
        (split, number)
        for split, number in mine
        if not _is_labelled(directory, opened[split].shards[number], codebook, soft, times)
    ]
    if pending:
        check_output(directory, "labels")
    here = [place for place in pending if held is not None and held.all_of(opened[place[0]].shards[place[1]])]
    others = [place for place in pending if place not in here]
    left = sum(samples[place] for place in pending)
    if jobs is None:
        jobs = jobs_for_audio(codebook.features["kind"], sum(samples[place] for place in others) / SAMPLE_RATE / 3600)
    total = sum(samples.values())
    with HoursBar(total, total - left, "labels") as bar:
        labeller = partial(Labeller, corpus.directory, directory, codebook, soft)
        if here:
            at_once = labeller(None, held)
            for place in here:
                bar.add(samples[at_once(place)])
        for place in in_order(labeller, others, jobs):
            bar.add(samples[place])
    return len(pending)


class Labeller:
    """Labels one shard per call; the worker of `label_corpus`.

    Args:
        device: of an encoder.
        held: features of the shards, behind the map of the codebook; None computes them.
    """

    def __init__(
        self,
        corpus: Path,
        directory: Path,
        codebook: Codebook,
        soft: SoftSetting | None,
        device: str | None,
        held: HeldFeatures | None = None,
    ) -> None:
        self.corpus, self.directory, self.codebook, self.soft = Corpus.open(corpus), directory, codebook, soft
        self.times = PhoneTimes.of_codebook(codebook, self.corpus)
        self.source = held or self.times or FeatureSource.from_description(codebook.features, device)
        self.behind_map = codebook if held is None else replace(codebook, map=None)
        self.shards: dict[str, Any] = {}

    def __call__(self, place: Place) -> Place:
        split, number = place
        if split not in self.shards:
            self.shards[split] = self.corpus.split(split).shards
        shard = self.shards[split][number]
        rows, likely = [], []
        for each in range(len(shard.keys)):
            features = features_of(self.source, shard, each)
            rows.append(self.behind_map.assign(features))
            if self.soft is not None:
                likely.append(soft_labels(self.behind_map, features, self.soft))
        starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
        tensors = {"labels": np.concatenate(rows), "starts": starts}
        meta = {"codebook_sha256": self.codebook.sha256, **shard_facts(shard)}
        meta |= {"rate": str(self.codebook.rate), "size": str(self.codebook.size)}
        if self.soft is not None:
            tensors[SOFT_CLASSES], tensors[SOFT_WEIGHTS] = map(np.concatenate, zip(*likely, strict=True))
            meta[SOFT] = json.dumps(self.soft.about(), sort_keys=True)
        if self.times is not None:
            meta |= self.times.origin(shard)
        write_bytes(label_file(self.directory, shard), _finished(save(tensors, metadata=meta)), durable=True)
        return place


def _write_head(path: Path, codebook: Codebook, soft: SoftSetting | None, more: dict[str, Any]) -> None:
    """Write `labels.json`; refuse one of another codebook or of other soft labels."""
    body: dict[str, Any] = {"codebook_sha256": codebook.sha256, "size": codebook.size, "rate": codebook.rate}
    if seen := entries_of(codebook.fitted.get(LABELLED)):  # they had a part in the labels of any corpus
        body[LABELLED] = seen
    body |= more
    if soft is not None:
        body["soft"] = soft.about()
    if not path.is_file():
        # Parts that start at the same time write the same content. A part with another codebook is not noticed here, but
        # by the hash in its label files.
        write_bytes(path, json.dumps(body).encode(), durable=True)
        return
    head = _read_head(path)
    if head["codebook_sha256"] != codebook.sha256:
        raise UserError(f"{path.parent}: has labels of another codebook; choose another --name or remove the folder")
    if (there := SoftSetting.read(head)) != soft:
        kind = (
            "without soft ones" if there is None else f"with --soft {there.labels} --temperature {there.temperature:g}"
        )
        raise UserError(f"{path.parent}: has labels {kind}; give the same, choose another --name or remove the folder")


def _temperature_of(path: Path) -> float | None:
    """The temperature of the soft labels that are there; None without any."""
    there = SoftSetting.read(_read_head(path)) if path.is_file() else None
    return None if there is None else there.temperature


def _read_head(path: Path) -> dict[str, Any]:
    remedy = "remove this file, and the labels beside it are checked and kept"
    head = read_json(path, "the description of labels", remedy, kind=object)
    if (wrong := check_label_set(head)) is not None:
        raise UserError(f"{path}: {wrong}; {remedy}")
    return head


def _is_labelled(
    directory: Path, shard: ShardIndex, codebook: Codebook, soft: SoftSetting | None, times: PhoneTimes | None
) -> bool:
    path = label_file(directory, shard)
    try:
        meta = LabelHead.read(path).metadata
        ours = meta["codebook_sha256"] == codebook.sha256 and shard_facts(shard).items() <= meta.items()
        ours = ours and meta.get(SOFT) == soft_words({} if soft is None else {"soft": soft.about()})
        if times is not None:  # labels of phones are no function of shard and codebook alone
            ours = ours and times.origin(shard).items() <= meta.items()
        if ours:
            check_content(path, codebook.size)
    except (
        Exception
    ):  # after a power failure a file may be empty; a damaged one is made again, whatever reading it raises
        return False
    return ours


def _finished(content: bytes) -> bytes:
    """Sort the header of a safetensors file, whose order differs from call to call, and add the hash of its tensors."""
    end = header_end(content)
    header = json.loads(content[8:end])
    header["__metadata__"][CONTENT_SHA256] = hashlib.sha256(content[end:]).hexdigest()
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]
