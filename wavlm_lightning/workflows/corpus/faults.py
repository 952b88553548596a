"""What is wrong with one shard, its index and its labels: everything is read, nothing is believed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wavlm_lightning.system.errors import UserError

MISSING = "missing"


@dataclass(frozen=True)
class ShardJob:
    """One shard to look at.

    Attributes:
        directory: the corpus.
        split: its split.
        summary: what `corpus.json` says of it.
        labels: names of the label sets that cover this split.
        quick: compare sizes only.
        remote: the corpus is a mirror, so that files come when they are missing.
    """

    directory: Path
    split: str
    summary: dict[str, Any]
    labels: tuple[str, ...]
    quick: bool
    remote: bool


@dataclass
class Verdict:
    """What was found.

    Attributes:
        name: the shard.
        bytes: of the shard.
        missing: tar or index is not there.
        faults: what is wrong with tar or index, one sentence each.
        sha256: of the tar as it is; empty if it was not read.
        labels: for a label set, what is wrong with this shard's labels.
    """

    name: str
    bytes: int
    missing: bool = False
    faults: list[str] = field(default_factory=list)
    sha256: str = ""
    labels: dict[str, str] = field(default_factory=dict)


def examine(job: ShardJob) -> Verdict:
    """Look at one shard; whatever is wrong ends in the verdict."""
    verdict = Verdict(job.summary["name"], job.summary["bytes"])
    path = job.directory / job.summary["name"]
    try:
        _fetch(job, path, path.with_suffix(".index.json"))
        with path.open("rb") as tar:
            _examine_tar(job, verdict, tar)
    except FileNotFoundError:
        verdict.missing = True
        verdict.faults.append("missing")
    except (UserError, OSError) as error:
        verdict.faults.append(f"cannot be had ({error})")
    for name in job.labels:
        _examine_labels(job, verdict, name)
    return verdict


def _fetch(job: ShardJob, *paths: Path) -> None:
    if job.remote:
        from wavlm_lightning.data.remote.mirror import materialise

        for path in paths:
            materialise(path, job.summary)


def _examine_tar(job: ShardJob, verdict: Verdict, tar: io.BufferedReader) -> None:
    size, wanted = os.fstat(tar.fileno()).st_size, job.summary["bytes"]
    if size != wanted:
        verdict.faults.append(f"{'truncated' if size < wanted else 'too long'}, {size:,} of {wanted:,} bytes")
    if not job.quick:
        verdict.sha256 = hashlib.file_digest(tar, "sha256").hexdigest()
        if size == wanted and verdict.sha256 != job.summary["sha256"]:
            verdict.faults.append("other bytes than were written (sha256 differs)")
    index = (job.directory / job.summary["name"]).with_suffix(".index.json")
    if not index.is_file():
        verdict.missing = True
        verdict.faults.append("its index is missing")
    elif not job.quick:
        try:
            if fault := _index_fault(json.loads(index.read_text()), job.summary, tar, verdict.faults == []):
                verdict.faults.append(fault)
        except (ValueError, KeyError, TypeError, AttributeError, tarfile.TarError) as error:
            verdict.faults.append(f"its index cannot be used ({error!r})")


def _index_fault(content: dict[str, Any], summary: dict[str, Any], tar: io.BufferedReader, whole: bool) -> str:
    """What is wrong with an index, compared with `corpus.json` and, if the tar is `whole`, with what is in it."""
    keys, samples = content["keys"], content["samples"]
    if content["sha256"] != summary["sha256"]:
        return "its index belongs to another shard"
    if not len(keys) == len(samples) == len(content["audio"]) == len(content["info"]) == summary["utterances"]:
        return f"its index lists {len(keys):,} utterances, corpus.json counts {summary['utterances']:,}"
    if sum(samples) != summary["samples"]:
        return f"its index counts {sum(samples):,} samples, corpus.json {summary['samples']:,}"
    if not whole:
        return ""
    import soundfile

    tar.seek(0)
    with tarfile.open(fileobj=tar) as archive:
        members = {member.name: [member.offset_data, member.size] for member in archive}
    if len(members) != 2 * len(keys):
        return f"it holds {len(members):,} files for {len(keys):,} utterances"
    for key, count, audio, info in zip(keys, samples, content["audio"], content["info"], strict=True):
        if members.get(f"{key}.flac") != list(audio) or members.get(f"{key}.json") != list(info):
            return f"its index has {key!r} in another place than the tar"
        # The bytes are those that were written, so the header tells what the whole would.
        try:
            frames = soundfile.info(io.BytesIO(os.pread(tar.fileno(), audio[1], audio[0]))).frames
            json.loads(os.pread(tar.fileno(), info[1], info[0]))
        except (soundfile.LibsndfileError, ValueError) as error:
            return f"utterance {key!r} cannot be read ({error})"
        if frames != count:
            return f"utterance {key!r} has {frames:,} samples, its index says {count:,}"
    return ""


def _examine_labels(job: ShardJob, verdict: Verdict, name: str) -> None:
    from wavlm_lightning.codebooks import LabelSet
    from wavlm_lightning.data.corpus import Corpus
    from wavlm_lightning.data.remote.transport import NotThere

    path = job.directory / "labels" / name / f"{Path(verdict.name).stem}.safetensors"
    try:
        _fetch(job, path)
        if not path.is_file():
            verdict.labels[name] = MISSING
        elif not (job.quick or verdict.faults):
            # A corpus of this shard alone: the rules are those that training applies, no second set of them.
            alone = {"utterances": job.summary["utterances"], "shards": [job.summary]}
            labels = LabelSet.open(Corpus(job.directory, {"splits": {job.split: alone}}), name, job.split)
            if max((int(row.max()) for row in labels.rows if len(row)), default=0) >= labels.size:
                verdict.labels[name] = f"holds labels of {labels.size} and more"
    except NotThere:
        verdict.labels[name] = MISSING
    except UserError as error:
        verdict.labels[name] = str(error).removeprefix(f"{path}: ").partition("; ")[0]
    except Exception as error:  # safetensors has an exception of its own for a damaged file
        verdict.labels[name] = f"cannot be read ({error!r})"
