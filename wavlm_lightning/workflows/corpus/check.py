"""Check a corpus: read its shards, indices, labels and alignments in parallel, and say what is damaged and what to run again."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from wavlm_lightning.audio import SHORTEST
from wavlm_lightning.codebooks import LabelSet
from wavlm_lightning.data.alignments import OWN, AlignmentSet
from wavlm_lightning.data.alignments.alignment_set import alignment_file, alignment_sets, alignments_directory
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.corpus_json import INDEX
from wavlm_lightning.data.lengths import Lengths
from wavlm_lightning.data.remote.mirror import is_remote, materialise
from wavlm_lightning.data.remote.transport import NotThere
from wavlm_lightning.data.shard_index import ShardIndex
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.hardware import usable_cores
from wavlm_lightning.system.progress import progress_bar
from wavlm_lightning.system.reading import read_json, reason_of
from wavlm_lightning.system.worker_pool import in_order

NAMED = 20  # shards that the summary names; the list of faults has all
LITTLE = 256 << 20  # bytes below which starting processes takes longer than the work
MISSING = "missing"
# Recipes whose shards are links -> the command that made them.
LINKED = {"webdataset": "wavlm prepare webdataset", "pseudo-label": "wavlm pseudo-label"}


@dataclass(frozen=True)
class CorpusCheck:
    """The result of `check`."""

    faults: list[str]  # a line for each faulty shard, label or alignment file
    error: str  # summary of the faults and what to run; empty if the corpus is whole
    summary: str  # what was checked


@dataclass(frozen=True)
class ShardJob:
    """A shard to check."""

    directory: Path  # the corpus
    split: str
    summary: dict[str, Any]  # its entry in `corpus.json`
    labels: tuple[str, ...]  # names of the label sets that cover this split
    alignments: tuple[tuple[str, tuple[str, ...]], ...]  # names and inventories of the sets that cover this split
    lengths: np.ndarray | None  # of its utterances in samples, from the file of lengths; None if there is none
    quick: bool  # compare sizes only
    remote: bool  # the corpus is a mirror: missing files are downloaded


@dataclass
class Verdict:
    """What was found in a shard."""

    name: str
    bytes: int
    missing: bool = False  # tar or index
    faults: list[str] = field(default_factory=list)  # of tar or index, one sentence each
    sha256: str = ""  # of the tar on disk; empty if it was not read
    labels: dict[str, str] = field(default_factory=dict)  # label set -> what is wrong with the labels of this shard
    alignments: dict[str, str] = field(default_factory=dict)  # set -> what is wrong with the alignments of this shard


def check(
    corpus: Corpus | Path | str, jobs: int | None = None, quick: bool = False, labels: Sequence[str] = ()
) -> CorpusCheck:
    """Compare the files of a corpus with `corpus.json`, and their contents with each other.

    Args:
        corpus: folder or URL; shards of a remote corpus are downloaded one by one.
        jobs: processes; one per core by default.
        quick: compare sizes only, without reading shards.
        labels: names of the label sets to check; all sets in the folder by default.

    Raises:
        UserError: `quick` with a remote corpus, or no shard has labels of a given name.

    Example:
        >>> check("data/mine").error
        ''
    """
    corpus = corpus if isinstance(corpus, Corpus) else Corpus.open(corpus)
    remote = is_remote(corpus.directory)
    if remote and quick:
        raise UserError(f"{corpus.name}: --quick compares files on disk, and these are behind a URL; leave --quick out")
    covered = {split: _label_sets(corpus, split, labels, remote) for split in corpus.splits}
    named = [] if remote else [name for name in alignment_sets(corpus) if name != OWN]  # those are read from a folder
    sets = [AlignmentSet.open(corpus, name) for name in named]
    aligned = {
        split: tuple((one.name, one.inventory) for one in sets if split in one.splits) for split in corpus.splits
    }
    lengths, listed = _lengths(corpus, quick)
    work = [
        ShardJob(corpus.directory, split, summary, covered[split], aligned[split], some, quick, remote)
        for split, part in corpus.body["splits"].items()
        for summary, some in zip(part["shards"], listed[split], strict=True)
    ]
    total = sum(job.summary["bytes"] for job in work)
    jobs = 1 if quick or total < LITTLE else jobs or usable_cores()
    verdicts = []
    with progress_bar(total=total, unit="B", unit_scale=True, unit_divisor=1024, desc="check") as bar:
        for verdict in in_order(_examiner, work, jobs):
            verdicts.append(verdict)
            bar.update(verdict.bytes)
    for name in labels:
        if not _covers(name, work, verdicts):
            raise UserError(f"{corpus.directory}: no shard has labels {name!r}; give the name of a set that it has")
    lines, wrong = _describe(corpus, sorted(verdicts, key=lambda verdict: verdict.name))
    others = lengths if quick else [*lengths, *_across(corpus, any(verdict.faults for verdict in verdicts))]
    error = ""
    if wrong or others:
        remedy = _remedy(corpus, verdicts, remote, bool(others))
        error = f"{corpus.directory}: {'; '.join(wrong + others)}; {remedy}"
    names = ", ".join(sorted(labels or {name for job in work for name in job.labels}))
    summary = f"{corpus.directory}: {len(work)} shards {'have the right size' if quick else 'are whole'}"
    summary += f", with the labels {names}" if names else ""
    return CorpusCheck(lines, error, summary + (f", with the alignments {', '.join(named)}" if named else ""))


def _examiner(device: str | None) -> Callable[[ShardJob], Verdict]:
    return examine


def _label_sets(corpus: Corpus, split: str, named: Sequence[str], remote: bool) -> tuple[str, ...]:
    """The label sets that cover a split: those with labels for any of its shards (a set may cover some splits only)."""
    if remote:
        return tuple(named)  # fetching them shows which of them cover the split
    shards = corpus.body["splits"][split]["shards"]
    folders = [folder for folder in sorted(corpus.directory.glob("labels/*/")) if not named or folder.name in named]
    files = [f"{Path(shard['name']).stem}.safetensors" for shard in shards]
    return tuple(folder.name for folder in folders if any((folder / file).is_file() for file in files))


def _covers(name: str, work: list[ShardJob], verdicts: list[Verdict]) -> bool:
    """Whether any shard has labels of a name; in splits without any, missing labels are removed from the verdicts."""
    covered = False
    for split in {job.split for job in work}:
        asked = [v for job, v in zip(work, verdicts, strict=True) if job.split == split and name in job.labels]
        if all(verdict.labels.get(name) == MISSING for verdict in asked):
            for verdict in asked:
                del verdict.labels[name]
        else:
            covered = True
    return covered


def _describe(corpus: Corpus, verdicts: list[Verdict]) -> tuple[list[str], list[str]]:
    """A line for every fault, and the faults by kind for the summary."""
    owners: dict[str, list[str]] = {}  # several entries may be parts of one tar that was indexed in place
    for part in corpus.body["splits"].values():
        for row in part["shards"]:
            owners.setdefault(row["sha256"], []).append(row["name"])
    groups: dict[str, list[str]] = {}
    lines = []
    for verdict in verdicts:
        names = owners.get(verdict.sha256, [])
        other = names[-1] if names and verdict.name not in names else None
        if other is not None:
            verdict.faults = [f"swapped: it is {other} under another name"]
        if verdict.faults:
            kind = "missing" if verdict.missing else "swapped" if other is not None else "damaged"
            groups.setdefault(f"{kind} shards", []).append(verdict.name)
            lines.append(f"{verdict.name}: {'; '.join(verdict.faults)}")
        for name, fault in verdict.labels.items():
            groups.setdefault(f"wrong labels {name}", []).append(verdict.name)
            lines.append(f"labels/{name}/{Path(verdict.name).stem}.safetensors: {fault}")
        for name, fault in verdict.alignments.items():
            groups.setdefault(f"wrong alignments {name}", []).append(verdict.name)
            lines.append(f"alignments/{name}/{Path(verdict.name).stem}.jsonl: {fault}")
    kinds = []
    for what, names in groups.items():
        more = f" and {len(names) - NAMED} more, listed above" if len(names) > NAMED else ""
        kinds.append(f"{what}: {', '.join(names[:NAMED])}{more}")
    return lines, kinds


def _lengths(corpus: Corpus, quick: bool) -> tuple[list[str], dict[str, list[np.ndarray | None]]]:
    """Faults of the files of lengths, and the lengths of each shard of each split; old corpora have no such files."""
    wrong = []
    listed: dict[str, list[np.ndarray | None]] = {}
    for split, part in corpus.body["splits"].items():
        counts = [(row["utterances"], row["samples"]) for row in part["shards"]]
        listed[split] = [None] * len(counts)
        if not (facts := part.get("lengths")):
            continue
        path = corpus.directory / facts["name"]
        remote = is_remote(corpus.directory)
        if not remote and not path.is_file():
            wrong.append(f"{path.name} is missing")
            continue
        if quick:
            continue
        try:
            file = Lengths(path, part["utterances"], facts["bytes"], facts["sha256"], remote, tuple(counts))
            ends = np.cumsum([count for count, _ in counts])
            listed[split] = list(np.split(file.read(), ends[:-1]))
        except UserError as error:
            said = str(error).removeprefix(f"{path}: ").partition("; ")[0]
            wrong.append(
                f"{path.name} is damaged" + (f" ({said})" if "add up to" in said or "not readable" in said else "")
            )
    return wrong, listed


def _across(corpus: Corpus, faulty: bool) -> list[str]:
    """Faults that no single shard shows: a key in two shards, trials of unknown keys; none are looked for in faulty shards."""
    wrong: list[str] = []
    for name in corpus.splits if not faulty else ():
        try:
            split = corpus.split(name)
            split.check_keys()
            lists = [name] if (corpus.directory / f"trials-{name}.csv").is_file() else []
            for listed in [*lists, *(f"{name}_{other}" for other in corpus.trial_lists(name))]:
                used = {key for _, *keys in corpus.trials(listed) for key in keys}
                if unknown := sorted(used.difference(split.keys)):
                    wrong.append(f"trials-{listed}.csv names {unknown[0]!r}, which is no utterance of that split")
        except (UserError, OSError) as error:
            wrong.append(str(error).partition("; ")[0])
    return wrong


def _remedy(corpus: Corpus, verdicts: list[Verdict], remote: bool, lengths: bool) -> str:
    """What to run again."""
    remedies = []
    if lengths or any(verdict.faults for verdict in verdicts):
        remedies.append(_again(corpus, remote))
    names = sorted({name for verdict in verdicts for name in verdict.labels})
    if names:
        where = corpus.directory
        commands = " and ".join(f"`wavlm codebook apply CODEBOOK {where} --name {name}`" for name in names)
        remedies.append(f"for labels: remove the files named and run {commands}, which makes only what is missing")
    if any(verdict.alignments for verdict in verdicts):
        remedies.append("for alignments: remove the files named and run the same `wavlm align` again, which goes on")
    return "; ".join(remedies)


def _again(corpus: Corpus, remote: bool) -> str:
    where, source = corpus.directory, corpus.body.get("source", {})
    recipe = source.get("recipe")
    if remote:
        return "remove them: they are downloaded again when they are needed"
    if "permuted" in source:
        return f"remove the folder and run `wavlm data permute ORIGINAL --out {where} --seed {source['permuted']}`"
    if recipe in LINKED:
        return f"run the same `{LINKED[recipe]}` again, which reads only what has changed; the shards stay as they are"
    if recipe == "mini":
        options = f"--size {source['size']} --seed {source['seed']} --datasets {source['dataset']}"
        return f"remove the folder and prepare the corpus again: `wavlm prepare mini {options} --out {where.parent}`"
    if recipe:
        facts = {k: v for k, v in source.items() if isinstance(v, str | int | float) and k != "recipe"}
        known = f" (it was made with {json.dumps(facts)})" if facts else ""
        return (
            f"remove them and prepare the corpus again as before, `wavlm prepare {recipe} DIR --out {where}`{known}, "
            "which makes only what is missing"
        )
    return "remove them and make the corpus again as `source` in corpus.json says"


def examine(job: ShardJob) -> Verdict:
    """Check one shard, its index and its labels; errors end up in the verdict."""
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
        verdict.faults.append(f"cannot be read ({error})")
    for name in job.labels:
        _examine_labels(job, verdict, name)
    for name, inventory in job.alignments:
        _examine_alignments(job, verdict, name, inventory)
    return verdict


def _fetch(job: ShardJob, *paths: Path) -> None:
    if job.remote:
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
            content = read_json(index, "the index of a shard")
            if fault := _index_fault(content, job.summary, tar, verdict.faults == []):
                verdict.faults.append(fault)
            elif job.lengths is not None and job.lengths.tolist() != content["samples"]:
                verdict.faults.append("its index has other lengths than the file of lengths")
            elif job.summary.get(INDEX) not in (None, hashlib.sha256(index.read_bytes()).hexdigest()):
                verdict.faults.append("its index has other bytes than were written (sha256 differs)")
        except Exception as error:  # an index that somebody has altered may hold anything
            verdict.faults.append(f"its index cannot be used ({error!r})")


def _index_fault(content: dict[str, Any], summary: dict[str, Any], tar: io.BufferedReader, whole: bool) -> str:
    """What is wrong with an index, compared with `corpus.json` and, if the tar is `whole`, with what is in it."""
    keys, samples = content["keys"], content["samples"]
    if content["sha256"] != summary["sha256"]:
        return "its index belongs to another shard"
    info = content["metas"] if "names" in content else content["info"]
    if not len(keys) == len(samples) == len(content["audio"]) == len(info) == summary["utterances"]:
        return f"its index lists {len(keys):,} utterances, corpus.json counts {summary['utterances']:,}"
    if sum(samples) != summary["samples"]:
        return f"its index counts {sum(samples):,} samples, corpus.json {summary['samples']:,}"
    if short := [f"{key!r} ({count})" for key, count in zip(keys, samples, strict=True) if count < SHORTEST]:
        return (
            f"it holds {len(short)} utterances of less than one frame ({SHORTEST} samples), which nothing can use: "
            f"{', '.join(short[:3])}; an older version wrote them, and today's leaves them out with --on-error skip"
        )
    further: dict[str, list] = content.get("further", {})
    if sorted(further) != sorted(summary.get("audio_members", [])):
        listed = ", ".join(summary.get("audio_members", [])) or "none"
        return f"its index has the further audio {', '.join(sorted(further)) or 'none'}, corpus.json {listed}"
    if len(set(keys)) < len(keys):
        return "its index has a key twice"
    if any(len(places) != len(keys) for places in further.values()):
        return f"its index does not have an entry of further audio for each of {len(keys):,} utterances"
    if not whole:
        return ""
    tar.seek(0)
    with tarfile.open(fileobj=tar) as archive:
        members = {member.name: [member.offset_data, member.size] for member in archive}
    if (
        "names" in content
    ):  # a tar that others wrote: its audio was decoded for the index, and the hash is still the same
        theirs = zip(keys, content["names"], content["audio"], strict=True)
        moved = [key for key, name, place in theirs if members.get(name) != list(place)]
        return f"its index has {moved[0]!r} in another place than the tar" if moved else ""
    if len(members) != 2 * len(keys) + sum(place is not None for places in further.values() for place in places):
        return f"it holds {len(members):,} files for {len(keys):,} utterances"
    flacs = [(key, *audio, count) for key, audio, count in zip(keys, content["audio"], samples, strict=True)]
    for name, places in further.items():
        flacs += [(f"{key}.{name}", *place) for key, place in zip(keys, places, strict=True) if place is not None]
    for name, offset, size, count in flacs:
        if members.get(f"{name}.flac") != [offset, size]:
            return f"its index has {name!r} in another place than the tar"
        # The hash was right, so reading the FLAC header is enough.
        try:
            frames = soundfile.info(io.BytesIO(os.pread(tar.fileno(), size, offset))).frames
        except soundfile.LibsndfileError as error:
            return f"utterance {name!r} cannot be read ({error})"
        if frames != count:
            return f"utterance {name!r} has {frames:,} samples, its index says {count:,}"
    for key, (offset, size) in zip(keys, content["info"], strict=True):
        if members.get(f"{key}.json") != [offset, size]:
            return f"its index has {key!r} in another place than the tar"
        try:
            json.loads(os.pread(tar.fileno(), size, offset))
        except (ValueError, RecursionError) as error:
            return f"utterance {key!r} cannot be read ({reason_of(error)})"
    return ""


def _examine_labels(job: ShardJob, verdict: Verdict, name: str) -> None:
    path = job.directory / "labels" / name / f"{Path(verdict.name).stem}.safetensors"
    try:
        _fetch(job, path)
        if not path.is_file():
            verdict.labels[name] = MISSING
        elif not (job.quick or verdict.faults):
            # A corpus of this shard alone, so that the rules of training are applied and not written a second time.
            alone = {"utterances": job.summary["utterances"], "shards": [job.summary]}
            labels = LabelSet.open(Corpus(job.directory, {"splits": {job.split: alone}}), name, job.split)
            labels.rows[0]  # the first access to a file checks all of it
    except NotThere:
        verdict.labels[name] = MISSING
    except UserError as error:
        verdict.labels[name] = str(error).removeprefix(f"{path}: ").partition("; ")[0]
    except Exception as error:  # safetensors raises its own exception for a damaged file
        verdict.labels[name] = f"cannot be read ({reason_of(error)})"


def _examine_alignments(job: ShardJob, verdict: Verdict, name: str, inventory: tuple[str, ...]) -> None:
    times = AlignmentSet(Corpus(job.directory, {"splits": {}}), name, {}, inventory, [job.split])
    shard = ShardIndex.open(job.directory / verdict.name, job.summary)
    path = alignment_file(alignments_directory(times.corpus, name), shard)
    if not path.is_file():
        verdict.alignments[name] = MISSING
    elif not (job.quick or verdict.faults):
        try:
            there, said = sum(each is not None for each in times.of_shard(shard)), times.count(shard)
            if (said.utterances, said.aligned) != (shard.utterances, there):
                verdict.alignments[name] = (
                    f"{there} of {shard.utterances} utterances are aligned, and its first line says {said.aligned} of "
                    f"{said.utterances}"
                )
        except UserError as error:
            verdict.alignments[name] = str(error).removeprefix(f"{path}: ").partition("; ")[0]
