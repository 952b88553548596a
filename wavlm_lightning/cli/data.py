"""`wavlm data info CORPUS`, `wavlm data check CORPUS` and `wavlm data permute CORPUS --out DIR`."""

from __future__ import annotations

import argparse
from pathlib import Path


def main(argv: list[str]) -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="wavlm data", description="What is in a corpus, and is it whole.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    where = "a corpus folder, or the URL of one (https://..., s3://...)"
    named = "only these label sets; those behind a URL must be named, since a server does not list its files"
    info = verbs.add_parser("info", help="hours, speakers, lengths, labels and a histogram")
    info.add_argument("corpus", help=where)
    info.add_argument(
        "--speakers",
        action="store_true",
        help="count speakers of large splits, too: reads the metadata of every utterance",
    )
    info.add_argument("--labels", nargs="+", default=[], metavar="NAME", help=named)
    check = verbs.add_parser(
        "check", help="read every shard, index and label file; say what is damaged and what to run"
    )
    check.add_argument("corpus", help=where)
    check.add_argument("--jobs", type=_whole, help="processes; one a core by default")
    check.add_argument("--labels", nargs="+", default=[], metavar="NAME", help=named)
    check.add_argument("--quick", action="store_true", help="compare sizes only, without reading shards")
    permute = verbs.add_parser("permute", help="a copy with the labels on the wrong utterances: a control for any task")
    permute.add_argument("corpus")
    permute.add_argument("--out", type=Path, required=True, help="the corpus folder to make")
    permute.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)

    from wavlm_lightning.data.corpus import Corpus

    corpus = Corpus.open(arguments.corpus)
    if arguments.verb == "permute":
        from wavlm_lightning.data.shuffled_labels import permute_labels

        print(f"made {permute_labels(corpus, arguments.out, arguments.seed).directory}")
        return 0
    if arguments.verb == "info":
        from wavlm_lightning.workflows.corpus.info import info as show

        return show(corpus, arguments.speakers, arguments.labels)
    from wavlm_lightning.workflows.corpus.check import check as examine

    return examine(corpus, arguments.jobs, arguments.quick, arguments.labels)


def _whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text}")
    return value
