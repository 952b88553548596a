"""`Corpus`: a folder of WebDataset shards, an index beside each, and `corpus.json`, which is written last.

Layout::

    corpus.json                 name, licence, source, sample rate, inventories, and every shard with its sha256
    SPLIT-000000.tar            KEY.flac + KEY.json for each utterance, KEY.NAME.flac for further audio (WebDataset format)
    SPLIT-000000.index.json     keys, samples, and where in the tar each member starts
    SPLIT.lengths.npy           samples of every utterance of the split, uint32, in shard order
    trials-SPLIT.csv            same-speaker trials, for tasks that need them
    trials-SPLIT_NAME.csv       a further list of trials of that split, which `source.trial_lists` names
    labels/NAME/SPLIT-000000.safetensors    codebook labels (see `wavlm_lightning.codebooks`)
    alignments/NAME/SPLIT-000000.jsonl      times of phones and words (see `wavlm_lightning.data.alignments`)
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.corpus_json import INDEX, MODIFIED, check_body, trial_lists
from wavlm_lightning.data.lengths import Lengths, write_lengths
from wavlm_lightning.data.shard_index import ShardIndex, check_each
from wavlm_lightning.data.shards import Utterance, write_shard
from wavlm_lightning.data.split import Split
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import atomic_write, sweep_leftovers, write_bytes
from wavlm_lightning.system.paths import plain_name
from wavlm_lightning.system.reading import check_file, read_json, read_text, reading

__all__ = ["FORMAT", "Corpus", "CorpusWriter", "Split"]

FORMAT = "wavlm_lightning/corpus/1"
AGAIN = "prepare the corpus again"
HEAD: dict[str, type] = {"name": str, "licence": str, "source": dict, "inventories": dict}  # of a `corpus.json`
KINDS: dict[type, str] = {str: "text", dict: "object"}


class CorpusWriter:
    """Writes a corpus; `corpus.json` comes last, so its presence means that the corpus is complete.

    Args:
        directory: the corpus folder; created if needed.
        name: of the corpus, in cards and messages.
        licence: terms of use of the audio.
        source: how it was made (recipe, arguments, versions); kept in `corpus.json`.
        shard_seconds: audio per shard.

    Example:
        >>> writer = CorpusWriter(Path("data/digits"), "digits", licence="CC0", source={"recipe": "mine"})
        >>> writer.write_split("train", [Utterance("a", np.full(16000, 0.1, "f4"), {"speaker": "s1"})])
        >>> writer.finish(inventories={"speakers": ["s1"]})
    """

    def __init__(
        self, directory: Path | str, name: str, licence: str, source: dict[str, Any], shard_seconds: float = 1800.0
    ) -> None:
        self.directory = Path(directory)
        self.name, self.licence, self.source = name, licence, source
        self.shard_samples = int(shard_seconds * SAMPLE_RATE)
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "corpus.json").unlink(missing_ok=True)
        sweep_leftovers(self.directory)
        self._shards: dict[str, list[dict[str, Any]]] = {}

    def write_split(self, split: str, utterances: Iterable[Utterance]) -> None:
        """Stream utterances into the shards of a split; one utterance is in memory at a time.

        `UserError` if the split's name cannot be the beginning of a file name.
        """
        self._checked(split)
        stream = iter(utterances)
        for first in stream:
            number = len(self._shards.get(split, []))
            index = write_shard(self.directory / f"{split}-{number:06d}.tar", self._one_shard(first, stream))
            assert index is not None  # it holds at least the first
            self.add_shard(split, index)

    def _one_shard(self, first: Utterance, stream: Iterator[Utterance]) -> Iterator[Utterance]:
        samples = len(first.waveform)
        yield first
        while samples < self.shard_samples and (utterance := next(stream, None)) is not None:
            samples += len(utterance.waveform)
            yield utterance

    def add_shard(self, split: str, index: ShardIndex) -> None:
        """Add a shard that `write_shard` has written to this directory, possibly in another process."""
        self._shards.setdefault(self._checked(split), []).append(index.summary())

    def _checked(self, split: str) -> str:
        return plain_name(split, f"{self.directory}: the names of splits", "give that split another name")

    def finish(
        self, inventories: dict[str, Any], trials: dict[str, list[tuple[int, str, str]]] | None = None
    ) -> Corpus:
        """Write trials, by split rows of (1 if same speaker else 0, key, key), and `corpus.json`.

        Inventories are label sets, each a list (or nested dict of lists) of names. `UserError` if no utterance was
        written, or if a key occurs twice in a split.
        """
        if not self._shards:
            raise UserError(f"{self.directory}: no utterance was written, so there is no corpus to finish")
        for split, rows in (trials or {}).items():
            path = self.directory / f"trials-{self._checked(split)}.csv"
            with atomic_write(path, durable=True) as temporary, temporary.open("w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(rows)
        body: dict[str, Any] = {
            "format": FORMAT,
            "name": self.name,
            "licence": self.licence,
            "source": self.source,
            "sample_rate": SAMPLE_RATE,
            "splits": {
                split: {
                    "utterances": sum(s["utterances"] for s in shards),
                    "hours": round(sum(s["samples"] for s in shards) / SAMPLE_RATE / 3600, 6),
                    "shards": shards,
                }
                for split, shards in self._shards.items()
            },
            "inventories": inventories,
        }
        corpus = Corpus(self.directory, body)
        for name, part in body["splits"].items():
            written = corpus.split(name)
            written.check_keys()
            part["lengths"] = write_lengths(self.directory / f"{name}.lengths.npy", written.samples)
        content = json.dumps(body, indent=1, ensure_ascii=False).encode()
        write_bytes(self.directory / "corpus.json", content, durable=True)
        return Corpus(self.directory, body)


class Corpus:
    """An opened corpus.

    Args:
        directory: the corpus folder.
        body: the content of its `corpus.json`.

    Raises:
        UserError: the content is not that of a corpus, or a name in it is not a plain file name.

    Example:
        >>> corpus = Corpus.open("runs/demo/corpus/ks")
        >>> corpus.split("train").seconds
        720.0
    """

    def __init__(self, directory: Path, body: dict[str, Any]) -> None:
        check_body(body, f"{directory / 'corpus.json'}")
        self.directory, self.body = directory, body
        self._opened: dict[str, Split] = {}

    @classmethod
    def open(cls, directory: Path | str) -> Corpus:
        """Open a corpus folder, or a corpus behind a URL through its local mirror.

        Raises:
            UserError: the folder is not a finished corpus of this format.
        """
        from wavlm_lightning.data.remote.mirror import is_url, mirror

        if is_url(directory):
            directory = mirror(str(directory))
        directory = Path(directory)
        path = directory / "corpus.json"
        check_file(path, "the list of a corpus")
        if not path.is_file():
            inside = sorted(p.parent.name for p in directory.glob("*/corpus.json"))
            hint = (
                f"it holds the corpora {', '.join(inside)}; name one of them"
                if inside
                else "make it with `wavlm prepare`, or run that again if it was interrupted"
            )
            raise UserError(f"{directory}: no corpus.json here; {hint}")
        body = read_json(path, "the description of a corpus", "run `wavlm prepare` again")
        if body.get("format") != FORMAT:
            raise UserError(f"{path}: its format is not {FORMAT!r}; run `wavlm prepare` again")
        for key, kind in HEAD.items():
            if not isinstance(body.get(key), kind):
                raise UserError(f"{path}: its {key} is missing, or no {KINDS[kind]}; run `wavlm prepare` again")
        return cls(directory, body)

    @property
    def name(self) -> str:
        return self.body["name"]

    @property
    def inventories(self) -> dict[str, Any]:
        """Label sets by name."""
        return self.body["inventories"]

    @property
    def splits(self) -> list[str]:
        return list(self.body["splits"])

    @cached_property
    def sha256(self) -> str:
        """Hash over the hashes of all shards, and of the indices of those indexed in place, which may hold a part of a tar."""
        shards = {
            split: [f"{s['sha256']}{s.get(INDEX, '') if MODIFIED in s else ''}" for s in part["shards"]]
            for split, part in self.body["splits"].items()
        }
        return hashlib.sha256(json.dumps(shards, sort_keys=True).encode()).hexdigest()

    def inventory(self, name: str) -> Any:
        """A label set by name; `UserError` names those that this corpus has."""
        if not self.inventories.get(name):
            have = ", ".join(k for k, v in self.inventories.items() if v) or "none"
            raise UserError(f"{self.directory}: this corpus has no {name!r} labels (it has: {have}); use one that has")
        return self.inventories[name]

    def split(self, name: str) -> Split:
        """A split, opened at the first call and kept.

        Raises:
            UserError: there is no such split, or a shard or its index is missing or has another size.
        """
        if name not in self.body["splits"]:
            raise UserError(f"{self.directory}: no split {name!r}; it has {', '.join(self.splits)}")
        if name not in self._opened:
            from wavlm_lightning.data.remote.mirror import is_remote

            part, remote = self.body["splits"][name], is_remote(self.directory)
            paths = (self.directory / shard["name"] for shard in part["shards"])
            shards = [ShardIndex.open(path, shard, remote) for path, shard in zip(paths, part["shards"], strict=True)]
            if not remote:
                check_each(ShardIndex.check, shards)
            facts = part.get("lengths")
            lengths: tuple[Lengths, ...] = ()
            if facts:
                path = self.directory / facts["name"]
                counts = tuple((shard["utterances"], shard["samples"]) for shard in part["shards"])
                lengths = (Lengths(path, part["utterances"], facts["bytes"], facts["sha256"], remote, counts),)
            self._opened[name] = Split(name, shards, lengths)
        return self._opened[name]

    def trial_lists(self, split: str) -> list[str]:
        """The names of further lists of trials of a split, beside `trials(split)`: list `e` of `test` is `trials("test_e")`."""
        return list(trial_lists(self.body).get(split, []))

    def trials(self, split: str) -> list[tuple[int, str, str]]:
        """Rows of (same speaker 1/0, key, key); `UserError` if that split has no trials, or a row is something else."""
        path = self.directory / f"trials-{plain_name(split, 'the name of a split', 'give the name of one')}.csv"
        if not path.is_file():
            raise UserError(f"{path}: no trials for split {split!r} in this corpus")
        rows = []
        with reading(path, "a list of trials", "prepare the corpus again"):
            for number, row in enumerate(csv.reader(io.StringIO(read_text(path), newline=""), strict=True), start=1):
                if len(row) != 3 or row[0] not in ("0", "1"):
                    raise UserError(
                        f"{path}, line {number}: {','.join(row)[:80]!r} instead of 1 (the same speaker) or 0, and two keys; "
                        "prepare the corpus again"
                    )
                rows.append((int(row[0]), row[1], row[2]))
        if not rows:
            raise UserError(f"{path}: holds no trials; prepare the corpus again")
        return rows
