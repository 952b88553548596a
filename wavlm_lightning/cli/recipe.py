"""`wavlm recipe NAME`: all stages of a published recipe, which can be printed, stopped and resumed."""

from __future__ import annotations

import argparse
from pathlib import Path

from wavlm_lightning.system.arguments import whole


def build_parser() -> argparse.ArgumentParser:
    """The parser of `wavlm recipe`; names of options are those of arguments of `run_recipe`."""
    parser = argparse.ArgumentParser(
        prog="wavlm recipe",
        description="From a corpus to an exported encoder: codebook, labels and pre-training for every configuration "
        "that the recipe needs, then the fine-tunings that it names, with their tests. A second call skips finished stages "
        "and resumes an interrupted one. Run it as one process (Lightning starts those of other GPUs); for jobs on several "
        "machines, let --dry-run print the commands.",
        usage="wavlm recipe RECIPE --corpus DIR --out DIR [options] [-- OPTIONS OF WAVLM FIT]",
        epilog="Everything after -- is passed to every `wavlm fit` of pre-training: -- --trainer.devices 8 --data.num_workers 8",
    )
    parser.add_argument("recipe", help="a file of configs/pretrain (wavlm_base, say), or the path of your own")
    parser.add_argument("--corpus", type=Path, required=True, help="the training corpus; labels are written into it")
    parser.add_argument("--out", type=Path, required=True, help="folder for codebooks, runs and the encoder")
    other = (
        "another corpus for a configuration (hubert_base_it1=data/librispeech, er_large=data/iemocap); may be repeated"
    )
    parser.add_argument("--corpus-of", action="append", default=[], metavar="CONFIGURATION=DIR", help=other)
    labelled = (
        "the corpus with labels, for the recipes that learn from them (ctc_clustering, pbert, pbert_ils, noisy_student)"
    )
    parser.add_argument("--labelled", type=Path, metavar="DIR", help=labelled)
    source = (
        "the encoder to continue from and to label with, instead of the configuration's (`continue`); of the recipes "
    )
    source += "that learn from labels, the encoder that is fine-tuned first, instead of one that the chain trains"
    parser.add_argument("--checkpoint", metavar="PATH", help=source)
    layer = "layer of the encoder that makes the labels, from 1, instead of the configuration's"
    parser.add_argument("--layer", type=whole, metavar="N", help=layer)
    parser.add_argument(
        "--clusters", type=whole, metavar="N", help="size of the codebook, instead of the configuration's"
    )
    parser.add_argument("--noise-corpus", type=Path, help="instead of the noise corpora that configurations name")
    parser.add_argument("--dry-run", action="store_true", help="only print the commands that would run now")
    by_hand = "continue in a folder where commands printed by --dry-run were run by hand"
    parser.add_argument("--adopt", action="store_true", help=by_hand)
    parser.add_argument("--until", metavar="STAGE", help="stop after this stage (fit/hubert_base_it1, say)")
    parser.add_argument("--tag", help="prefix for the names of label sets: lets two runs label one corpus")
    memory = "memory for features of k-means (default: a quarter of all)"
    parser.add_argument("--memory", type=float, metavar="GIB", dest="memory_gib", help=memory)
    jobs = "labelling processes (default: one per GPU for layers, per core for MFCC)"
    parser.add_argument("--jobs", type=int, metavar="J", help=jobs)
    return parser


def main(argv: list[str]) -> int:
    """Run the stages, or print them."""
    cut = argv.index("--") if "--" in argv else len(argv)
    options = vars(build_parser().parse_args(argv[:cut]))

    from wavlm_lightning.system.errors import UserError
    from wavlm_lightning.workflows.recipe import run_recipe

    corpus_of = {}
    for pair in options.pop("corpus_of"):
        name, _, folder = pair.partition("=")
        if not name or not folder:
            raise UserError(f"--corpus-of {pair}: write CONFIGURATION=DIR")
        corpus_of[name] = Path(folder)
    encoder = run_recipe(options=argv[cut + 1 :], corpus_of=corpus_of, **options)
    if not options["dry_run"]:
        print(f"done: {encoder}" if encoder else f"done until {options['until']}")
    return 0
