"""`wavlm codebook fit`, `phones`, `apply` and `score`: codebooks, frame labels, and their quality."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavlm_lightning.system.arguments import whole

if TYPE_CHECKING:  # its import takes seconds, and help must come at once
    from wavlm_lightning.metrics import ClusterQuality

JOBS = "processes (default: one per GPU for layers, else one per core, fewer for little audio); results do not depend on it"
WHERE = "a corpus folder; `fit` and `score` take a URL, too"
AUTO = "`auto` goes by the SLURM job array and the ranks of torchrun or srun"


def build_parser() -> argparse.ArgumentParser:
    """The parser of `wavlm codebook`; options of `fit` have the names of arguments of `fit_codebook`."""
    parser = argparse.ArgumentParser(prog="wavlm codebook", description="Offline tokenisers: one label per frame.")
    verbs = parser.add_subparsers(dest="verb", required=True)

    fit = verbs.add_parser("fit", help="k-means on MFCC or on a layer of an encoder")
    fit.add_argument("corpus", help=WHERE)
    fit.add_argument("--out", type=Path, required=True, help="folder of the codebook")
    fit.add_argument("--clusters", type=int, default=500, help="labels (100 for MFCC and 500 for layers in HuBERT)")
    fit.add_argument("--encoder", help="cluster a layer of this encoder instead of MFCC")
    fit.add_argument("--layer", type=int, help="which layer of it (HuBERT: 6 in the second iteration, 9 in the third)")
    level = "scale utterances to one level before MFCC (not published)"
    fit.add_argument("--level-normalised", action="store_true", help=level)
    fit.add_argument("--split", default="train")
    seen = "of the utterances that k-means sees, if memory allows (HuBERT: 1.0 for MFCC, 0.1 for layers)"
    fit.add_argument("--share", type=float, default=1.0, help=seen)
    memory = "for features, all processes together (default: a quarter of all)"
    fit.add_argument("--memory", type=float, metavar="GIB", dest="memory_gib", help=memory)
    fit.add_argument("--restarts", type=int, default=20, help="initialisations of k-means (published: 20)")
    fit.add_argument("--seed", type=int, default=0)
    precision = "of the encoder; bf16 is faster on GPUs; `apply` uses the same as `fit`"
    fit.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help=precision)
    fit.add_argument("--jobs", type=whole, metavar="J", help=JOBS)
    part = "only extract a part of the features, kept in OUT/features for the fit without --part that comes after all parts"
    fit.add_argument("--part", metavar="I/N", help=f"{part}; needs --memory, the same everywhere; {AUTO}")

    phones = verbs.add_parser("phones", help="a class for each phone of the alignments of a corpus")
    phones.add_argument("corpus", help="a corpus folder")
    times = "set of `wavlm align --name`, or `corpus` for the times in the corpus itself (default)"
    phones.add_argument("--alignments", metavar="NAME", default="corpus", help=times)
    phones.add_argument("--out", type=Path, required=True, help="folder of the codebook")
    rate = "labels a second: 50, the encoder's frames (default), or 100"
    phones.add_argument("--rate", type=float, choices=(50.0, 100.0), default=50.0, metavar="50|100", help=rate)
    positions = "a class for each phone and its position in the word (_B, _E, _I, _S), from the times of the words"
    phones.add_argument("--positions", action="store_true", help=positions)
    stress = "the digits of English vowels (AH0; default: keep)"
    phones.add_argument("--stress", choices=("keep", "drop"), default="keep", help=stress)
    unaligned = (
        "utterances without alignment: refuse (default), or leave-out: no labels, and pre-training leaves them out"
    )
    phones.add_argument("--unaligned", choices=("refuse", "leave-out"), default="refuse", help=unaligned)

    apply = verbs.add_parser("apply", help="label every shard of a corpus")
    apply.add_argument("codebook", type=Path)
    apply.add_argument("corpus", help=WHERE)
    apply.add_argument("--name", required=True, help="name of the label set")
    apply.add_argument("--splits", nargs="+", help="only these splits")
    apply.add_argument("--jobs", type=whole, metavar="J", help=JOBS)
    shards = f"only every N-th shard, from the I-th on, for job arrays; {AUTO}"
    apply.add_argument("--part", metavar="I/N", default="1/1", help=shards)

    posteriors = "keep the K nearest clusters a frame and their posteriors, too (`soft: true` of MaskedPrediction)"
    apply.add_argument("--soft", type=whole, metavar="K", help=posteriors)
    fitting = "of the posteriors softmax(-distance^2 / T) (default: the mean margin between the second and the nearest cluster)"
    apply.add_argument("--temperature", type=float, metavar="T", help=fitting)

    score = verbs.add_parser("score", help="purity and PNMI against the corpus' phone alignments")
    score.add_argument("corpus", help=WHERE)
    score.add_argument("--name", required=True, help="name of the label set")
    score.add_argument("--split", default="train")
    return parser


def main(argv: list[str]) -> int:
    """Run `wavlm codebook`."""
    options = vars(build_parser().parse_args(argv))
    verbs: dict[str, Callable[..., None]] = {"fit": _fit, "phones": _phones, "apply": _apply, "score": _score}
    verbs[options.pop("verb")](**options)
    return 0


def _fit(out: Path, **options: Any) -> None:
    from wavlm_lightning.workflows.codebook import fit_codebook

    done = fit_codebook(out=out, **options)
    if isinstance(done, int):
        said = "groups of utterances are there; after all parts, the same command without --part fits"
        print(f"{out / 'features'}: {done} {said}")
        return
    fitted = done.fitted
    print(
        f"{out}: {done.size} clusters at {done.rate:g} Hz from {fitted['frames']} frames of "
        f"{fitted['utterances']} of {fitted['of_utterances']} utterances"
    )
    if fitted["utterances"] < fitted["wanted_utterances"]:
        print(f"{fitted['wanted_utterances']} utterances were wanted; a larger --memory holds more of them")


def _phones(out: Path, **options: Any) -> None:
    from wavlm_lightning.workflows.codebook import phone_codebook

    done = phone_codebook(out=out, **options)
    fitted = done.fitted
    print(
        f"{out}: {done.size} classes at {done.rate:g} Hz, silence among them, from alignments {options['alignments']!r} of "
        f"{fitted['utterances']} of {fitted['of_utterances']} utterances"
    )
    if labelled := fitted.get("labelled"):
        print(
            f"labels of {labelled['utterances']} utterances ({labelled['seconds'] / 3600:.2f} h) of {labelled['corpus']} made them"
        )


def _apply(**options: Any) -> None:
    from wavlm_lightning.workflows.codebook import apply_codebook

    done = apply_codebook(**options)
    of = f" of part {done.part.number + 1}/{done.part.of}" if done.part.of > 1 else ""
    print(f"{done.folder}: {done.shards} shards{of} labelled now")
    print(f"{done.folder}: {done.usage}")
    if done.soft is not None and done.usage.soft_share is not None:
        print(
            f"{done.folder}: {done.soft.labels} soft labels a frame at temperature {done.soft.temperature:g} hold "
            f"{100 * done.usage.soft_share:.1f} % of the posterior"
        )
    for split, quality in done.quality.items():
        _print_quality(split, quality)


def _score(corpus: str, name: str, split: str) -> None:
    from wavlm_lightning.workflows.codebook import score_codebook

    if (quality := score_codebook(corpus, name, split)) is None:
        print(f"{corpus}: split {split!r} has no phone alignments to compare with")
    else:
        _print_quality(split, quality)


def _print_quality(split: str, quality: ClusterQuality) -> None:
    print(
        f"{split}: phone purity {quality.phone_purity:.3f}, PNMI {quality.pnmi:.3f}, cluster purity "
        f"{quality.cluster_purity:.3f}, commonest label {quality.unigram:.3f}, perplexity {quality.perplexity:.1f}"
    )
