"""`wavlm recipe NAME`: all stages of a published recipe, resumable and printable."""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavlm_lightning.system.command import wavlm
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.ledger import Ledger, Stage

if TYPE_CHECKING:
    from wavlm_lightning.workflows.recipe.stages import Road, RoadStage

LEDGER = "recipe.json"


def main(argv: list[str]) -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        prog="wavlm recipe",
        description="From a corpus to an exported encoder: for every configuration that the recipe needs, codebook, "
        "labels and pre-training. A second call finds finished stages; an interrupted one goes on where it stopped. "
        "Run it as one process (Lightning starts those of other GPUs); for jobs on several machines, let --dry-run "
        "print the commands.",
        usage="wavlm recipe RECIPE --corpus DIR --out DIR [options] [-- OPTIONS OF WAVLM FIT]",
        epilog="Everything after -- goes to every `wavlm fit`: -- --trainer.devices 8 --data.num_workers 8",
    )
    parser.add_argument("recipe", help="a file of configs/pretrain (wavlm_base, say), or the path of one of your own")
    parser.add_argument("--corpus", type=Path, required=True, help="the corpus to train on; gets the labels")
    parser.add_argument("--out", type=Path, required=True, help="folder for codebooks, runs and the encoder")
    parser.add_argument(
        "--corpus-of",
        action="append",
        default=[],
        metavar="CONFIGURATION=DIR",
        help="another corpus for one of the configurations (hubert_base_it1=data/librispeech, say); may be repeated",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="PATH",
        help="the encoder to go on from and to label with, instead of the one that the configuration names (`continue`)",
    )
    parser.add_argument("--noise-corpus", type=Path, help="instead of the noise corpora that configurations name")
    parser.add_argument("--dry-run", action="store_true", help="only print the commands that would run now")
    parser.add_argument(
        "--adopt",
        action="store_true",
        help="go on in a folder where commands printed by --dry-run have been run by hand",
    )
    parser.add_argument("--until", metavar="STAGE", help="stop after this stage (fit/hubert_base_it1, say)")
    parser.add_argument("--tag", help="put before the names of label sets: lets two runs label one corpus")
    parser.add_argument(
        "--memory", type=float, metavar="GIB", help="for features of k-means (default: a quarter of all)"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="J",
        help="processes that label (default: one a GPU for layers, one a core for MFCC)",
    )
    own, options = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    arguments = parser.parse_args(own)

    from wavlm_lightning.workflows.recipe.chain import chain
    from wavlm_lightning.workflows.recipe.stages import ENCODER, Road, going_on_from, option_groups

    configurations = chain(arguments.recipe)
    if arguments.checkpoint:
        configurations = going_on_from(configurations, arguments.checkpoint)
    road = Road(
        configurations,
        arguments.corpus,
        arguments.out,
        _corpora(arguments.corpus_of),
        arguments.noise_corpus,
        arguments.tag,
        arguments.memory,
        arguments.jobs,
        option_groups(options),
    )
    wanted = _until(road.stages, arguments.until)
    if arguments.dry_run:
        _show(road, wanted)
        return 0
    ledger = _open_ledger(road, arguments.adopt)
    for number, stage in enumerate(wanted, start=1):
        ledger.run(Stage(stage.name, partial(_do, stage)), number, len(wanted))
    last = wanted[-1]
    print(f"done: {arguments.out / ENCODER}" if last.name == "export" else f"done until {last.name}")
    return 0


def _corpora(pairs: list[str]) -> dict[str, Path]:
    """By configuration, its corpus."""
    for pair in pairs:
        if not all(pair.partition("=")):
            raise UserError(f"--corpus-of {pair}: write CONFIGURATION=DIR")
    return {name: Path(folder) for name, _, folder in (pair.partition("=") for pair in pairs)}


def _until(stages: list[RoadStage], name: str | None) -> list[RoadStage]:
    """The stages up to and with the one of that name."""
    names = [stage.name for stage in stages]
    if name is None:
        return stages
    if name not in names:
        raise UserError(f"--until {name}: no such stage; this recipe has {', '.join(names)}")
    return stages[: names.index(name) + 1]


def _open_ledger(road: Road, adopt: bool = False) -> Ledger:
    """The ledger of this very run.

    Args:
        road: the stages.
        adopt: begin in a folder that holds some of their products already; each stage checks what it finds.

    Raises:
        UserError: a corpus is missing, or the folder or the labels belong to another run.
    """
    from wavlm_lightning.data.corpus import Corpus

    path = road.out / LEDGER
    corpora = [Corpus.open(road.corpus_for(each)) for each in road.chain]
    noise = [Corpus.open(each) for each in road.noise_corpora()]
    ledger = Ledger(path, _settings(road, *([each.sha256 for each in some] for some in (corpora, noise))), "recipe")
    if path.is_file() or adopt:
        return ledger
    if road.out.is_dir() and any(road.out.iterdir()):
        raise UserError(
            f"{road.out}: not empty, and no {LEDGER} in it says of what; choose another --out, or give --adopt if commands "
            "of this recipe were run there by hand"
        )
    for each, corpus in zip(road.chain, corpora, strict=True):
        codebook, labels = each.recipe.codebook, corpus.directory / "labels" / str(road.label_set(each))
        # Labels of MFCC may be shared: the same codebook gives the same labels, and `codebook apply` refuses another.
        if codebook is not None and codebook.layer is not None and labels.is_dir():
            raise UserError(
                f"{labels}: another run has labelled this corpus under that name; give --tag WORD for names of your own"
            )
    return ledger


def _settings(road: Road, corpora: list[str], noise: list[str]) -> dict[str, Any]:
    """What the weights depend on."""
    from wavlm_lightning.workflows.recipe.stages import lasting

    def short_hash(content: dict[str, Any]) -> str:
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]

    return {
        "configurations": {each.name: short_hash(each.content) for each in road.chain},
        "corpora": corpora,
        "noise": noise,
        "tag": road.tag,
        "options of fit": lasting(road.options),
    }


def _do(stage: RoadStage) -> None:
    if stage.product is not None and stage.product.is_file():
        print(f"  {stage.product}: there already")
        return
    if stage.run_folder is not None and not stage.has_checkpoint:
        # Killed before it could write one: what else there is cannot be gone on with.
        shutil.rmtree(stage.run_folder / "checkpoints", ignore_errors=True)
    wavlm(*stage.words())


def _show(road: Road, stages: list[RoadStage]) -> None:
    """Print what would run, one command a line."""
    ledger = _open_ledger(road) if (road.out / LEDGER).is_file() else None
    for number, stage in enumerate(stages, start=1):
        made = stage.product is not None and stage.product.is_file()
        done = ledger is not None and (ledger.is_done(stage.name) or made)
        print(f"# {number}/{len(stages)} {stage.name}: {'done before' if done else stage.headline}")
        if not done:
            print(f"wavlm {shlex.join(stage.words())}")
