"""`wavlm data info CORPUS`, `wavlm data check CORPUS` and `wavlm data permute CORPUS --out DIR`."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path


def main(argv: list[str]) -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="wavlm data", description="What is in a corpus, and is it whole.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in (("info", "hours, utterances and labels"), ("check", "hash every shard and compare")):
        verbs.add_parser(verb, help=text).add_argument("corpus", type=Path)
    permute = verbs.add_parser("permute", help="a copy with the labels on the wrong utterances: a control for any task")
    permute.add_argument("corpus", type=Path)
    permute.add_argument("--out", type=Path, required=True, help="the corpus folder to make")
    permute.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)

    from wavlm_lightning.data.corpus import Corpus

    corpus = Corpus.open(arguments.corpus)
    if arguments.verb == "permute":
        from wavlm_lightning.data.permuted import permute_labels

        print(f"made {permute_labels(corpus, arguments.out, arguments.seed).directory}")
        return 0
    return info(corpus) if arguments.verb == "info" else check(corpus)


def info(corpus) -> int:
    """Print what a corpus holds."""
    import numpy as np

    from wavlm_lightning.audio import SAMPLE_RATE

    print(f"{corpus.name} ({corpus.directory}), licence: {corpus.body['licence']}")
    for name in corpus.splits:
        split = corpus.split(name)
        seconds = split.samples / SAMPLE_RATE
        speakers = {meta.get("speaker") for meta in split.metas()} - {None}
        low, middle, high = np.percentile(seconds, [5, 50, 95])
        print(
            f"  {name}: {len(split)} utterances, {split.seconds / 3600:.3f} h, {len(speakers)} speakers, "
            f"{len(split.shards)} shards; length 5 % {low:.2f} s, median {middle:.2f} s, 95 % {high:.2f} s"
        )
    for name, labels in corpus.inventories.items():
        if isinstance(labels, dict):
            print(f"  {name}: " + ", ".join(f"{key} {len(values)}" for key, values in labels.items()))
        else:
            print(f"  {name}: {len(labels)}")
    for path in sorted(corpus.directory.glob("labels/*/labels.json")):
        print(f"  frame labels: {path.parent.name}")
    return 0


def check(corpus) -> int:
    """Compare every shard with its hash."""
    from wavlm_lightning.errors import UserError
    from wavlm_lightning.progress import progress_bar

    shards = [shard for name in corpus.splits for shard in corpus.split(name).shards]
    wrong = []
    for shard in progress_bar(iterable=shards, desc="shards"):
        with shard.path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                wrong.append(shard.path.name)
    if wrong:
        raise UserError(f"{corpus.directory}: damaged shards: {', '.join(wrong)}; prepare the corpus again")
    print(f"{corpus.directory}: {len(shards)} shards are whole")
    return 0
