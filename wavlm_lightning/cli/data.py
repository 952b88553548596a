"""`wavlm data info`, `wavlm data check` and `wavlm data permute`: what a corpus holds, and whether it is whole."""

from __future__ import annotations

import argparse
from pathlib import Path

from wavlm_lightning.system.arguments import whole
from wavlm_lightning.system.errors import UserError


def build_parser() -> argparse.ArgumentParser:
    """The parser of `wavlm data`."""
    parser = argparse.ArgumentParser(prog="wavlm data", description="What is in a corpus, and is it whole.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    where = "a corpus folder, or the URL of one (https://..., s3://...)"
    named = "only these label sets; those behind a URL must be named, since a server does not list its files"
    info = verbs.add_parser("info", help="hours, speakers, lengths, labels and a histogram")
    info.add_argument("corpus", help=where)
    info.add_argument("--speakers", action="store_true", help="count speakers of large splits, too: reads all metadata")
    info.add_argument("--labels", nargs="+", default=[], metavar="NAME", help=named)
    check = verbs.add_parser(
        "check", help="read every shard, index and label file; say what is damaged and what to run"
    )
    check.add_argument("corpus", help=where)
    check.add_argument("--jobs", type=whole, help="processes; one per core by default")
    check.add_argument("--labels", nargs="+", default=[], metavar="NAME", help=named)
    check.add_argument("--quick", action="store_true", help="compare sizes only, without reading shards")
    permute = verbs.add_parser("permute", help="a copy with the labels on the wrong utterances: a control for any task")
    permute.add_argument("corpus")
    permute.add_argument("--out", type=Path, required=True, help="the corpus folder to make")
    permute.add_argument("--seed", type=int, default=0)
    members = "audio members that change places instead of the labels, such as the enrolment of target-speaker tasks"
    permute.add_argument("--audio", nargs="+", default=[], metavar="NAME", help=members)
    return parser


def main(argv: list[str]) -> int:
    """Run `wavlm data`; a `UserError` if `check` found a fault, or if the corpus cannot be used."""
    arguments = build_parser().parse_args(argv)

    if arguments.verb == "permute":
        from wavlm_lightning.data.corpus import Corpus
        from wavlm_lightning.data.shuffled_labels import permute_labels

        corpus = Corpus.open(arguments.corpus)
        print(f"made {permute_labels(corpus, arguments.out, arguments.seed, arguments.audio).directory}")
    elif arguments.verb == "info":
        from wavlm_lightning.workflows.corpus.info import info

        print("\n".join(info(arguments.corpus, arguments.speakers, arguments.labels)))
    else:
        from wavlm_lightning.workflows.corpus.check import check

        found = check(arguments.corpus, arguments.jobs, arguments.quick, arguments.labels)
        for line in found.faults:
            print(line)
        if found.error:
            raise UserError(found.error)
        print(found.summary)
    return 0
