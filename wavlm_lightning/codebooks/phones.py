"""Codebooks of kind `phones`: the classes are the phones of alignments (P-BERT, arXiv 2206.10125), silence among them.

The features of a frame are one-hot, and the centroids the unit vectors. So a phone codebook has the files of any other, and
labels, soft labels, hashes and scores need no second way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from wavlm_lightning.codebooks.codebook import Codebook
from wavlm_lightning.codebooks.features import FeatureSource
from wavlm_lightning.data.alignments import SILENCE, SPOKEN_NOISE, Aligned, AlignmentSet, Segment, frame_classes
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.shard_index import ShardIndex
from wavlm_lightning.encoder.checkpoints.labels_seen import LABELLED, entries_of
from wavlm_lightning.system.errors import UserError

KIND = "phones"
RATES = (50.0, 100.0)
REFUSE, LEAVE_OUT = "refuse", "leave-out"
STRESS = re.compile(r"(.*[A-Za-z])[0-2](_[BEIS])?")  # of CMU's and MFA's English phones: AH0, and with a position AH0_B
# Kaldi's positions of a phone in a word, by whether it begins and whether it ends it.
POSITION = {(True, False): "B", (False, True): "E", (False, False): "I", (True, True): "S"}
POSITIONS = "".join(POSITION.values())
LARGEST = 2**16


class PhoneTimes(FeatureSource):
    """The class of the phone in the middle of each frame, one-hot, from the alignments of a corpus.

    Args:
        alignments: of the corpus whose frames are wanted.
        description: of a codebook, see `describe`.
    """

    def __init__(self, alignments: AlignmentSet, description: dict[str, Any]) -> None:
        self.alignments, self.description = alignments, description
        self.rate = float(description["rate"])
        self.numbers = {name: number for number, name in enumerate(description["classes"])}
        self._last: tuple[ShardIndex, list[Aligned | None]] | None = None

    @classmethod
    def of_codebook(cls, codebook: Codebook, corpus: Corpus) -> PhoneTimes | None:
        """What a codebook reads of a corpus; None if it is of another kind.

        Raises:
            UserError: the corpus has no alignments of this name, or they are not those that the codebook was made of: another
                kind, teacher or settings made them, or, in the same corpus, their times have changed.
        """
        if codebook.features["kind"] != KIND:
            return None
        wanted, name = codebook.features, codebook.features["alignments"]
        found = AlignmentSet.open(corpus, name)
        again = f"make the codebook again with `wavlm codebook phones {corpus.directory} --alignments {name}`"
        if found.made_sha256 != wanted["made_sha256"]:
            raise UserError(
                f"{corpus.directory}: another kind, teacher or settings made its alignments {name!r} than those of the codebook; "
                f"align this corpus in the same way, or {again}"
            )
        if corpus.sha256 == wanted["corpus_sha256"] and found.times_sha256(wanted["splits"]) != wanted["times_sha256"]:
            raise UserError(
                f"{corpus.directory}: its alignments {name!r} have changed since the codebook was made; {again}"
            )
        source = cls(found, wanted)
        unknown = [each for each in class_names(found.inventory, wanted["stress"]) if each not in source._bare]
        if unknown:
            raise UserError(
                f"{corpus.directory}: its alignments {name!r} have the phone {unknown[0]!r}, which is no class of the codebook; "
                "make the codebook of the alignments that have all phones"
            )
        return source

    @property
    def _bare(self) -> set[str]:
        """The classes without positions."""
        if not self.description["positions"]:
            return set(self.numbers)
        return {re.sub(f"_[{POSITIONS}]$", "", name) for name in self.numbers}

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        raise UserError("phones are read from alignments, and not from audio; fit k-means to other features")

    def of(self, shard: ShardIndex, place: int) -> np.ndarray:
        """One-hot float32 `(frames, classes)` of an utterance; no frames if it has no alignment and those are left out."""
        if self._last is None or self._last[0] != shard:
            self._last = shard, self.alignments.of_shard(shard)
        one, key = self._last[1][place], shard.keys[place]
        if one is None:
            if self.description["unaligned"] == REFUSE:
                raise UserError(
                    f"{shard.path}: utterance {key!r} has no alignment; align it, or make the codebook with --unaligned "
                    "leave-out, so that pre-training leaves out such utterances"
                )
            return np.zeros((0, len(self.numbers)), np.float32)
        phones = one.phones
        if self.description["stress"] == "drop":
            phones = [phone._replace(name=without_stress(phone.name)) for phone in phones]
        if self.description["positions"]:
            phones = positional(phones, one.words, f"{shard.path}: utterance {key!r}")
        count = int(self.frames(np.array(shard.samples[place])))
        return np.eye(len(self.numbers), dtype=np.float32)[frame_classes(phones, count, self.rate, self.numbers)]

    def origin(self, shard: ShardIndex) -> dict[str, str]:
        """Metadata of the labels of a shard: the hash of its alignments, and how many utterances have none."""
        without = self.alignments.count(shard)
        more = {"unlabelled": str(without.utterances - without.aligned)} if without.utterances > without.aligned else {}
        return {"alignments_sha256": self.alignments.shard_sha256(shard)} | more

    def head(self) -> dict[str, Any]:
        """What `labels.json` says beside size, rate and hash."""
        seen = entries_of(self.alignments.labelled())
        more: dict[str, Any] = {LABELLED: seen} if seen else {}
        return more | ({"partial": True} if self.description["unaligned"] == LEAVE_OUT else {})

    def frames(self, samples: np.ndarray) -> np.ndarray:
        """As many as MFCC has at 100 Hz, and as the encoder has at 50 Hz."""
        return np.maximum((samples - 400) // round(16_000 / self.rate) + 1, 0)

    def describe(self) -> dict[str, Any]:
        return self.description


def phone_codebook(
    corpus: Corpus,
    alignments: str,
    rate: float = 50.0,
    positions: bool = False,
    stress: str = "keep",
    unaligned: str = REFUSE,
) -> Codebook:
    """A codebook whose classes are the phones of an alignment set, with silence (`SIL`) as the first.

    Args:
        corpus: that has the alignments.
        alignments: name of the set; `corpus` for the times in the corpus itself.
        rate: labels a second, 50 (the encoder's frames) or 100.
        positions: a class for each phone and its position in the word (`_B`, `_E`, `_I`, `_S`), from the times of the words.
        stress: `keep` or `drop` the digits of English vowels (`AH0`).
        unaligned: what `label_corpus` does with an utterance without alignment: `refuse`, or `leave-out`, which gives it no
            labels, so that pre-training does not read it.

    Raises:
        UserError: there is no such set, nothing in it is aligned, or an argument does not fit it.
    """
    if rate not in RATES:
        raise UserError(f"--rate {rate:g}: labels of phones have the rate 50 or 100")
    found = AlignmentSet.open(corpus, alignments)
    counts = {split: found.coverage(split) for split in found.splits}
    utterances, aligned, seconds = (sum(column) for column in zip(*counts.values(), strict=True))
    if not aligned:
        raise UserError(
            f"{corpus.directory}: alignments {alignments!r} hold no phone with times; align its utterances first"
        )
    if unaligned == REFUSE and aligned < utterances:
        raise UserError(
            f"{corpus.directory}: alignments {alignments!r} lack {utterances - aligned} of {utterances} utterances; align them, "
            "or give --unaligned leave-out, so that pre-training leaves them out"
        )
    names = class_names(found.inventory, stress)
    if len(names) < 2:
        raise UserError(
            f"{corpus.directory}: alignments {alignments!r} have one class, {names[0]!r}, so that there is nothing to predict; "
            "align with a head that hears phones"
        )
    if positions:
        names = positional_names(names, f"{corpus.directory}: alignments {alignments!r}")
    if len(names) > LARGEST:
        raise UserError(
            f"{corpus.directory}: alignments {alignments!r} have {len(names)} phones, labels at most {LARGEST}"
        )
    described = {"kind": KIND, "dim": len(names), "rate": float(rate), "alignments": alignments, "classes": names}
    described |= {"positions": positions, "stress": stress, "unaligned": unaligned, "made_sha256": found.made_sha256}
    times = found.times_sha256(found.splits)
    described |= {"corpus_sha256": corpus.sha256, "splits": found.splits, "times_sha256": times}
    fitted: dict[str, Any] = {"corpus": corpus.name, "alignments": found.about, "seconds": round(seconds, 3)}
    fitted |= {"utterances": aligned, "of_utterances": utterances}
    if labelled := found.labelled():
        fitted[LABELLED] = labelled
    return Codebook(np.eye(len(names), dtype=np.float32), float(rate), described, fitted, KIND)


def without_stress(name: str) -> str:
    """A phone without the digit of its stress.

    Example:
        >>> without_stress("AH0_B"), without_stress("SIL")
        ('AH_B', 'SIL')
    """
    found = STRESS.fullmatch(name)
    return name if found is None else found[1] + (found[2] or "")


def class_names(inventory: Sequence[str], stress: str) -> list[str]:
    """The classes of an inventory: silence, spoken noise if there is some, then the phones in order."""
    names = {without_stress(name) for name in inventory} if stress == "drop" else set(inventory)
    first = [SILENCE, *([SPOKEN_NOISE] if SPOKEN_NOISE in names else [])]
    return [*first, *sorted(names - {*first})]


def positional_names(names: Sequence[str], where: str) -> list[str]:
    """Each phone at the four positions of a word; silence and noise have none."""
    if had := next((name for name in names if re.search(f"_[{POSITIONS}]$", name)), None):
        raise UserError(f"{where} have phones with positions already, such as {had!r}; leave --positions out")
    outside = [name for name in names if name in (SILENCE, SPOKEN_NOISE)]
    return outside + [f"{name}_{each}" for name in names if name not in outside for each in POSITIONS]


def positional(phones: Sequence[Segment], words: Sequence[Segment] | None, where: str) -> list[Segment]:
    """Phones with their position in the word in whose time the middle of the phone lies.

    Raises:
        UserError: there are no words, or a phone other than silence and noise is in none.
    """
    if words is None:
        raise UserError(f"{where}: its alignment has no words; leave --positions out, or align with words")
    starts = np.array([word.start for word in words])
    ends = np.array([word.end for word in words])
    middles = np.array([(phone.start + phone.end) / 2 for phone in phones])
    of = np.searchsorted(starts, middles, side="right") - 1  # the word of each phone
    for place, phone in enumerate(phones):
        if phone.name in (SILENCE, SPOKEN_NOISE):
            of[place] = -1
        elif of[place] < 0 or middles[place] >= ends[of[place]]:
            raise UserError(
                f"{where}: phone {phone.name!r} at {phone.start:g} s lies in no word; leave --positions out, or align "
                "the words again"
            )
    named = []
    for place, phone in enumerate(phones):
        if of[place] < 0:
            named.append(phone)
            continue
        same = np.flatnonzero(of == of[place])
        begins_ends = bool(place == same[0]), bool(place == same[-1])
        named.append(phone._replace(name=f"{phone.name}_{POSITION[begins_ends]}"))
    return named
