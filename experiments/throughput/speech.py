"""Audio to train on: speech of the mini corpus, joined and cut to the lengths of read books."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from wavlm_lightning.audio import SAMPLE_RATE, encode_flac
from wavlm_lightning.codebooks import MfccFeatures, fit_kmeans, label_corpus
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.mini import prepare_mini
from wavlm_lightning.data.shards import Utterance

CLUSTERS = 100
"""Of HuBERT's first iteration, and of torchaudio's `hubert_pretrain_base`."""


def read_book(work: Path, seconds: float, count: int) -> tuple[Corpus, Path]:
    """A labelled corpus of utterances a little longer than `seconds`, and the same audio as FLAC files in a folder.

    Args:
        work: where both are made, unless they are there.
        seconds: length of the training crops.
        count: utterances.
    """
    folder = work / f"book-{seconds:g}s-{count}"
    files, corpus = folder / "files", folder / "corpus"
    if not (corpus / "labels" / "mfcc").is_dir():
        files.mkdir(parents=True, exist_ok=True)
        writer = CorpusWriter(corpus, "book", "CC0", {"recipe": "experiment"}, shard_seconds=600)
        writer.write_split("train", _pieces(mini(work, "pretrain"), seconds, count, files))
        opened = writer.finish({})
        label_corpus(opened, fit_kmeans(opened, MfccFeatures(level_normalised=True), CLUSTERS, restarts=1), "mfcc")
    return Corpus.open(corpus), files


def mini(work: Path, dataset: str) -> Corpus:
    """One corpus of the package's tiny set, made if it is not there."""
    folder = work / "tiny"
    if not (folder / dataset / "corpus.json").is_file():
        prepare_mini(folder, "tiny", [dataset], seed=0, workers=1, progress=False)
    return Corpus.open(folder / dataset)


def _pieces(corpus: Corpus, seconds: float, count: int, files: Path) -> Iterator[Utterance]:
    speech = np.concatenate([waveform for _, waveform, _ in corpus.split("train").utterances()])
    rng = np.random.default_rng(0)
    for number in range(count):
        length = int(seconds * rng.uniform(1.0, 1.2) * SAMPLE_RATE) + 1
        speech = np.tile(speech, length // len(speech) + 1)
        begin = int(rng.integers(len(speech) - length + 1))
        piece = speech[begin : begin + length]
        (files / f"u{number:04d}.flac").write_bytes(encode_flac(piece))
        yield Utterance(f"u{number:04d}", piece, {"speaker": "s"})
