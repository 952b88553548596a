"""`wavlm data check CORPUS`: every shard, index and label file, in parallel; what is damaged, and what to run again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wavlm_lightning.workflows.corpus.faults import MISSING, ShardJob, Verdict, examine

if TYPE_CHECKING:  # help must come at once
    from wavlm_lightning.data.corpus import Corpus

NAMED = 20
"""Shards that the final sentence names; the list above it has all."""
LITTLE = 256 << 20
"""Bytes below which starting processes takes longer than the work."""


def check(corpus: Corpus, jobs: int | None = None, quick: bool = False, labels: Sequence[str] = ()) -> int:
    """Examine a corpus and print every fault.

    Args:
        corpus: what to examine; a remote one is brought shard by shard.
        jobs: processes; one a core by default.
        quick: compare sizes only, which reads no shard.
        labels: names of the label sets to examine; without, all there are in the folder.

    Raises:
        UserError: the question makes no sense (see the message), or something is damaged, missing or in the wrong place.
    """
    from wavlm_lightning.data.remote.mirror import is_remote
    from wavlm_lightning.system.errors import UserError
    from wavlm_lightning.system.progress import progress_bar

    remote = is_remote(corpus.directory)
    if remote and quick:
        raise UserError(f"{corpus.name}: --quick compares files on disk, and these are behind a URL; leave --quick out")
    covered = {split: _label_sets(corpus, split, labels, remote) for split in corpus.splits}
    work = [
        ShardJob(corpus.directory, split, summary, covered[split], quick, remote)
        for split, part in corpus.body["splits"].items()
        for summary in part["shards"]
    ]
    total = sum(job.summary["bytes"] for job in work)
    verdicts = []
    with progress_bar(total=total, unit="B", unit_scale=True, unit_divisor=1024, desc="check") as bar:
        for verdict in _examined(work, 1 if quick or total < LITTLE else jobs or len(os.sched_getaffinity(0))):
            verdicts.append(verdict)
            bar.update(verdict.bytes)
    for name in labels:
        if not _covers(name, work, verdicts):
            raise UserError(f"{corpus.directory}: no shard has labels {name!r}; give the name of a set that it has")
    lines, wrong = _describe(corpus, sorted(verdicts, key=lambda verdict: verdict.name))
    lengths = [] if remote else _lengths(corpus)
    for line in lines:
        print(line)
    if wrong or lengths:
        remedy = _remedy(corpus, verdicts, remote, bool(lengths))
        raise UserError(f"{corpus.directory}: {'; '.join(wrong + lengths)}; {remedy}")
    how = "have the right size" if quick else "are whole"
    names = sorted(labels or {name for job in work for name in job.labels})
    print(f"{corpus.directory}: {len(work)} shards {how}" + (f", with the labels {', '.join(names)}" if names else ""))
    return 0


def _examined(work: list[ShardJob], jobs: int) -> Iterator[Verdict]:
    if jobs <= 1:
        return map(examine, work)
    from wavlm_lightning.system.worker_pool import in_order

    return in_order(_examiner, work, jobs)


def _examiner(device: str | None) -> Callable[[ShardJob], Verdict]:
    return examine


def _label_sets(corpus: Corpus, split: str, named: Sequence[str], remote: bool) -> tuple[str, ...]:
    """The label sets that cover a split: those of which any shard has labels (labels may be made for some splits)."""
    if remote:
        return tuple(named)  # which of them cover it is seen when they are fetched
    shards = corpus.body["splits"][split]["shards"]
    folders = [folder for folder in sorted(corpus.directory.glob("labels/*/")) if not named or folder.name in named]
    files = [f"{Path(shard['name']).stem}.safetensors" for shard in shards]
    return tuple(folder.name for folder in folders if any((folder / file).is_file() for file in files))


def _covers(name: str, work: list[ShardJob], verdicts: list[Verdict]) -> bool:
    """Whether any shard has labels of a name; what a split without any of them lacks is then no fault."""
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
    """A line for every fault, and what the final sentence says of them together."""
    owner = {row["sha256"]: row["name"] for part in corpus.body["splits"].values() for row in part["shards"]}
    groups: dict[str, list[str]] = {}
    lines = []
    for verdict in verdicts:
        other = owner.get(verdict.sha256)
        if other not in (None, verdict.name):
            verdict.faults = [f"swapped: it is {other} under another name"]
        if verdict.faults:
            kind = "missing" if verdict.missing else "swapped" if other not in (None, verdict.name) else "damaged"
            groups.setdefault(f"{kind} shards", []).append(verdict.name)
            lines.append(f"{verdict.name}: {'; '.join(verdict.faults)}")
        for name, fault in verdict.labels.items():
            groups.setdefault(f"wrong labels {name}", []).append(verdict.name)
            lines.append(f"labels/{name}/{Path(verdict.name).stem}.safetensors: {fault}")
    return lines, [f"{what}: {_some(names)}" for what, names in groups.items()]


def _some(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more, listed above" if more > 0 else "")


def _lengths(corpus: Corpus) -> list[str]:
    """What is wrong with the files of lengths (corpora of before have none; a mirror checks its own when it reads)."""
    wrong = []
    for part in corpus.body["splits"].values():
        if facts := part.get("lengths"):
            path = corpus.directory / facts["name"]
            if not path.is_file():
                wrong.append(f"{path.name} is missing")
            elif hashlib.sha256(path.read_bytes()).hexdigest() != facts["sha256"]:
                wrong.append(f"{path.name} is damaged")
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
    return "; ".join(remedies)


def _again(corpus: Corpus, remote: bool) -> str:
    where, source = corpus.directory, corpus.body.get("source", {})
    recipe = source.get("recipe")
    if remote:
        return "remove them: they are fetched again when they are needed"
    if "permuted" in source:
        return f"remove the folder and run `wavlm data permute ORIGINAL --out {where} --seed {source['permuted']}`"
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
