"""`wavlm prepare RECIPE`: make a corpus of WebDataset shards."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from wavlm_lightning.data.corpora import RECIPES
from wavlm_lightning.data.foreign import FORMATS
from wavlm_lightning.data.foreign.options import add_division, add_writing
from wavlm_lightning.system.plugins import is_dotted, registered_corpora
from wavlm_lightning.workflows.corpus.prepare import prepare, recipe_named, summary


def main(argv: list[str]) -> int:
    """Run `wavlm prepare`."""
    arguments = build_parser(argv).parse_args(argv)
    if arguments.recipe == "mini":
        from wavlm_lightning.data.mini import prepare_mini

        prepare_mini(arguments.out, arguments.size, arguments.datasets, arguments.seed, arguments.workers)
    elif arguments.recipe == "folder":
        from wavlm_lightning.data.folder import FolderRecipe

        # All other options of `prepare folder` have the names of its fields.
        fields = {name: value for name, value in vars(arguments).items() if name not in ("recipe", "workers")}
        print("\n".join(summary(FolderRecipe(**fields).prepare(arguments.workers))))
    elif arguments.recipe in FORMATS:
        print("\n".join(summary(importlib.import_module(FORMATS[arguments.recipe]).prepare(arguments))))
    else:
        where = arguments.recipe, arguments.folder, arguments.out
        print("\n".join(summary(prepare(*where, arguments, arguments.workers, arguments.on_error))))
    print(f"made {arguments.out}")
    return 0


def build_parser(argv: list[str]) -> argparse.ArgumentParser:
    """The parser of `wavlm prepare`; if `argv` begins with the name or dotted path of a recipe, no other is imported."""
    parser = argparse.ArgumentParser(
        prog="wavlm prepare",
        description="Make a corpus of WebDataset shards. A recipe of your own (`wavlm new corpus NAME`) is named by its "
        "dotted path: `wavlm prepare my_corpus.MyCorpus DIR --out CORPUS`.",
    )
    recipes = parser.add_subparsers(dest="recipe", required=True, metavar="RECIPE")

    from wavlm_lightning.data.mini import DATASETS

    mini = recipes.add_parser("mini", help="the embedded synthetic corpora, labelled for every task (needs [corpus])")
    mini.add_argument("--out", type=Path, required=True, help="folder that gets one corpus per data set")
    sizes = "tiny: 10 min; mini: 10 h, 1 h of it to pre-train on; medium and pretrain: the same with 3 and 20 h to pre-train on"
    mini.add_argument("--size", default="mini", choices=("tiny", "mini", "medium", "pretrain"), help=sizes)
    mini.add_argument("--datasets", nargs="+", metavar="NAME", help=f"only these: {' '.join(DATASETS)}")
    mini.add_argument("--seed", type=int, default=0)
    mini.add_argument("--workers", type=int, help="processes; one per core by default")

    folder = recipes.add_parser("folder", help="any folder of wav, flac, ogg or mp3 files, any rate")
    _add_common(folder, "is searched with all folders below it")
    columns = (
        "CSV or TSV with a `path` column and any of speaker, text, language, split, phones, start and end (seconds), channel "
        "(from 0), keyword, emotion, intent:SLOT; a column audio:NAME (audio:clean, audio:enrolment) holds paths of further "
        "audio of an utterance; or jsonl (audio_filepath, offset, duration, text, ...)"
    )
    folder.add_argument("--manifest", type=Path, help=columns)
    add_division(folder)

    registered = registered_corpora()
    ours = {*RECIPES, *FORMATS, "mini", "folder"}
    chosen = argv[0] if argv and (argv[0] in {*ours, *registered} or is_dotted(argv[0])) else None
    for name, module in FORMATS.items():
        if chosen in (None, name):
            foreign = importlib.import_module(module)
            parser_of_format = recipes.add_parser(name, help=foreign.HELP, description=foreign.__doc__)
            parser_of_format.formatter_class = argparse.RawDescriptionHelpFormatter
            foreign.add_arguments(parser_of_format)
    if chosen is None:
        for name, point in registered.items():
            recipes.add_parser(name, help=f"registered: {point.value}")  # listed without importing it
    for name in RECIPES if chosen is None else {chosen} - {"mini", "folder", *FORMATS}:
        recipe = recipe_named(name)
        corpus = recipes.add_parser(name, help=recipe.HELP, description=recipe.__doc__)
        corpus.formatter_class = argparse.RawDescriptionHelpFormatter
        _add_common(corpus, "holds the corpus as published, unpacked")
        partial = "warn of counts that differ from the official ones, instead of an error"
        corpus.add_argument("--allow-partial", action="store_true", help=partial)
        recipe.add_arguments(corpus)
    return parser


def _add_common(parser: argparse.ArgumentParser, folder: str) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help=folder)
    add_writing(parser)
