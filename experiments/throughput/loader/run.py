"""How much audio does one core read? Our loader beside plain webdataset + soundfile, in turns; see README.md."""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch

import wavlm_lightning.data.shards as shards_module
from wavlm_lightning.audio import SAMPLE_RATE, encode_flac
from wavlm_lightning.codebooks import MfccFeatures, fit_kmeans, label_corpus
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.pretraining.data import PretrainingData

CROP = 15.625
A100 = {"Base": 2720, "Large": 1050}
"""Audio-seconds per second that one A100 trains at 40 % of its bf16 peak: the arithmetic of the README."""


def encode_wav(waveform: np.ndarray, sample_rate: int = SAMPLE_RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def encode_opus(waveform: np.ndarray, sample_rate: int = SAMPLE_RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, sample_rate, format="OGG", subtype="OPUS")
    return buffer.getvalue()


def pieces(speech: np.ndarray, low: float, high: float, hours: float) -> Iterator[Utterance]:
    """Stretches of speech of `low` to `high` seconds."""
    rng = np.random.default_rng(0)
    done, number = 0, 0
    while done < hours * 3600 * SAMPLE_RATE:
        length = int(rng.uniform(low, high) * SAMPLE_RATE)
        begin = int(rng.integers(len(speech) - length))
        yield Utterance(f"u{number:05d}", speech[begin : begin + length], {"speaker": "s"})
        done, number = done + length, number + 1


def make(folder: Path, speech: np.ndarray, hours: float) -> dict[str, Corpus]:
    """The corpora: LibriSpeech-like and one-minute pieces, as FLAC, and the former as WAV."""
    corpora = {}
    for name, low, high, encode in (
        ("flac", 12.0, 16.0, encode_flac),
        ("flac_long", 55.0, 65.0, encode_flac),
        ("wav", 12.0, 16.0, encode_wav),
    ):
        if not (folder / name / "corpus.json").is_file():
            shards_module.encode_flac = encode  # our recipes write FLAC; this is for the comparison alone
            writer = CorpusWriter(folder / name, name, "CC0", {"recipe": "experiment"}, shard_seconds=600)
            writer.write_split("train", pieces(speech, low, high, hours))
            corpus = writer.finish({})
            shards_module.encode_flac = encode_flac
            label_corpus(corpus, fit_kmeans(corpus, MfccFeatures(level_normalised=True), 20, restarts=1), "mfcc")
        corpora[name] = Corpus.open(folder / name)
    return corpora


def plain(corpus: Corpus, crop: float | None = None, seek: bool = False) -> Iterator[float]:
    """webdataset + soundfile: tar stream, decode, nothing else; seconds of each utterance as they come."""
    import webdataset

    rng = np.random.default_rng(0)

    def decode(sample: dict) -> np.ndarray:
        with soundfile.SoundFile(io.BytesIO(sample["flac"])) as file:
            if crop is None or file.frames <= crop * SAMPLE_RATE:
                return file.read(dtype="float32")
            begin = int(rng.integers(file.frames - int(crop * SAMPLE_RATE)))
            if seek:
                file.seek(begin)
                return file.read(int(crop * SAMPLE_RATE), dtype="float32")
            return file.read(dtype="float32")[begin : begin + int(crop * SAMPLE_RATE)]

    urls = [str(shard.path) for shard in corpus.split("train").shards]
    stream = webdataset.WebDataset(urls, shardshuffle=False).map(decode)
    return (len(waveform) / SAMPLE_RATE for waveform in stream)


def ours(
    corpus: Corpus, crop: float, labels: bool = True, noise: Corpus | None = None, noise_clips: float = 0.125
) -> Iterator[float]:
    """Training batches: bucketed, shuffled, cropped, with labels and, if given, noise clips."""
    data = PretrainingData(
        str(corpus.directory),
        labels="mfcc" if labels else None,
        valid_split=None,
        max_seconds=crop,
        noise_corpus=str(noise.directory) if noise else None,
        noise_clips=noise_clips,
    )
    data.setup("fit")
    loader = data.train_dataloader()
    return ((batch.audio.numel() + int(batch.noise_lengths.sum())) / SAMPLE_RATE for batch in loader)


def from_memory(files: list[bytes], crop: float | None) -> Iterator[float]:
    """soundfile alone, on bytes in memory."""
    rng = np.random.default_rng(0)
    for content in files:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            if crop is not None and file.frames > crop * SAMPLE_RATE:
                file.seek(int(rng.integers(file.frames - int(crop * SAMPLE_RATE))))
                yield len(file.read(int(crop * SAMPLE_RATE), dtype="float32")) / SAMPLE_RATE
            else:
                yield len(file.read(dtype="float32")) / SAMPLE_RATE


def compare(variants: dict[str, Callable[[], Iterator[float]]], rounds: int) -> dict[str, list[float]]:
    """Audio-seconds per CPU second of each variant in each round; the variants take turns, in another order each round."""
    rates: dict[str, list[float]] = {name: [] for name in variants}
    order = list(variants)
    for number in range(-1, rounds):  # one round unmeasured: caches, imports
        for name in order[number % len(order) :] + order[: number % len(order)]:
            stream = variants[name]()  # set-up comes once a run, so it is not counted on either side
            begin = time.process_time()
            seconds = sum(stream)
            if number >= 0:
                rates[name].append(seconds / (time.process_time() - begin))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpus", type=Path, required=True, help="speech: `wavlm prepare mini --datasets pretrain`")
    parser.add_argument("--out", type=Path, default=Path("runs/throughput_loader"))
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    speech = np.concatenate([waveform for _, waveform, _ in Corpus.open(arguments.corpus).split("train").utterances()])
    corpora = make(arguments.out, speech, arguments.hours)
    flac, long, wav = corpora["flac"], corpora["flac_long"], corpora["wav"]
    some = [utterance.waveform for utterance in pieces(speech, 55.0, 65.0, arguments.hours / 4)]
    encoded = {"FLAC": [encode_flac(w) for w in some], "WAV": [encode_wav(w) for w in some]}
    encoded["Opus"] = [encode_opus(w) for w in some]

    table = {
        "LibriSpeech-like FLAC (12-16 s, whole)": {
            "webdataset + soundfile": lambda: plain(flac),
            "ours": lambda: ours(flac, CROP),
            "ours, with noise clips": lambda: ours(flac, CROP, noise=long),
            "ours, with a noise clip for every crop": lambda: ours(flac, CROP, noise=long, noise_clips=1.0),
            "ours, without labels": lambda: ours(flac, CROP, labels=False),
        },
        "LibriSpeech-like WAV (12-16 s, whole)": {
            "webdataset + soundfile": lambda: plain(wav),
            "ours": lambda: ours(wav, CROP),
        },
        "one-minute FLAC, crops of 15.6 s": {
            "webdataset + soundfile, whole, then cut": lambda: plain(long, CROP),
            "webdataset + soundfile, crop only": lambda: plain(long, CROP, seek=True),
            "ours (crop only)": lambda: ours(long, CROP),
        },
        "soundfile alone, one-minute pieces, whole": {
            name: lambda files=files: from_memory(files, None) for name, files in encoded.items()
        },
        "soundfile alone, one-minute pieces, crops of 15.6 s": {
            name: lambda files=files: from_memory(files, CROP) for name, files in encoded.items()
        },
    }
    result = {}
    for title, variants in table.items():
        rates = compare(variants, arguments.rounds)
        result[title] = rates
        first = rates[next(iter(variants))]
        print(
            f"\n| {title} | audio-s per core-s | ratio to the first, median of rounds (lowest to highest) |\n|---|---|---|"
        )
        for name, values in rates.items():
            ratios = sorted(value / base for value, base in zip(values, first, strict=True))
            spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            print(f"| {name} | {statistics.median(values):,.0f} | {spread} |", flush=True)
    print(
        "\nMiB an hour: "
        + ", ".join(
            f"{name} {sum(map(len, files)) / (arguments.hours / 4) / 2**20:.0f}" for name, files in encoded.items()
        )
    )
    print(
        "\n| cores that feed one A100 at 40 % MFU | Base (2,720 audio-s/s) | Large (1,050 audio-s/s) |\n|---|---|---|"
    )
    for title, name in (
        ("LibriSpeech-like FLAC (12-16 s, whole)", "ours"),
        ("LibriSpeech-like WAV (12-16 s, whole)", "ours"),
        ("one-minute FLAC, crops of 15.6 s", "ours (crop only)"),
    ):
        rate = statistics.median(result[title][name])
        print(f"| {title} | " + " | ".join(f"{need / rate:.2f}" for need in A100.values()) + " |")
    (arguments.out / "rates.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
