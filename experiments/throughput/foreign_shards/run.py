"""How many crops does one core read from shards that others wrote? Ours and five formats of the same sounds; see README.md."""

from __future__ import annotations

import argparse
import io
import shutil
import statistics
import tarfile
import time
from pathlib import Path

import numpy as np
import soundfile

from wavlm_lightning.audio import SAMPLE_RATE, load_mono_bytes
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.system.command import wavlm

SECONDS, CROP = 4.0, 1.0
FORMATS = {  # row of the table -> suffix, sampling rate, form of libsndfile
    "wav, 16 kHz": ("wav", 16_000, ("WAV", "PCM_16")),
    "FLAC, 16 kHz": ("flac", 16_000, ("FLAC", "PCM_16")),
    "wav, 44.1 kHz": ("wav", 44_100, ("WAV", "PCM_16")),
    "mp3, 16 kHz": ("mp3", 16_000, ("MP3", "MPEG_LAYER_III")),
    "Opus, 48 kHz": ("opus", 48_000, ("OGG", "OPUS")),
}


def sound(seed: int, suffix: str, rate: int, form: tuple[str, str]) -> bytes:
    """An audio file of white noise, the hardest that FLAC can get."""
    waveform = np.random.default_rng(seed).uniform(-0.4, 0.4, int(SECONDS * rate)).astype(np.float32)
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, format=form[0], subtype=form[1])
    return buffer.getvalue()


def make_corpora(out: Path, utterances: int) -> dict[str, Corpus]:
    """Our shards, and for each format a tar that `wavlm prepare webdataset` indexes where it is."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    writer = CorpusWriter(out / "ours", "ours", "CC0", {"recipe": "noise"})
    ours = FORMATS["wav, 16 kHz"]
    waveforms = ((f"u{n:04d}", load_mono_bytes(sound(n, *ours), ".wav", f"u{n:04d}")) for n in range(utterances))
    writer.write_split("train", (Utterance(key, waveform, {}) for key, waveform in waveforms))
    corpora = {"ours": writer.finish({})}
    for place, (name, form) in enumerate(FORMATS.items()):
        path = out / f"theirs-{place}.tar"
        with tarfile.open(path, "w") as tar:
            for n in range(utterances):
                content = sound(n, *form)
                member = tarfile.TarInfo(f"u{n:04d}.{form[0]}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        wavlm("prepare", "webdataset", f"train={path}", "--out", out / f"indexed-{place}", "--workers", 1)
        corpora[name] = Corpus.open(out / f"indexed-{place}")
    return corpora


def crops_per_second(corpus: Corpus, crops: int, seed: int) -> float:
    """Random crops of 1 s read from random utterances, by second of CPU time."""
    split, rng = corpus.split("train"), np.random.default_rng(seed)
    size = round(CROP * SAMPLE_RATE)
    out = np.zeros(size, np.float32)
    begin = time.process_time()
    for number in rng.integers(0, len(split), crops):
        shard, place = split.locate(int(number))
        shard.waveform(place, int(rng.integers(0, round((SECONDS - CROP) * SAMPLE_RATE))), size, out=out)
    return crops / (time.process_time() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/foreign_shards"))
    parser.add_argument("--utterances", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    corpora = make_corpora(arguments.out, arguments.utterances)
    rates: dict[str, list[float]] = {name: [] for name in corpora}
    for turn in range(arguments.rounds + 1):
        for name, corpus in corpora.items():
            whole = name not in ("ours", "wav, 16 kHz", "FLAC, 16 kHz")  # a crop costs the decoding of the whole file
            rate = crops_per_second(corpus, 100 if whole else 1000, turn)
            if turn:  # the first turn opens the shards
                rates[name].append(rate)
    print("| shards | crops a second (lowest to highest) |\n|---|---|")
    for name, each in rates.items():
        print(f"| {name} | {statistics.median(each):,.0f} ({min(each):,.0f} to {max(each):,.0f}) |")


if __name__ == "__main__":
    main()
