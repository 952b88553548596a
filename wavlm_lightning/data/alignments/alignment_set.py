"""`AlignmentSet`: the times of phones and words of a corpus, from its own metadata or from `CORPUS/alignments/NAME`.

Layout::

    alignments.json         kind, teacher, settings, what was labelled, names of the phones, splits; written last
    SPLIT-NNNNNN.jsonl      one file a shard: a head (format, hash of the shard, hash of the lines behind it), then for each
                            utterance its key and its phones `[[name, start, end], ...]` in seconds (null: none), maybe its words
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, reduce
from operator import add
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.alignments.segments import SILENCE, Segment, check_segments
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.remote.mirror import is_remote, materialise
from wavlm_lightning.data.remote.transport import NotThere
from wavlm_lightning.data.shard_index import ShardIndex
from wavlm_lightning.data.split import Split
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.name_hints import nearest
from wavlm_lightning.system.paths import plain_name
from wavlm_lightning.system.reading import check_file, read_json, reading, shown

FORMAT = "wavlm_lightning/alignments/1"
OWN = "corpus"  # the name of the times in the metadata of the corpus itself
AGAIN = "make these alignments again with `wavlm align`"


class Aligned(NamedTuple):
    """The alignment of an utterance."""

    phones: list[Segment]
    words: list[Segment] | None = None  # None: the set has no words


class Coverage(NamedTuple):
    """How much of a shard or a split is aligned."""

    utterances: int
    aligned: int
    seconds: float  # of audio that is aligned

    @classmethod
    def sum(cls, parts: Iterable[Coverage]) -> Coverage:
        """Of several parts together."""
        return reduce(lambda one, other: cls(*map(add, one, other)), parts, cls(0, 0, 0.0))


class AlignmentSet:
    """The alignments of a corpus.

    Attributes:
        corpus: they belong to.
        name: of the set; `corpus` for the times in the corpus' own metadata.
        about: `kind` (corpus, forced, decoded, textgrid, ctm or kaldi), and what made them: `teacher` (a hash), `settings`,
            and in sets made with labels `labelled`.
        inventory: names of the phones, silence (`SIL`) among them.
        splits: that are aligned.

    Example:
        >>> times = AlignmentSet.open(Corpus.open("data/mini/pretrain"), "corpus")
        >>> times.rows("train")[0][:2]
        [Segment(name='SIL', start=0.0, end=0.0905), Segment(name='K', start=0.0905, end=0.1336)]
    """

    def __init__(
        self,
        corpus: Corpus,
        name: str,
        about: dict[str, Any],
        inventory: tuple[str, ...],
        splits: list[str],
    ) -> None:
        self.corpus, self.name, self.about, self.inventory, self.splits = corpus, name, about, inventory, splits

    @classmethod
    def open(cls, corpus: Corpus, name: str) -> AlignmentSet:
        """Open a set; the times stay on disk. Files of a corpus behind a URL are downloaded when they are needed.

        Raises:
            UserError: there is no such set, or its description is damaged.
        """
        if name == OWN:
            names = corpus.inventories.get("phones")
            if not isinstance(names, list) or not names:
                raise UserError(f"{corpus.directory}: its utterances have no phones; {_choose(corpus)}")
            inventory = tuple(sorted({SILENCE, *names}))
            return cls(corpus, name, {"kind": OWN}, inventory, corpus.splits)
        path = alignments_directory(corpus, name) / "alignments.json"
        if is_remote(corpus.directory):
            try:
                materialise(path)
            except NotThere as error:
                raise UserError(
                    f"{corpus.name}: no alignments {name!r} at the corpus' URL ({error}); upload them, or download the corpus "
                    "and run `wavlm align` there"
                ) from error
        check_file(path, "the description of alignments", AGAIN)
        if not path.is_file():
            there = sorted(each.parent.name for each in corpus.directory.glob("alignments/*/alignments.json"))
            begun = "; run `wavlm align` again, it goes on" if path.parent.is_dir() else f"; {_choose(corpus, there)}"
            raise UserError(f"{path.parent}: no finished alignments here{nearest(name, there) or begun}")
        body = read_json(path, "the description of alignments", AGAIN)
        with reading(path, "the description of alignments", AGAIN):
            if body["format"] != FORMAT:
                raise ValueError(f"its format is not {FORMAT!r}")
            about, inventory, splits = body["about"], body["inventory"], body["splits"]
            if not isinstance(about, dict) or not isinstance(about["kind"], str):
                raise TypeError("`about` names no kind")
            if not isinstance(inventory, list) or not all(isinstance(each, str) and each for each in inventory):
                raise TypeError("`inventory` is no list of names")
            if not isinstance(splits, list) or not set(splits) <= set(corpus.splits):
                raise ValueError(f"`splits` is {shown(splits)}, and the corpus has {', '.join(corpus.splits)}")
        return cls(corpus, name, about, tuple(inventory), splits)

    @property
    def made_sha256(self) -> str:
        """Hash of what made the alignments (kind, teacher, settings): equal for sets of two corpora made in the same way."""
        return made_hash(self.about)

    def rows(self, split: str) -> Sequence[list[Segment] | None]:
        """The phones of every utterance of a split, in its order; None where an utterance has no alignment.

        A file is read and checked when its first utterance is asked for.

        Raises:
            UserError: the set does not have this split; when a row is read: its file is missing, damaged or of another shard.
        """
        return _Rows(self._split(split), self.of_shard, lambda one: one and one.phones)

    def words(self, split: str) -> Sequence[list[Segment] | None]:
        """The words of every utterance of a split, as `rows`; None also where the set has no words."""
        return _Rows(self._split(split), self.of_shard, lambda one: one and one.words)

    def _split(self, name: str) -> Split:
        opened = self.corpus.split(name)
        if name not in self.splits:
            raise UserError(
                f"{alignments_directory(self.corpus, self.name)}: alignments of the splits {', '.join(self.splits)}, not of "
                f"{name!r}; make them with `wavlm align ... --name {self.name} --splits {name}`"
            )
        return opened

    def of_shard(self, shard: ShardIndex) -> list[Aligned | None]:
        """The alignment of each utterance of a shard; see `rows` for errors."""
        if self.name == OWN:
            return [_own(shard, place) for place in range(shard.utterances)]
        path = self._file(shard)
        return _read(path, path.stat().st_ino, path.stat().st_mtime_ns, shard, frozenset(self.inventory))

    def count(self, shard: ShardIndex) -> Coverage:
        """How much of a shard is aligned."""
        if self.name == OWN:
            rows = self.of_shard(shard)
            samples = sum(each for each, row in zip(shard.samples, rows, strict=True) if row is not None)
            return Coverage(len(rows), sum(row is not None for row in rows), samples / SAMPLE_RATE)
        path = self._file(shard)
        with reading(path, "alignments of a shard", AGAIN):
            head = read_head(path)
            return Coverage(int(head["utterances"]), int(head["aligned"]), float(head["aligned_seconds"]))

    def coverage(self, split: str) -> Coverage:
        """How much of a split is aligned."""
        return Coverage.sum(self.count(shard) for shard in self._split(split).shards)

    def labelled(self) -> dict[str, Any] | list[dict[str, Any]] | None:
        """The labels of people that had a part in these times: `utterances`, `seconds`, `corpus`, or several such entries.

        None if none had. The times in the metadata of a corpus are labels themselves.
        """
        if self.name != OWN:
            return self.about.get("labelled")
        total = Coverage.sum(map(self.coverage, self.splits))
        return {"utterances": total.aligned, "seconds": round(total.seconds, 3), "corpus": self.corpus.name}

    def times_sha256(self, splits: Sequence[str]) -> str:
        """Hash of the alignments of some splits; of `corpus`, that of the corpus."""
        if self.name == OWN:
            return self.corpus.sha256
        digest = hashlib.sha256()
        for split in splits:
            for shard in self._split(split).shards:
                digest.update(f"{shard.path.name} {self.shard_sha256(shard)}\n".encode())
        return digest.hexdigest()

    def shard_sha256(self, shard: ShardIndex) -> str:
        """Hash of the alignments of one shard; of `corpus`, that of the shard."""
        if self.name == OWN:
            return shard.version
        path = self._file(shard)
        with reading(path, "alignments of a shard", AGAIN):
            return read_head(path)["content_sha256"]

    def _file(self, shard: ShardIndex) -> Path:
        path = alignment_file(alignments_directory(self.corpus, self.name), shard)
        if is_remote(self.corpus.directory):
            with contextlib.suppress(NotThere):
                materialise(path)
        if not path.is_file():
            check_file(path, "alignments of a shard", AGAIN)
            raise UserError(f"{path}: this shard has no alignments; {AGAIN}")
        return path


def alignments_directory(corpus: Corpus, name: str) -> Path:
    """The folder of a set: `CORPUS/alignments/NAME`."""
    return corpus.directory / "alignments" / plain_name(name, "the name of alignments", "choose a plain one")


def alignment_file(directory: Path, shard: ShardIndex) -> Path:
    """The file of a shard in the folder of a set."""
    return directory / f"{shard.path.stem}.jsonl"


def alignment_sets(corpus: Corpus) -> list[str]:
    """Names of the finished sets in a corpus folder, `corpus` first if the corpus has phones of its own."""
    own = [OWN] if corpus.inventories.get("phones") else []
    return own + sorted(path.parent.name for path in corpus.directory.glob("alignments/*/alignments.json"))


def made_hash(about: dict[str, Any]) -> str:
    """Hash of kind, teacher and settings; the rest of `about` may differ between parts of one set."""
    made = {key: about.get(key) for key in ("kind", "teacher", "settings")}
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()


def read_head(path: Path) -> dict[str, Any]:
    """The first line of the file of a shard; `ValueError` or `KeyError` if it is not one."""
    with path.open("rb") as file:
        head = json.loads(file.readline())
    if not isinstance(head, dict) or head["format"] != FORMAT:
        raise ValueError(f"its format is not {FORMAT!r}")
    for key in ("shard_sha256", "content_sha256", "made_sha256"):
        if not isinstance(head[key], str):
            raise TypeError(f"`{key}` is no text")
    return head


@lru_cache(maxsize=8)
def _read(path: Path, inode: int, changed: int, shard: ShardIndex, names: frozenset[str]) -> list[Aligned | None]:
    with reading(path, "alignments of a shard", AGAIN):
        head = read_head(path)
        if head["shard_sha256"] != shard.version:
            raise UserError(f"{path}: these alignments were made from another version of {shard.path.name}; {AGAIN}")
        _, _, content = path.read_bytes().partition(b"\n")
        if hashlib.sha256(content).hexdigest() != head["content_sha256"]:
            raise UserError(f"{path}: damaged (its lines are not those that were written); remove the file and {AGAIN}")
        lines = content.decode().split("\n")[:-1]
        if len(lines) != shard.utterances:
            raise ValueError(f"{len(lines)} lines, and the shard has {shard.utterances} utterances")
        found = []
        for key, samples, line in zip(shard.keys, shard.samples, lines, strict=True):
            body = json.loads(line)
            if body["key"] != key:
                raise ValueError(f"a line of {body['key']!r} where {key!r} belongs")
            found.append(_aligned(key, body, samples))
            if (one := found[-1]) is not None and (new := {name for name, _, _ in one.phones} - names):
                raise ValueError(f"{key!r} has the phone {min(new)!r}, which alignments.json does not list")
    return found


def _own(shard: ShardIndex, place: int) -> Aligned | None:
    """The times in the metadata of an utterance."""
    meta = shard.meta(place)
    phones, key = meta.get("phones"), shard.keys[place]
    with reading(shard.path, "a shard whose utterances have phones with times", "prepare the corpus again"):
        if not phones or any(len(row) < 3 for row in phones):  # phones from a lexicon have no times
            return None
        words = meta.get("words")
        timed = words if words and all(len(row) == 3 for row in words) else None
        return _aligned(key, {"phones": phones, "words": timed}, shard.samples[place])


def _aligned(key: str, body: dict[str, Any], samples: int) -> Aligned | None:
    if body["phones"] is None:
        return None
    try:
        phones = [Segment(*row) for row in body["phones"]]
        words = None if body.get("words") is None else [Segment(*row) for row in body["words"]]
        for rows in (phones, words or []):
            check_segments(rows, samples / SAMPLE_RATE)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key!r}: {error}") from error
    return Aligned(phones, words)


class _Rows(Sequence[list[Segment] | None]):
    """One row an utterance of a split, read shard by shard."""

    def __init__(
        self,
        split: Split,
        read: Callable[[ShardIndex], list[Aligned | None]],
        part: Callable[[Aligned | None], list[Segment] | None],
    ) -> None:
        self._split, self._read, self._part = split, read, part
        self._last: tuple[int, list[Aligned | None]] = (-1, [])

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, number: int) -> list[Segment] | None:  # type: ignore[override]  # no slices: they would read files
        if not 0 <= number < len(self):
            raise IndexError(number)
        which = int(np.searchsorted(self._split.starts, number, side="right")) - 1
        if which != self._last[0]:
            self._last = which, self._read(self._split.shards[which])
        return self._part(self._last[1][number - int(self._split.starts[which])])


def _choose(corpus: Corpus, there: Sequence[str] = ()) -> str:
    if there:
        return f"there are {', '.join(there)}"
    return f"make some with `wavlm align RUN {corpus.directory} --name NAME`"
