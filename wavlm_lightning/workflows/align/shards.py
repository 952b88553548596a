"""The alignment set of a corpus, shard by shard: what is there is kept, what cannot be aligned is listed, labels are counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.codebooks.audio_progress import HoursBar
from wavlm_lightning.data.alignments import AlignmentSet, AlignmentWriter
from wavlm_lightning.data.alignments.alignment_set import alignment_file, alignment_sets, read_head
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.shard_index import ShardIndex
from wavlm_lightning.encoder.checkpoints.labels_seen import LABELLED, joined
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import write_text
from wavlm_lightning.system.reading import read_lines, reading
from wavlm_lightning.tasks.pseudo_labels import PSEUDO, is_pseudo
from wavlm_lightning.workflows.align.aligner import Aligner, Unaligned

FAILED = "failed.jsonl"  # in the folder of a set: utterances without an alignment, and why
ENOUGH = 100  # utterances after which a call stops if none of them could be aligned
NAMED = 3  # utterances that a line names


@dataclass
class AlignedCorpus:
    """What `align_corpus` has done; `lines` says it."""

    folder: Path
    lines: list[str] = field(default_factory=list)


def align_shards(
    corpus: Corpus, name: str, splits: list[str], about: dict[str, Any], aligner: Aligner
) -> AlignedCorpus:
    """Align the shards that the set lacks."""
    failures: list[tuple[str, Unaligned]] = []
    with AlignmentWriter(corpus, name, about, splits) as writer:
        pending, samples = pending_shards(corpus, splits, writer)
        seen = 0
        with HoursBar(samples, samples - sum(sum(shard.samples) for shard in pending), "align") as bar:
            for shard in pending:
                rows, failed = aligner.rows(shard)
                seen, failures = seen + len(rows), failures + failed
                if len(failures) == seen >= ENOUGH:
                    raise UserError(f"{shard.path}: none of {seen} utterances could be aligned: {_reasons(failures)}")
                _note_failures(writer.directory / FAILED, shard, failed)
                writer.write(shard, rows)
                bar.add(sum(shard.samples))
        if len(failures) == seen > 0 and len(pending) == sum(len(corpus.split(split).shards) for split in splits):
            raise UserError(f"{corpus.directory}: none of {seen} utterances could be aligned: {_reasons(failures)}")
        writer.about |= _labelled(corpus, name, splits, writer, aligner)
    done = described(corpus, name, splits, writer.directory)
    if aligner.kept_back:
        done.lines.append(
            f"decoded: {aligner.kept_back:,} utterances of validation and test of {aligner.source.name} are in a training split "
            "here, where their true text may not be learned"
        )
    if failures:
        done.lines.append(f"not aligned: {_reasons(failures)}; all are listed in {writer.directory / FAILED}")
    elif (writer.directory / FAILED).is_file():
        done.lines.append(f"not aligned by earlier calls: see {writer.directory / FAILED}")
    if aligner.task.pause is None and not aligner.letters:
        done.lines.append(
            "note: this head was trained without pauses, so that silence belongs to the phone beside it; train one with "
            "model.pauses: true"
        )
    return done


def pending_shards(corpus: Corpus, splits: Sequence[str], writer: AlignmentWriter) -> tuple[list[ShardIndex], int]:
    """Shards without alignments, and the samples of all shards."""
    shards = [shard for split in splits for shard in corpus.split(split).shards]
    return [shard for shard in shards if not writer.done(shard)], sum(sum(shard.samples) for shard in shards)


def _reasons(failures: Sequence[tuple[str, Unaligned]]) -> str:
    """Such as `3 utterances (a, b, c): too few frames for its labels (40 frames, ...)`, the most frequent first."""
    counts = Counter(why.kind for _, why in failures)
    parts = []
    for kind, count in counts.most_common():
        keys = [key for key, why in failures if why.kind == kind]
        why = next(str(why) for _, why in failures if why.kind == kind)
        named = ", ".join(keys[:NAMED]) + (", ..." if count > NAMED else "")
        parts.append(f"{count} utterance{'s' if count > 1 else ''} ({named}): {why}")
    return "; ".join(parts)


def _note_failures(path: Path, shard: ShardIndex, failed: Sequence[tuple[str, Unaligned]]) -> None:
    """List the utterances of a shard that have no alignment, in the place of what an earlier call said of this shard."""
    earlier = []
    if path.is_file():
        with reading(path, "the list of what could not be aligned", "remove it"):
            rows = [json.loads(line) for line in read_lines(path)]
            earlier = [row for row in rows if row["shard"] != shard.path.name]
    found = [{"shard": shard.path.name, "key": key, "why": str(why)} for key, why in failed]
    if earlier or found or path.is_file():
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [*earlier, *found]))


def _labelled(
    corpus: Corpus, name: str, splits: Sequence[str], writer: AlignmentWriter, aligner: Aligner
) -> dict[str, Any]:
    """Which true transcripts are in the set, of all its splits, whichever call has aligned them, with those behind the head."""
    before = AlignmentSet.open(corpus, name).splits if name in alignment_sets(corpus) else []
    utterances, seconds = 0, 0.0
    for split in sorted({*splits, *before}):
        for shard in corpus.split(split).shards:
            with reading(path := alignment_file(writer.directory, shard), "alignments of a shard", "remove the file"):
                lines = [json.loads(line) for line in read_lines(path)[1:]]
            for line, samples in zip(lines, shard.samples, strict=True):
                if line["phones"] is not None and aligner.is_true(line["key"]):
                    utterances, seconds = utterances + 1, seconds + samples / SAMPLE_RATE
    source = aligner.source
    own: Any = {"utterances": utterances, "seconds": round(seconds, 3), "corpus": source.name}
    if is_pseudo(source):  # a recogniser wrote its transcripts
        own = source.body["source"][PSEUDO].get(LABELLED)
    return {"labelled": joined(own, aligner.taught), "teacher_labelled": aligner.taught}


def described(corpus: Corpus, name: str, splits: Sequence[str], folder: Path) -> AlignedCorpus:
    """How much of each split is aligned, a line a split."""
    done = AlignedCorpus(folder)
    for split in splits:
        heads = [read_head(alignment_file(folder, shard)) for shard in corpus.split(split).shards]
        utterances, aligned = (sum(head[key] for head in heads) for key in ("utterances", "aligned"))
        hours = sum(head["aligned_seconds"] for head in heads) / 3600
        done.lines.append(f"{folder}: {split}: {aligned:,} of {utterances:,} utterances aligned, {hours:.2f} h")
    return done
