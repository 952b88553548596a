"""`wavlm codebook fit`, `apply` and `score`."""

from __future__ import annotations

import argparse
from pathlib import Path

JOBS = "processes (default: one a GPU for layers, else one a core, as far as the audio is worth it); any number gives the same"
WHERE = "a corpus folder; `fit` and `score` take a URL, too"
AUTO = "`auto` goes by the SLURM job array and the ranks of torchrun or srun"


def main(argv: list[str]) -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="wavlm codebook", description="Offline tokenisers: one label a frame.")
    verbs = parser.add_subparsers(dest="verb", required=True)

    fit = verbs.add_parser("fit", help="k-means on MFCC or on a layer of an encoder")
    fit.add_argument("corpus", help=WHERE)
    fit.add_argument("--out", type=Path, required=True, help="folder that gets the codebook")
    fit.add_argument("--clusters", type=int, default=500, help="labels (100 for MFCC and 500 for layers in HuBERT)")
    fit.add_argument("--encoder", help="cluster a layer of this encoder instead of MFCC")
    fit.add_argument("--layer", type=int, help="which layer of it (HuBERT: 6 in the second iteration, 9 in the third)")
    fit.add_argument(
        "--level-normalised", action="store_true", help="scale utterances to one level before MFCC (not published)"
    )
    fit.add_argument("--split", default="train")
    fit.add_argument(
        "--share",
        type=float,
        default=1.0,
        help="of the utterances that k-means sees, as far as memory goes (HuBERT: 1.0 for MFCC, 0.1 for layers)",
    )
    fit.add_argument(
        "--memory", type=float, metavar="GIB", help="for features, all processes together (default: a quarter of all)"
    )
    fit.add_argument("--restarts", type=int, default=20, help="initialisations of k-means (published: 20)")
    fit.add_argument("--seed", type=int, default=0)
    fit.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="of the encoder; bf16 is quicker on GPUs, and `apply` does as `fit` did",
    )
    fit.add_argument("--jobs", type=_whole, metavar="J", help=JOBS)
    fit.add_argument(
        "--part",
        metavar="I/N",
        help="only extract a part of the features, kept in OUT/features for the fit without --part that comes after all "
        f"parts; needs --memory, the same everywhere; {AUTO}",
    )

    apply = verbs.add_parser("apply", help="label every shard of a corpus")
    apply.add_argument("codebook", type=Path)
    apply.add_argument("corpus", help=WHERE)
    apply.add_argument("--name", required=True, help="what to call this set of labels")
    apply.add_argument("--splits", nargs="+", help="only these splits")
    apply.add_argument("--jobs", type=_whole, metavar="J", help=JOBS)
    apply.add_argument(
        "--part", metavar="I/N", default="1/1", help=f"only every N-th shard, from the I-th on, for job arrays; {AUTO}"
    )

    score = verbs.add_parser("score", help="purity and PNMI against the corpus' phone alignments")
    score.add_argument("corpus", help=WHERE)
    score.add_argument("--name", required=True)
    score.add_argument("--split", default="train")

    arguments = parser.parse_args(argv)
    return {"fit": _fit, "apply": _apply, "score": _score}[arguments.verb](arguments)


def _whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text}")
    return value


def _fit(arguments: argparse.Namespace) -> int:
    from wavlm_lightning.codebooks import FeatureSource, LayerFeatures, MfccFeatures, fit_kmeans
    from wavlm_lightning.codebooks.job_shards import Part
    from wavlm_lightning.codebooks.kmeans import extract_part, forget
    from wavlm_lightning.data.corpus import Corpus
    from wavlm_lightning.system.errors import UserError

    if (arguments.encoder is None) != (arguments.layer is None):
        raise UserError("--encoder and --layer go together; give both or neither (MFCC)")
    if arguments.part and arguments.memory is None:
        raise UserError("--part needs --memory GIB: by it all parts know which utterances there are; give all the same")
    if arguments.precision != "fp32" and not arguments.encoder:
        raise UserError("--precision is for layers of an --encoder; leave it out for MFCC")
    source: FeatureSource
    if arguments.encoder:
        source = LayerFeatures(arguments.encoder, arguments.layer, precision=arguments.precision)
    else:
        source = MfccFeatures(arguments.level_normalised)
    corpus, keep = Corpus.open(arguments.corpus), arguments.out / "features"
    drawn = {
        "split": arguments.split,
        "share": arguments.share,
        "memory_gib": arguments.memory,
        "seed": arguments.seed,
        "jobs": arguments.jobs,
        "keep": keep,
    }
    if arguments.part:
        groups = extract_part(corpus, source, Part.parse(arguments.part), **drawn)
        print(f"{keep}: {groups} groups of utterances are there; after all parts, the same command without --part fits")
        return 0
    codebook = fit_kmeans(corpus, source, arguments.clusters, restarts=arguments.restarts, **drawn)
    codebook.save(arguments.out)
    forget(keep)
    fitted = codebook.fitted
    print(
        f"{arguments.out}: {codebook.size} clusters at {codebook.rate:g} Hz from {fitted['frames']} frames of "
        f"{fitted['utterances']} of {fitted['of_utterances']} utterances"
    )
    if fitted["utterances"] < fitted["wanted_utterances"]:
        print(f"{fitted['wanted_utterances']} utterances were wanted; a larger --memory holds more of them")
    return 0


def _apply(arguments: argparse.Namespace) -> int:
    from wavlm_lightning.codebooks import Codebook, label_corpus
    from wavlm_lightning.codebooks.job_shards import Part
    from wavlm_lightning.data.corpus import Corpus

    corpus, part = Corpus.open(arguments.corpus), Part.parse(arguments.part)
    codebook = Codebook.load(arguments.codebook)
    done = label_corpus(corpus, codebook, arguments.name, arguments.splits, arguments.jobs, part)
    of = f" of part {part.number + 1}/{part.of}" if part.of > 1 else ""
    print(f"{corpus.directory / 'labels' / arguments.name}: {done} shards{of} labelled now")
    if part.of > 1:
        return 0  # the quality is that of all labels: `wavlm codebook score`
    for split in arguments.splits or corpus.splits:
        _print_quality(corpus, arguments.name, split)
    return 0


def _score(arguments: argparse.Namespace) -> int:
    from wavlm_lightning.data.corpus import Corpus

    if not _print_quality(Corpus.open(arguments.corpus), arguments.name, arguments.split):
        print(
            f"{arguments.corpus}: no phone alignments in split {arguments.split!r}, so there is nothing to compare with"
        )
    return 0


def _print_quality(corpus, name: str, split: str) -> bool:
    from wavlm_lightning.codebooks.quality import label_quality

    quality = label_quality(corpus, name, split)
    if quality is not None:
        print(
            f"{split}: phone purity {quality.phone_purity:.3f}, PNMI {quality.pnmi:.3f}, cluster purity "
            f"{quality.cluster_purity:.3f}, commonest label {quality.unigram:.3f}, perplexity {quality.perplexity:.1f}"
        )
    return quality is not None
