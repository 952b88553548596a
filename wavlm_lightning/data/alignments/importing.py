"""Alignments of other aligners become a set of a corpus: TextGrids (MFA), CTM, Kaldi's phone of each frame."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.alignments.alignment_set import Aligned, AlignmentSet, Coverage, alignment_sets
from wavlm_lightning.data.alignments.ctm import read_ctm
from wavlm_lightning.data.alignments.kaldi_frames import read_kaldi_frames
from wavlm_lightning.data.alignments.renaming import SILENCES, Renaming
from wavlm_lightning.data.alignments.segments import DIGITS, SILENCE, Segment, check_segments
from wavlm_lightning.data.alignments.text_grid import read_text_grids
from wavlm_lightning.data.alignments.writing import AlignmentWriter
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.recordings import clean_key
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.name_hints import nearest

Foreign = dict[str, Callable[[int], Aligned]]  # by name of the utterance: its alignment, from its number of samples
READERS: dict[str, Callable[[Path], Foreign]] = {
    "textgrid": read_text_grids,
    "ctm": read_ctm,
    "kaldi": read_kaldi_frames,
}


class Imported(NamedTuple):
    """What `import_alignments` has done."""

    folder: Path
    utterances: int  # of the splits
    aligned: int
    seconds: float  # of audio that is aligned
    without_alignment: list[str]  # keys of utterances
    without_utterance: list[str]  # names of alignments
    phones: tuple[str, ...]  # names after the mapping
    unused: list[str]  # old names of rules of a mapping file that matched nothing

    def lines(self) -> list[str]:
        """The result in sentences."""
        said = [
            f"{self.folder}: {self.aligned} of {self.utterances} utterances aligned ({self.seconds / 3600:.2f} h), "
            f"{len(self.phones)} phones"
        ]
        if self.without_alignment:
            said.append(
                f"{_count(self.without_alignment, 'utterance')} without alignment: {_some(self.without_alignment)}"
            )
        if self.without_utterance:
            said.append(
                f"{_count(self.without_utterance, 'alignment')} without utterance: {_some(self.without_utterance)}"
            )
        if self.unused:
            said.append(f"{_count(self.unused, 'rule')} of the mapping matched nothing: {_some(self.unused)}")
        return said


def import_alignments(
    kind: str,
    path: Path | str,
    corpus: Corpus | Path | str,
    name: str,
    mapping: Path | str | None = None,
    splits: Sequence[str] | None = None,
) -> Imported:
    """Read the alignments of another aligner and write them as set `name` of a corpus.

    An utterance is found by its key: the name in the file, the end of a path, or either with all characters but letters, digits,
    `_` and `-` replaced by `_`, as `wavlm prepare` makes keys. What lies between segments becomes silence.

    Args:
        kind: `textgrid`, `ctm` or `kaldi`.
        path: of the files; see the module of each reader.
        corpus: to which they belong.
        name: of the set.
        mapping: a file of rules from old to new names, see `renaming`; None makes silences `SIL`, noise `SPN`, and keeps
            the rest.
        splits: of the corpus; all by default.

    Raises:
        UserError: a file is damaged or of other audio, times overlap or run backwards, a phone has no rule in the mapping, or no
            alignment belongs to an utterance.
    """
    if kind not in READERS:
        raise UserError(f"--from {kind}: no such format{nearest(kind, READERS)}; it is one of {', '.join(READERS)}")
    opened = corpus if isinstance(corpus, Corpus) else Corpus.open(corpus)
    rename = Renaming.default() if mapping is None else Renaming.read(Path(mapping))
    foreign = READERS[kind](Path(path))
    used = list(opened.splits if splits is None else splits)
    names, lost = _matched(foreign, opened, used)
    if not names:
        raise UserError(
            f"{path}: none of its {len(foreign)} alignments ({_some(foreign)}) belongs to an utterance of {opened.directory} "
            f"({_some(key for split in used for key in opened.split(split).keys)}); name the alignments of this corpus"
        )
    about = {"kind": kind, "settings": {"mapping": sorted(rename.rules)}, "source": str(path)}
    missing: list[str] = []
    aligned, samples_aligned, phones = 0, 0, {SILENCE}
    with AlignmentWriter(opened, name, about, used) as writer:
        for split in used:
            for shard in opened.split(split).shards:
                rows: list[Aligned | None] = []
                for key, samples in zip(shard.keys, shard.samples, strict=True):
                    if key not in names:
                        missing.append(key)
                        rows.append(None)
                        continue
                    rows.append(
                        _renamed(foreign[names[key]](samples), rename, samples, f"{path}: alignment of {names[key]!r}")
                    )
                    phones |= {row.name for row in rows[-1].phones}  # type: ignore[union-attr]  # just appended
                    aligned, samples_aligned = aligned + 1, samples_aligned + samples
                if not rename.unmatched:  # else all are counted, and refused below
                    writer.write(shard, rows)
        if rename.unmatched:
            listed = ", ".join(f"{phone} ({count})" for phone, count in rename.unmatched.most_common(8))
            raise UserError(
                f"{rename.where}: no rule for {len(rename.unmatched)} names of phones, {listed}; add rules, or the line `* *` "
                "at the end, which keeps them"
            )
        seconds = round(samples_aligned / SAMPLE_RATE, 3)
        earlier = _of_other_splits(opened, name, used)
        labelled = {"utterances": aligned + earlier.aligned, "seconds": round(seconds + earlier.seconds, 3)}
        writer.close(labelled={**labelled, "corpus": opened.name})
    unused = [] if mapping is None else rename.unused()
    total = sum(len(opened.split(split)) for split in used)
    return Imported(writer.directory, total, aligned, seconds, missing, lost, tuple(sorted(phones)), unused)


def _of_other_splits(corpus: Corpus, name: str, splits: Sequence[str]) -> Coverage:
    """What an earlier call has read into the same set for splits other than these."""
    if name not in alignment_sets(corpus):
        return Coverage(0, 0, 0.0)
    before = AlignmentSet.open(corpus, name)
    return Coverage.sum(before.coverage(split) for split in before.splits if split not in splits)


def _matched(foreign: Foreign, corpus: Corpus, splits: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The alignment of each key that has one, and the alignments that belong to none."""
    where: dict[str, str] = {}
    for split in splits:
        for key in corpus.split(split).keys:
            if key in where:
                raise UserError(
                    f"{corpus.directory}: the key {key!r} occurs in the splits {where[key]} and {split}, so its alignment could "
                    "be of either; import one of them with --splits"
                )
            where[key] = split
    names: dict[str, str] = {}
    lost = []
    for each in foreign:
        end = each.rpartition("/")[2]
        found = next((key for key in (each, clean_key(each), end, clean_key(end)) if key in where), None)
        if found is None:
            lost.append(each)
        elif found in names:
            raise UserError(
                f"{corpus.directory}: the alignments {names[found]!r} and {each!r} both belong to utterance {found!r}; remove one"
            )
        else:
            names[found] = each
    return names, lost


def _renamed(one: Aligned, rename: Renaming, samples: int, where: str) -> Aligned:
    """The alignment with new names, and silence wherever no phone is."""
    seconds = round(samples / SAMPLE_RATE, DIGITS)
    renamed = [Segment(rename(name), round(start, DIGITS), round(end, DIGITS)) for name, start, end in one.phones]
    words = None if one.words is None else [word for word in one.words if word.name not in SILENCES]
    try:
        check_segments(renamed, seconds)
    except ValueError as error:
        raise UserError(f"{where}: {error}; correct it, or leave it out") from error
    rows: list[Segment] = []
    for row in [*renamed, Segment(SILENCE, seconds, seconds)]:
        last = rows[-1].end if rows else 0.0
        if row.start > last:
            _add(rows, Segment(SILENCE, last, row.start))
        if row.end > row.start:
            _add(rows, row)
    return Aligned(rows, words)


def _add(rows: list[Segment], row: Segment) -> None:
    """Append a segment; silence goes on in silence."""
    if rows and row.name == rows[-1].name == SILENCE:
        rows[-1] = rows[-1]._replace(end=row.end)
    else:
        rows.append(row)


def _count(items: Sequence[str], what: str) -> str:
    return f"{len(items)} {what}{'' if len(items) == 1 else 's'}"


def _some(items: Iterable[str]) -> str:
    """The first three."""
    listed = list(items)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")
