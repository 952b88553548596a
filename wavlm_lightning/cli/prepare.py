"""`wavlm prepare RECIPE`: corpora."""

from __future__ import annotations

import argparse
from pathlib import Path


def main(argv: list[str]) -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="wavlm prepare", description="Make a corpus of WebDataset shards.")
    recipes = parser.add_subparsers(dest="recipe", required=True, metavar="RECIPE")

    mini = recipes.add_parser("mini", help="the embedded synthetic corpora, labelled for every task (needs [corpus])")
    mini.add_argument("--out", type=Path, required=True, help="folder that gets one corpus per data set")
    mini.add_argument(
        "--size", default="mini", choices=("tiny", "mini", "pretrain"), help="tiny: 5 min; mini: 3 h; pretrain: 20 h"
    )
    mini.add_argument(
        "--datasets", nargs="+", metavar="NAME", help="only these (pretrain pr ks ic sid sv sd er qbe sf)"
    )
    mini.add_argument("--seed", type=int, default=0)
    mini.add_argument("--workers", type=int, help="processes; one a core by default")

    folder = recipes.add_parser("folder", help="any folder of wav, flac, ogg or mp3 files, any rate")
    folder.add_argument("folder", type=Path, metavar="DIR", help="is searched with all folders below it")
    folder.add_argument("--out", type=Path, required=True, help="the corpus folder to make")
    folder.add_argument(
        "--manifest", type=Path, help="CSV with a `path` column and any of speaker, text, language, split, phones"
    )
    folder.add_argument(
        "--on-error", choices=("stop", "skip"), default="stop", help="what to do with a file that cannot be used"
    )
    folder.add_argument("--valid", type=float, default=0.05, help="share held out for validation (default 0.05)")
    folder.add_argument("--test", type=float, default=0.05, help="share held out for test (default 0.05)")
    folder.add_argument(
        "--split-by", choices=("auto", "speaker", "file"), default="auto", help="what is held out as a whole"
    )
    folder.add_argument("--name", help="name of the corpus; that of the folder by default")
    folder.add_argument("--licence", default="unknown", help="terms of use, kept in corpus.json")
    folder.add_argument("--workers", type=int, help="processes; one a core by default")

    arguments = parser.parse_args(argv)
    if arguments.recipe == "mini":
        from wavlm_lightning.data.mini import prepare_mini

        prepare_mini(arguments.out, arguments.size, arguments.datasets, arguments.seed, arguments.workers)
        print(f"made {arguments.out}")
        return 0
    from wavlm_lightning.data.folder import FolderRecipe

    corpus = FolderRecipe(
        folder=arguments.folder,
        out=arguments.out,
        manifest=arguments.manifest,
        on_error=arguments.on_error,
        valid=arguments.valid,
        test=arguments.test,
        split_by=arguments.split_by,
        name=arguments.name,
        licence=arguments.licence,
    ).prepare(arguments.workers)
    for split in corpus.splits:
        part = corpus.body["splits"][split]
        print(f"{split}: {part['utterances']} utterances, {part['hours']:.3f} h, {len(part['shards'])} shards")
    skipped = corpus.body["source"]["skipped"]
    if skipped:
        print(f"skipped {len(skipped)} files, listed in {arguments.out / 'corpus.json'} under source.skipped")
    print(f"made {arguments.out}")
    return 0
