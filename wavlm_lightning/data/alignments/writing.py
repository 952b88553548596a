"""`AlignmentWriter`: writes the alignments of a corpus, shard by shard; an interrupted run goes on where it stopped."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.alignments.alignment_set import (
    FORMAT,
    OWN,
    Aligned,
    alignment_file,
    alignments_directory,
    made_hash,
    read_head,
)
from wavlm_lightning.data.alignments.segments import DIGITS, SILENCE, Segment, check_segments
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.remote.mirror import is_remote
from wavlm_lightning.data.shard_index import ShardIndex
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import check_output, own_folder, write_bytes, write_json
from wavlm_lightning.system.reading import read_json, reading


class AlignmentWriter:
    """Writes one file a shard, and `alignments.json` in `close`.

    Args:
        corpus: whose utterances are aligned; gets the folder `alignments/NAME`.
        name: of the set.
        about: `kind`, `teacher` (a hash) and `settings` say what made the alignments; a shard that the same has already aligned
            is `done`. Further entries (`labelled`, ...) are facts, which `close` may complete.
        splits: that are aligned; all by default. A later writer of the same set may add others.

    Raises:
        UserError: the folder holds alignments that something else made, another process writes them, the corpus is behind a URL,
            or the name is that of the corpus' own times.

    Example:
        >>> with AlignmentWriter(corpus, "forced", {"kind": "forced", "teacher": sha256, "settings": {}}) as writer:
        ...     for shard in corpus.split("train").shards:
        ...         if not writer.done(shard):
        ...             writer.write(shard, [align(shard, place) for place in range(shard.utterances)])
    """

    def __init__(self, corpus: Corpus, name: str, about: dict[str, Any], splits: Sequence[str] | None = None) -> None:
        if is_remote(corpus.directory):
            raise UserError(
                f"{corpus.name}: alignments are written beside the shards, which is not possible on a server; align a copy of "
                "the corpus in a folder"
            )
        if name == OWN:
            raise UserError(
                f"--name {OWN}: this is the name of the times that the corpus itself has; choose another name"
            )
        self.corpus, self.name, self.about = corpus, name, dict(about)
        self.splits = list(corpus.splits if splits is None else splits)
        for split in self.splits:
            corpus.split(split)
        self.made = made_hash(self.about)
        self.directory = alignments_directory(corpus, name)
        check_output(self.directory, "alignments")
        self._owned, self._closed = contextlib.ExitStack(), False
        self._owned.enter_context(own_folder(self.directory, "align", "--name"))
        try:
            self._before = self._finished_before()
        except BaseException:
            self._owned.close()
            raise

    def done(self, shard: ShardIndex) -> bool:
        """Whether this shard has whole alignments that the same kind, teacher and settings made."""
        path = alignment_file(self.directory, shard)
        try:
            head = read_head(path)
            content = path.read_bytes().partition(b"\n")[2]
        except (
            Exception
        ):  # after a power failure a file may be empty; a damaged one is made again, whatever reading it raises
            return False
        ours = head["made_sha256"] == self.made and head["shard_sha256"] == shard.version
        return ours and hashlib.sha256(content).hexdigest() == head["content_sha256"]

    def write(self, shard: ShardIndex, rows: Sequence[Aligned | Sequence[Segment] | None]) -> None:
        """Write the alignments of a shard: for each utterance its phones, `Aligned` (phones and words), or None for none.

        Raises:
            UserError: a row is no sequence of segments inside its audio; the message names shard and utterance.
            ValueError: not one row for each utterance.
        """
        if len(rows) != shard.utterances:
            raise ValueError(f"{len(rows)} alignments for {shard.utterances} utterances of {shard.path.name}")
        lines, names, aligned, seconds = [], {SILENCE}, 0, 0.0
        for key, samples, row in zip(shard.keys, shard.samples, rows, strict=True):
            one = row if isinstance(row, Aligned) or row is None else Aligned(list(row))
            line: dict[str, Any] = {"key": key, "phones": None}
            if one is not None:
                try:
                    line["phones"] = _rounded(one.phones, samples)
                    if one.words is not None:
                        line["words"] = _rounded(one.words, samples)
                except ValueError as error:
                    raise UserError(
                        f"{shard.path}: alignment of {key!r}: {error}; correct it, or leave it out"
                    ) from error
                names |= {name for name, _, _ in one.phones}
                aligned, seconds = aligned + 1, seconds + samples / SAMPLE_RATE
            lines.append(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
        content = "".join(lines).encode()
        head: dict[str, Any] = {"format": FORMAT, "shard": shard.path.name, "shard_sha256": shard.version}
        head["made_sha256"] = self.made
        head |= {"content_sha256": hashlib.sha256(content).hexdigest(), "names": sorted(names)}
        head |= {"utterances": len(rows), "aligned": aligned, "aligned_seconds": round(seconds, 3)}
        path = alignment_file(self.directory, shard)
        write_bytes(path, json.dumps(head, ensure_ascii=False).encode() + b"\n" + content, durable=True)

    def close(self, **facts: Any) -> None:
        """Write `alignments.json`: `about` completed by `facts`, the names of all phones, and the splits.

        Raises:
            UserError: a shard of the splits has no alignments yet.
        """
        if self._closed:
            return
        self._closed = True
        try:
            splits = [split for split in self.corpus.splits if split in {*self.splits, *self._before}]
            names: set[str] = {SILENCE}
            counts: dict[str, Any] = {"utterances": 0, "aligned": 0, "aligned_seconds": 0.0}
            for split in splits:
                for shard in self.corpus.split(split).shards:
                    path = alignment_file(self.directory, shard)
                    if not self.done(shard):
                        raise UserError(
                            f"{path}: this shard has no alignments yet; run the same command again, it goes on"
                        )
                    head = read_head(path)
                    names |= set(head["names"])
                    counts = {key: round(value + head[key], 3) for key, value in counts.items()}
            body = {"format": FORMAT, "name": self.name, "about": self.about | facts, "inventory": sorted(names)}
            body |= {
                "splits": splits,
                **counts,
                "corpus_sha256": self.corpus.sha256,
            }
            write_json(self.directory / "alignments.json", body, ensure_ascii=False)
        finally:
            self._owned.close()

    def _finished_before(self) -> list[str]:
        """Splits that are aligned already; refuse those that something else made."""
        path = self.directory / "alignments.json"
        if not path.exists():
            return []
        remedy = "remove the folder and align again"
        body = read_json(path, "the description of alignments", remedy)
        with reading(path, "the description of alignments", remedy):
            made, splits = made_hash(body["about"]), list(body["splits"])
        if made != self.made:
            raise UserError(
                f"{self.directory}: has alignments of another kind, teacher or settings; choose another --name or remove the "
                "folder"
            )
        return splits

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._owned.close()


def _rounded(rows: Sequence[Segment], samples: int) -> list[Segment]:
    """Segments with times in whole microseconds, checked."""
    rounded = [Segment(name, round(float(start), DIGITS), round(float(end), DIGITS)) for name, start, end in rows]
    check_segments(rounded, samples / SAMPLE_RATE)
    return rounded
