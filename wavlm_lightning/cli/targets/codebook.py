"""`wavlm codebook fit`, `phones`, `apply`, `score`: codebooks, frame labels, and their quality or that of layers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavlm_lightning.system.arguments import whole

if TYPE_CHECKING:  # its import takes seconds, and help must come at once
    from wavlm_lightning.codebooks.layer_sweep import LayerSweep
    from wavlm_lightning.metrics import ClusterQuality

JOBS = "processes (default: one per GPU for layers, else one per core, fewer for little audio); results do not depend on it"
WHERE = "a corpus folder; `fit` and `score` take a URL, too"
REMOVE_MEAN = "of a layer: subtract the mean over the utterance (not published)"
ALIGNMENTS = "a set of `wavlm align`, or corpus for the times in the corpus' metadata (default)"
AUTO = "`auto` goes by the SLURM job array and the ranks of torchrun or srun"


def build_parser() -> argparse.ArgumentParser:
    """The parser of `wavlm codebook`; options of `fit` have the names of arguments of `fit_codebook`."""
    parser = argparse.ArgumentParser(prog="wavlm codebook", description="Offline tokenisers: one label per frame.")
    verbs = parser.add_subparsers(dest="verb", required=True)

    fit = verbs.add_parser("fit", help="k-means (or random codes) on MFCC, log-mel or a layer of an encoder")
    fit.add_argument("corpus", help=WHERE)
    fit.add_argument("--out", type=Path, required=True, help="folder of the codebook")
    many = "labels (100 for MFCC and 500 for layers in HuBERT, 8192 in BEST-RQ)"
    fit.add_argument("--clusters", type=whole, default=500, help=many)
    source = "mfcc (default), or context: log-mel with the frames around, less the utterance's mean"
    fit.add_argument("--features", choices=("mfcc", "context"), help=source)
    encoder = "cluster a layer of this encoder instead: a checkpoint, a run of pre-training, or a fine-tuned recogniser"
    fit.add_argument("--encoder", help=encoder)
    layer = "which layer of it (HuBERT: 6 in the second iteration, 9 in the third), or auto: see `score --encoder`"
    fit.add_argument("--layer", help=layer)
    fit.add_argument("--alignments", default="corpus", metavar="NAME", help=f"for --layer auto: {ALIGNMENTS}")
    how = "kmeans (default), or codes that need no fit: random (behind a random projection, BEST-RQ) or pca (behind a PCA)"
    fit.add_argument("--quantiser", choices=("kmeans", "random", "pca"), default="kmeans", help=how)
    dim = (
        "outputs of the PCA or projection (24 for k-means on context, 16 for random codes; k-means on others has none)"
    )
    fit.add_argument("--dim", type=int, help=dim)
    whiten = "give all outputs of the PCA one variance (default: only in front of random codes)"
    fit.add_argument("--whiten", action=argparse.BooleanOptionalAction, help=whiten)
    fit.add_argument("--rate", type=float, metavar="HZ", help="labels a second of mfcc (default 100) or context (50)")
    fit.add_argument("--context-ms", type=int, metavar="MS", help="of context, on each side (default 30)")
    fit.add_argument("--keep-mean", action="store_true", help="of context: leave the utterance's mean in")
    fit.add_argument("--remove-mean", action="store_true", help=REMOVE_MEAN)
    level = "scale utterances to one level before MFCC (not published)"
    fit.add_argument("--level-normalised", action="store_true", help=level)
    fit.add_argument("--split", default="train")
    seen = "of the utterances that k-means sees, if memory allows (HuBERT: 1.0 for MFCC, 0.1 for layers)"
    fit.add_argument("--share", type=float, default=1.0, help=seen)
    memory = "for features, all processes together (default: a quarter of all)"
    fit.add_argument("--memory", type=float, metavar="GIB", dest="memory_gib", help=memory)
    at_once = "label the corpus with it at once: shards whose features the fit holds are not read again"
    fit.add_argument("--apply", metavar="NAME", help=at_once)
    fit.add_argument("--restarts", type=whole, default=20, help="initialisations of k-means (published: 20)")
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

    score = verbs.add_parser(
        "score",
        help="purity and PNMI against phones with times: of labels, or of the layers of an encoder",
        description="Score labels (--name), or cluster the layers of an encoder (--encoder) and score each.",
    )
    score.add_argument("corpus", help=WHERE)
    what = score.add_mutually_exclusive_group(required=True)
    what.add_argument("--name", help="name of the label set")
    what.add_argument("--encoder", help="whose layers to cluster, see `fit`; one pass gives all of them")
    split = "to score (default: train for labels; for layers valid, if there is one)"
    score.add_argument("--split", help=split)
    score.add_argument("--alignments", default="corpus", metavar="NAME", help=ALIGNMENTS)
    layers = score.add_argument_group("layers of an --encoder")
    layers.add_argument("--layers", nargs="+", help="all (default), last-third, or numbers")
    layers.add_argument("--clusters", type=whole, help="of each layer (default 100)")
    layers.add_argument("--out", type=Path, help="folder of scores.json and the drawing layers.png")
    layers.add_argument("--fit-split", help="that k-means sees (default train)")
    layers.add_argument("--share", type=float, help="of its utterances, if memory allows (default 1.0)")
    layers.add_argument(
        "--memory", type=float, metavar="GIB", dest="memory_gib", help="for all layers (default: a quarter)"
    )
    layers.add_argument("--restarts", type=whole, help="initialisations of k-means (default 5)")
    layers.add_argument("--seed", type=int)
    layers.add_argument("--precision", choices=("fp32", "bf16"), help=precision)
    layers.add_argument("--remove-mean", action="store_const", const=True, help=REMOVE_MEAN)
    layers.add_argument("--jobs", type=whole, metavar="J", help=JOBS)
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
    seen = f"{fitted['frames']} frames of {fitted['utterances']} of {fitted['of_utterances']} utterances"
    if done.kind == "kmeans":
        print(f"{out}: {done.size} clusters at {done.rate:g} Hz from {seen}")
    else:
        print(f"{out}: {done.size} random codes at {done.rate:g} Hz; the statistics of their map are those of {seen}")
    if done.map is not None:
        kept = "" if done.map.explained is None else f" (PCA, {done.map.explained:.1%} of their variance)"
        print(f"{out}: features of {len(done.map.mean)} numbers are mapped to {done.map.dim}{kept}")
    if "layer_chosen_by" in fitted:
        print(f"{out}: layer {done.features['layer']} of {options['encoder']}, chosen by: {fitted['layer_chosen_by']}")
    if done.kind == "kmeans" and fitted["utterances"] < fitted["wanted_utterances"]:
        print(f"{fitted['wanted_utterances']} utterances were wanted; a larger --memory holds more of them")
    _print_labels_seen(fitted)
    if options["apply"] is not None:
        corpus, name = options["corpus"], options["apply"]
        print(f"{corpus}: labelled as {name!r}; next: wavlm codebook score {corpus} --name {name}")


def _print_labels_seen(fitted: dict[str, Any]) -> None:
    from wavlm_lightning.encoder.checkpoints.labels_seen import LABELLED, entries_of, said

    if seen := entries_of(fitted.get(LABELLED)):
        print(f"labels of {said(seen)} had a part in this codebook")


def _phones(out: Path, **options: Any) -> None:
    from wavlm_lightning.workflows.codebook import phone_codebook

    done = phone_codebook(out=out, **options)
    fitted = done.fitted
    print(
        f"{out}: {done.size} classes at {done.rate:g} Hz, silence among them, from alignments {options['alignments']!r} of "
        f"{fitted['utterances']} of {fitted['of_utterances']} utterances"
    )
    _print_labels_seen(fitted)


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


def _score(
    corpus: str, name: str | None, encoder: str | None, split: str | None, alignments: str, **sweep: Any
) -> None:
    from wavlm_lightning.system.errors import UserError
    from wavlm_lightning.workflows.codebook import score_codebook, score_layers

    given = {option: value for option, value in sweep.items() if value is not None}
    if encoder is not None:
        _print_layers(score_layers(corpus, encoder, split=split, alignments=alignments, **given), corpus, encoder)
        if "out" in given:
            print(f"{given['out']}: scores.json, layers.png")
        return
    if given:
        option = "--memory" if "memory_gib" in given else "--" + next(iter(given)).replace("_", "-")
        raise UserError(f"{option} is for the layers of an --encoder; leave it out for labels")
    assert name is not None, "argparse requires --name or --encoder"
    split = split or "train"
    if (quality := score_codebook(corpus, name, split, alignments)) is None:
        print(f"{corpus}: split {split!r} has no phones with times to compare with, or one phone alone")
    else:
        _print_quality(split, quality)


def _print_layers(sweep: LayerSweep, corpus: str, encoder: str) -> None:
    layer, rule = sweep.chosen()
    print("  layer   PNMI   phone purity   cluster purity   clusters in use   perplexity")
    for score in sweep.scores:
        found = score.quality
        figures = f"{'-':>6}{'-':>15}{'-':>17}"
        if found is not None:
            figures = f"{found.pnmi:6.3f}{found.phone_purity:15.3f}{found.cluster_purity:17.3f}"
        print(
            f"{'*' if score.layer == layer else ' '}{score.layer:6} {figures}{score.in_use:18}{score.perplexity:13.1f}"
        )
    of = sweep.scored
    print(
        f"{sweep.clusters} clusters a layer from {sweep.fitted['frames']} frames of {sweep.fitted['utterances']} utterances of "
        f"{sweep.fitted['split']}; scored on {of['frames']} frames of {of['utterances']} utterances of {of['split']}"
    )
    print(f"layer {layer} is chosen by: {rule}")
    mean = " --remove-mean" if sweep.fitted.get("mean_removed") else ""
    print(f"next: wavlm codebook fit {corpus} --encoder {encoder} --layer {layer}{mean} --out FOLDER")


def _print_quality(split: str, quality: ClusterQuality) -> None:
    print(
        f"{split}: phone purity {quality.phone_purity:.3f}, PNMI {quality.pnmi:.3f}, cluster purity "
        f"{quality.cluster_purity:.3f}, commonest label {quality.unigram:.3f}, perplexity {quality.perplexity:.1f}"
    )
