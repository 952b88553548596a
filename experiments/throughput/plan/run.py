"""How long opening and planning 94,000 hours takes, what memory it needs, and what batches of like lengths waste.

    python experiments/throughput/plan/run.py --out /tmp/plan

The corpus is a real one as far as opening and planning look: `corpus.json`, the file of lengths, and of each shard a tar,
an index and labels with true headers; what is never read (audio, members, labels) are holes in sparse files. Opening and
planning run in a process of their own, whose peak of memory is read after each stage.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.corpus import FORMAT
from wavlm_lightning.data.lengths import write_lengths
from wavlm_lightning.data.loading.batching import plan_batches
from wavlm_lightning.data.loading.shard_order import WINDOW
from wavlm_lightning.system.progress import progress_bar

RATE = 50.0
BYTES_PER_SAMPLE = 1.0
"""Of 16-bit FLAC of speech, about."""
LIBRISPEECH = {0.0: 1.4, 0.05: 3.2, 0.1: 4.9, 0.25: 10.9, 0.5: 14.0, 0.75: 15.2, 0.9: 15.9, 0.99: 16.6, 1.0: 24.5}
"""Quantiles of length in seconds close to those of LibriSpeech's 960 hours (mean 12.3 s)."""


def make(out: Path, hours: float) -> None:
    """Write the corpus."""
    rng = np.random.default_rng(0)
    count = round(hours * 3600 / 13.5)
    samples = (rng.triangular(1.5, 16.0, 23.0, count) * SAMPLE_RATE).astype(np.int64)
    places = np.searchsorted(np.cumsum(samples), np.arange(0, samples.sum(), 1800 * SAMPLE_RATE))
    folder = out / "labels" / "k500"
    folder.mkdir(parents=True, exist_ok=True)
    shards, book = [], hashlib.sha256(b"book").hexdigest()
    for number, part in enumerate(progress_bar(iterable=np.split(samples, places[1:]), desc="shards")):
        name, sha256 = f"train-{number:06d}", hashlib.sha256(b"%d" % number).hexdigest()
        size = int(part.sum() * BYTES_PER_SAMPLE) // 10240 * 10240
        with (out / f"{name}.tar").open("wb") as file:
            file.truncate(size)
        (out / f"{name}.index.json").write_text(json.dumps({"keys": [], "sha256": sha256}))
        starts = np.concatenate([[0], np.cumsum(part / SAMPLE_RATE * RATE).astype(np.int64)])
        head = {
            "__metadata__": {"codebook_sha256": book, "shard_sha256": sha256, "rate": str(RATE), "size": "500"},
            "starts": {"dtype": "I64", "shape": [len(starts)], "data_offsets": [0, starts.nbytes]},
            "labels": {
                "dtype": "U16",
                "shape": [int(starts[-1])],
                "data_offsets": [starts.nbytes, starts.nbytes + 2 * int(starts[-1])],
            },
        }
        text = json.dumps(head).encode()
        text += b" " * (-len(text) % 8)
        with (folder / f"{name}.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text + starts.tobytes())
            file.truncate(8 + len(text) + starts.nbytes + 2 * int(starts[-1]))
        facts = {"utterances": len(part), "samples": int(part.sum()), "bytes": size, "sha256": sha256}
        shards.append({"name": f"{name}.tar", **facts})
    head = {"size": 500, "rate": RATE, "codebook_sha256": book}
    (folder / "labels.json").write_text(json.dumps(head))
    lengths = write_lengths(out / "train.lengths.npy", samples)
    split = {"utterances": count, "hours": hours, "shards": shards, "lengths": lengths}
    body = {"format": FORMAT, "name": "generated", "licence": "", "source": {}, "sample_rate": SAMPLE_RATE}
    content = {**body, "splits": {"train": split}, "inventories": {}}
    (out / "corpus.json").write_text(json.dumps(content, indent=1))


def gigabytes() -> float:
    """Peak of this process' memory, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(out: Path, world_size: int) -> None:
    """Open and plan; print what each stage took."""
    from wavlm_lightning.data.loading.batching import BatchPlan
    from wavlm_lightning.pretraining import PretrainingData

    print(f"| imports | | | {gigabytes():.2f} |")
    begin, busy = time.perf_counter(), time.process_time()

    def row(name: str) -> None:
        nonlocal begin, busy
        now, used = time.perf_counter(), time.process_time()
        print(f"| {name} | {now - begin:.1f} | {used - busy:.1f} | {gigabytes():.2f} |", flush=True)
        begin, busy = now, used

    data = PretrainingData(str(out), "k500", valid_split=None)
    data.setup("fit")
    row(f"open {len(data._parts['train'].split):,} utterances in {len(data._parts['train'].split.shards):,} shards")
    loader = data.train_dataloader()
    row(f"plan an epoch of {len(loader):,} batches of one process")
    plan = loader.sampler
    assert isinstance(plan, BatchPlan)
    next(iter(plan))
    row("first batch")
    last = len(plan) - 1
    plan.begin = last
    assert len(list(plan)) == 1
    row(f"resume at batch {last:,}")
    many = BatchPlan(plan.samples, rank=world_size - 1, world_size=world_size, passes=plan.passes, **plan.plan)
    assert sum(1 for _ in many) == len(many)
    row(f"plan, and walk through all {len(many):,} batches of the last of {world_size} processes")


def waste() -> None:
    """Padding and cropping on LibriSpeech's lengths."""
    rng = np.random.default_rng(0)
    quantiles = rng.random(281_241)
    seconds = np.interp(quantiles, list(LIBRISPEECH), list(LIBRISPEECH.values()))
    samples = (seconds * SAMPLE_RATE).astype(np.int64)
    print(f"\nLibriSpeech-like: {len(samples):,} utterances, {seconds.sum() / 3600:.0f} h, mean {seconds.mean():.1f} s")
    print(
        "| batches | of 90 s | padded, share of the batch | cropped away, share of the audio | full |\n|---|---|---|---|---|"
    )
    for name, longest in (("whole utterances", None), ("crops of at most 15.625 s", 15.625)):
        lengths = samples if longest is None else np.minimum(samples, round(longest * SAMPLE_RATE))
        batches = plan_batches(samples, batch_seconds=90.0, max_seconds=longest, seed=0)
        audio = lengths.sum()
        held = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
        cut = sum(len(batch) * int(lengths[batch].min()) for batch in batches)
        full = held / (90.0 * SAMPLE_RATE * len(batches))
        print(f"| {name} | {len(batches):,} | {1 - audio / held:.2%} | {1 - cut / audio:.2%} | {full:.1%} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the generated corpus")
    parser.add_argument("--hours", type=float, default=94_000.0)
    parser.add_argument("--world-size", type=int, default=64)
    parser.add_argument("--measure", action="store_true", help="only open and plan, in this process")
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.out, arguments.world_size)
        sys.exit()
    if not (arguments.out / "corpus.json").is_file():
        make(arguments.out, arguments.hours)
    print(f"Windows of {WINDOW} shards\n\n| | s | CPU s | peak GiB |\n|---|---|---|---|", flush=True)
    subprocess.run([sys.executable, __file__, *sys.argv[1:], "--measure"], check=True)
    waste()
