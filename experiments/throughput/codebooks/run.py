"""Hours of audio labelled an hour: cepstra, a layer of tiny, a layer of Base; one process against two, in turn.

    python experiments/throughput/codebooks/run.py --out runs/throughput_codebooks

Weights are random: they do not change the time. Utterances are 12 s of noise-like sound, as FLAC.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from wavlm_lightning.codebooks import Codebook, FeatureSource, LayerFeatures, MfccFeatures
from wavlm_lightning.codebooks.labelling import Labeller
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.system.worker_pool import in_order, one_thread

SECONDS = 12.0
SHARDS = 8


def corpus(folder: Path, shards: int, a_shard: int) -> Corpus:
    """Shards of equal length; coloured noise, which FLAC cannot predict away."""
    rng = np.random.default_rng(0)
    tone = np.sin(np.arange(int(SECONDS * 16_000)) * 0.05).astype("f4")

    def utterances():
        for number in range(shards * a_shard):
            noise = np.convolve(rng.normal(size=len(tone)), np.ones(4) / 4, mode="same").astype("f4")
            yield Utterance(f"u{number}", 0.05 * noise + 0.1 * tone, {"speaker": "s"})

    writer = CorpusWriter(folder, "throughput", "CC0", {}, shard_seconds=a_shard * SECONDS)
    writer.write_split("train", utterances())
    return writer.finish({})


def encoder(folder: Path, preset: str) -> Path:
    torch.manual_seed(0)
    WavLM(WavLMConfig.preset(preset)).save_pretrained(folder / preset)
    return folder / preset


def codebook(source: FeatureSource, clusters: int) -> Codebook:
    """Centroids at random, of the right shape."""
    centroids = np.random.default_rng(0).normal(size=(clusters, source.describe()["dim"])).astype("f4")
    return Codebook(centroids, source.rate, source.describe(), {})


class Timed(Labeller):
    """A labeller that also returns the processor time of each shard."""

    def __call__(self, place):
        began = time.process_time()
        super().__call__(place)
        return time.process_time() - began


def measure(audio: Corpus, book: Codebook, jobs: int) -> float:
    """Hours an hour of one core: by processor time, since the machine is shared; the start of processes apart."""
    labels = audio.directory / "labels"
    shutil.rmtree(labels, ignore_errors=True)
    labels.mkdir()
    split = audio.split("train")
    places = [("train", number) for number in range(len(split.shards))]
    seconds = list(in_order(partial(Timed, audio.directory, labels, book), places, jobs))
    return split.seconds / len(places) / statistics.median(seconds)


def batched(source: LayerFeatures, size: int) -> float:
    """Time of utterances one by one over that of a batch of equal ones: above 1, batches help."""
    waveforms = torch.randn(size, int(SECONDS * 16_000)) * 0.05

    def run(batch: torch.Tensor) -> None:
        features, lengths = source.encoder.features(batch)
        source.encoder.contextualise(source.encoder.project(features)[0], lengths, keep=[source.layer])

    ratios = []
    with torch.no_grad(), one_thread():
        for _ in range(3):
            began = time.perf_counter()
            for row in waveforms:
                run(row[None])
            middle = time.perf_counter()
            run(waveforms)
            ratios.append((middle - began) / (time.perf_counter() - middle))
    return statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--minutes", type=float, default=6.0, help="of audio for a layer of Base; others get 2 and 15 times"
    )
    parser.add_argument("--only", nargs="+", help="some of MFCC, tiny, Base")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.out, ignore_errors=True)
    kinds = {
        "MFCC": (MfccFeatures(), 100, 15),
        "layer 2 of tiny": (LayerFeatures(encoder(arguments.out, "tiny"), 2), 500, 2),
        "layer 6 of Base": (LayerFeatures(encoder(arguments.out, "base"), 6), 500, 1),
    }
    results = {}
    for name, (source, clusters, factor) in kinds.items():
        if arguments.only and name.split()[-1] not in arguments.only:
            continue
        a_shard = max(1, round(arguments.minutes * factor * 60 / SECONDS / SHARDS))
        audio, book = corpus(arguments.out / "corpus", SHARDS, a_shard), codebook(source, clusters)
        pairs = [[measure(audio, book, jobs) for jobs in (1, 2)] for _ in range(arguments.rounds)]
        one, two = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(second / first for first, second in pairs)
        results[name] = {
            "1 job": one,
            "2 jobs": two,
            "ratio": ratio,
            "hours of audio": audio.split("train").seconds / 3600,
        }
        if isinstance(source, LayerFeatures):
            results[name]["batch of 4"] = batched(source, 4)
        print(name, json.dumps(results[name]), flush=True)
    (arguments.out / "result.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
