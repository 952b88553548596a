"""Codebooks on disk: fit one to a corpus, label a corpus with it, score labels or the layers of an encoder against phones.

The Python side of `wavlm codebook fit`, `apply` and `score`; the parts are in `wavlm_lightning.codebooks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from wavlm_lightning.codebooks import (
    Codebook,
    ContextFeatures,
    FeatureSource,
    LayerFeatures,
    LayerStack,
    MfccFeatures,
    fit_random_codes,
    label_corpus,
)
from wavlm_lightning.codebooks.extraction import HeldFeatures
from wavlm_lightning.codebooks.job_shards import JobShard
from wavlm_lightning.codebooks.kmeans import check_clusters, extract_part, fit_and_hold, remove_features
from wavlm_lightning.codebooks.label_files import labels_directory
from wavlm_lightning.codebooks.labels import label_head
from wavlm_lightning.codebooks.layer_sweep import BY_POSITION, LayerSweep, last_third, layer_by_position, sweep_layers
from wavlm_lightning.codebooks.phones import phone_codebook as of_phones
from wavlm_lightning.codebooks.projection import Projection
from wavlm_lightning.codebooks.quality import label_quality, timed_phones
from wavlm_lightning.codebooks.soft_labels import SoftSetting
from wavlm_lightning.codebooks.usage import LabelUsage, label_usage, write_usage
from wavlm_lightning.data.alignments import OWN
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.remote.mirror import is_remote
from wavlm_lightning.encoder.checkpoints.labels_seen import LABELLED, Entry, labels_seen
from wavlm_lightning.metrics import ClusterQuality
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import check_output, own_folder, write_json
from wavlm_lightning.upstreams.run_checkpoints import HEAD_KEY, newest_checkpoint, read_entries
from wavlm_lightning.upstreams.wavlm import load_encoder

AUTO = "auto"  # a layer that is chosen
SWEEP_RESTARTS = 5  # initialisations of k-means on each layer of a sweep
DIM = {"kmeans": 24, "random": 16, "pca": 16}  # outputs of the map of log-mel with context; random codes: BEST-RQ's 16


def fit_codebook(
    corpus: Path | str,
    out: Path,
    clusters: int = 500,
    *,
    features: str | None = None,
    quantiser: str = "kmeans",
    dim: int | None = None,
    whiten: bool | None = None,
    rate: float | None = None,
    context_ms: int | None = None,
    keep_mean: bool = False,
    remove_mean: bool = False,
    encoder: str | None = None,
    layer: int | str | None = None,
    alignments: str = OWN,
    precision: str = "fp32",
    level_normalised: bool = False,
    restarts: int = 20,
    part: str | None = None,
    apply: str | None = None,
    **sample: Any,
) -> Codebook | int:
    """Make a codebook of the frames of a corpus, by k-means or with random codes, and save it.

    Args:
        corpus: folder or URL of the corpus.
        out: folder of the codebook.
        clusters: number of labels (HuBERT: 100 for MFCC, 500 for layers; BEST-RQ: 8192).
        features: `mfcc`, or `context`: log-mel with its context, less the utterance's mean; None is MFCC, or the layer of
            `encoder`.
        quantiser: `kmeans`; `random`, random codes behind a random projection (BEST-RQ); `pca`, the same behind a PCA.
        dim: outputs of the map in front of the codes: by default 24 (PCA) for k-means on `context`, none for k-means on
            anything else, 16 for random codes.
        whiten: give all outputs of a PCA the same variance; by default only in front of random codes.
        rate: labels a second of MFCC (100 by default) and `context` (50), 50 or 100.
        context_ms: see `ContextFeatures`; 30 by default.
        keep_mean: leave the utterance's mean in `context`.
        remove_mean: subtract it from a layer of `encoder`.
        encoder: checkpoint of an encoder, see `LayerFeatures`: also the run of a recogniser that trained its encoder (CTC
            clustering).
        layer: of the encoder; `auto` takes the best of `score_layers` if utterances have phones with times, else that of
            `layer_by_position`.
        alignments: for `auto`: the set of alignments, `corpus` for the times in the corpus' metadata.
        precision: of the encoder, `fp32` or `bf16`.
        level_normalised: see `MfccFeatures`.
        restarts: initialisations of k-means.
        part: `I/N` or `auto`: only extract the features of a part, for a later call without it.
        apply: name of a label set: label all splits of the corpus at once, the shards whose features the fit holds without
            computing them again. `apply_codebook` afterwards finds them done.
        sample: `split`, `share`, `memory_gib`, `seed` and `jobs` of `fit_kmeans`.

    Returns:
        The codebook; with `part` the number of groups of utterances whose features are in `out / "features"`. Labels of people
        that the encoder has learned from are in `fitted["labelled"]`.

    Raises:
        UserError: arguments do not fit together, the corpus or encoder cannot be used, `out` holds another codebook, or another
            process writes there.
    """
    check_output(out)
    check_clusters(clusters)
    if apply is not None and part:
        raise UserError(
            "--apply and --part: a part makes no codebook; give --apply to the fit that comes after all parts"
        )
    if (encoder is None) != (layer is None):
        raise UserError("--encoder and --layer go together; give both or neither (MFCC)")
    if part and sample.get("memory_gib") is None:
        raise UserError("--part needs --memory GIB, the same for all parts: it decides which utterances are drawn")
    if precision != "fp32" and not encoder:
        raise UserError("--precision is for layers of an --encoder; leave it out for MFCC")
    kind = _kind(features, encoder, {"rate": rate, "context_ms": context_ms, "keep_mean": keep_mean or None})
    if remove_mean and encoder is None:
        raise UserError(
            "--remove-mean is for layers of an --encoder; log-mel with context has no mean unless --keep-mean"
        )
    if alignments != OWN and layer != AUTO:
        raise UserError(f"--alignments {alignments}: only --layer {AUTO} compares with phones; leave it out")
    if level_normalised and kind != "mfcc":
        raise UserError(f"--level-normalised is for MFCC; leave it out for {_called(kind)}")
    projection = _projection(kind, quantiser, dim, whiten)
    if quantiser != "kmeans" and part:
        raise UserError(
            f"--part is for k-means; --quantiser {quantiser} sees so few frames that one process draws them"
        )
    if part and layer == AUTO:
        raise UserError(
            "--part and --layer auto: find the layer first (`wavlm codebook score --encoder`), then give its number"
        )
    seen = labels_behind(encoder) if encoder is not None else []  # before hours of features
    source: FeatureSource | None = None
    if encoder is not None and layer != AUTO:
        source = LayerFeatures(encoder, _number(layer), precision=precision, mean_removed=remove_mean)
    opened, keep = Corpus.open(corpus), out / "features"
    if apply is not None and is_remote(opened.directory):
        raise UserError("--apply writes labels beside the shards, which is not possible on a server; leave it out")
    if apply is not None and not (labels := labels_directory(opened, apply)).is_dir():
        check_output(labels, "labels")  # before hours of features
    shard = JobShard.parse(part) if part else JobShard()
    with own_folder(out, "codebook fit", part=(shard.number, shard.of)):
        drawn = {"split": "train", "share": 1.0, "seed": 0} | sample
        asked = {"kind": quantiser, "size": clusters, "corpus_sha256": opened.sha256}
        asked |= {name: drawn[name] for name in ("split", "share", "seed")}
        _leave_another(out, **asked)  # before hours of features
        chosen: dict[str, Any] = {}
        if encoder is not None and source is None:
            layer, chosen = _choose_layer(opened, out, encoder, clusters, alignments, precision, remove_mean, sample)
            source = LayerFeatures(encoder, layer, precision=precision, mean_removed=remove_mean)
        elif kind == "context":
            source = ContextFeatures(rate or 50.0, 30 if context_ms is None else context_ms, mean_removed=not keep_mean)
        elif source is None:
            source = MfccFeatures(level_normalised, rate or 100.0)
        _leave_another(out, features=source.describe())
        if part:
            return extract_part(opened, source, shard, keep, projection=projection, **sample)
        held: HeldFeatures | None = None
        if quantiser == "kmeans":
            codebook, held = fit_and_hold(
                opened, source, clusters, restarts=restarts, keep=keep, projection=projection, **sample
            )
        else:
            assert projection is not None, "random codes have a map"
            codebook = fit_random_codes(opened, source, clusters, projection, **sample)
        codebook.fitted.update(chosen)
        if seen:
            codebook.fitted[LABELLED] = seen
        _leave_another(out, sha256=codebook.sha256)
        codebook.save(out)
        remove_features(keep)
        if apply is not None:
            label_corpus(opened, codebook, apply, jobs=sample.get("jobs", 1), held=held)
    return codebook


def _leave_another(out: Path, **made: Any) -> None:
    """Refuse to write over another codebook, without which no further corpus gets labels like those that it has made.

    Args:
        out: folder of the codebook.
        made: what is known of the new one, under the names of `codebook.json` and of its `fitted`.

    Raises:
        UserError: a whole codebook is there, and it differs in one of them.
    """
    try:
        codebook = Codebook.load(out)
    except UserError:  # there is none, or it is damaged, and is to be made again
        return
    there = {**vars(codebook), **codebook.fitted, "size": codebook.size, "sha256": codebook.sha256}
    if changed := [name for name in made if there.get(name, made[name]) != made[name]]:
        raise UserError(
            f"{out}: holds another codebook (not the same {', '.join(changed)}), which labels may be of; choose another --out, "
            "or remove the folder"
        )


def _kind(features: str | None, encoder: str | None, of_context: dict[str, Any]) -> str:
    """The kind of features that the options name; a UserError says which of them do not fit together."""
    if features not in (None, "mfcc", "context"):
        raise UserError(f"--features {features}: there are mfcc and context")
    if features is not None and encoder is not None:
        raise UserError(f"--features {features} and --encoder are two sources; give one of them")
    kind = "layer" if encoder is not None else features or "mfcc"
    fitting = {"layer": (), "mfcc": ("rate",), "context": tuple(of_context)}[kind]
    for name, value in of_context.items():
        if value is not None and name not in fitting:
            option = "--" + name.replace("_", "-")
            raise UserError(
                f"{option} is for --features context{' or mfcc' if name == 'rate' else ''}; leave it out for {_called(kind)}"
            )
    return kind


def _called(kind: str) -> str:
    return {"layer": "layers of an encoder", "mfcc": "MFCC", "context": "log-mel with context"}[kind]


def _projection(kind: str, quantiser: str, dim: int | None, whiten: bool | None) -> Projection | None:
    """The map to fit in front of the codes; None for k-means on features as they are."""
    if quantiser not in DIM:
        raise UserError(f"--quantiser {quantiser}: there are {', '.join(DIM)}")
    if whiten is not None and quantiser == "random":
        raise UserError("--whiten and --no-whiten are for a PCA; the random projection sees standardised features")
    if quantiser == "kmeans" and kind != "context" and dim is None:
        if whiten is not None:
            raise UserError("--whiten needs a PCA in front of k-means; give its outputs as --dim")
        return None
    random = quantiser != "kmeans"
    outputs, by_default = DIM[quantiser] if dim is None else dim, quantiser == "pca"
    return Projection(
        "random" if quantiser == "random" else "pca",
        outputs,
        by_default if whiten is None else whiten,
        unit_norm=random,
    )


def _number(layer: int | str | None) -> int:
    try:
        return int(str(layer))
    except ValueError as error:
        raise UserError(f"--layer {layer}: give a number, or {AUTO}") from error


def _choose_layer(
    corpus: Corpus,
    out: Path,
    encoder: str,
    clusters: int,
    alignments: str,
    precision: str,
    remove_mean: bool,
    sample: dict[str, Any],
) -> tuple[int, dict[str, Any]]:
    """The layer that `--layer auto` takes, and what `codebook.json` says of the choice."""
    fit_split = sample.get("split", "train")
    split = _to_score(corpus, None, fit_split)
    if alignments == OWN and not any(timed_phones(corpus, split)):
        layer, rule = layer_by_position(load_encoder(encoder).config.layers), BY_POSITION
        return layer, {"layer_chosen_by": rule}
    options = {name: value for name, value in sample.items() if name != "split"}
    sweep = _sweep(corpus, encoder, None, clusters, split, fit_split, alignments, precision, remove_mean, options)
    write_sweep(sweep, out)
    layer, rule = sweep.chosen()
    return layer, {"layer_chosen_by": rule}


def labels_behind(encoder: str | Path) -> list[Entry]:
    """The labelled speech that an encoder has learned from, an entry a corpus; empty if it has seen none.

    Runs that fine-tuned their encoder in an older version do not say so: their labels are counted in their corpus.

    Raises:
        UserError: that corpus is gone.
    """
    path = newest_checkpoint(Path(encoder))
    if (seen := labels_seen(path)) or path.suffix != ".ckpt" or not path.exists():
        return seen
    if HEAD_KEY not in read_entries(path):
        return []
    # All of our tasks: seconds that other codebooks need not wait.
    from wavlm_lightning.tasks.pseudo_labels import counts_of
    from wavlm_lightning.workflows.predict.run_data import data_of_run

    try:
        data = data_of_run(path.parent.parent, None)
        return [counts_of(data.corpus, data.training_split())]
    except UserError as error:
        raise UserError(
            f"{encoder}: it learned from labels that its checkpoint, of an older version, does not count, and they cannot be "
            f"counted now ({error}); put its corpus and its config.yaml back, or train it again"
        ) from error


def score_layers(
    corpus: Path | str,
    encoder: str,
    layers: str | Sequence[str | int] = "all",
    clusters: int = 100,
    *,
    split: str | None = None,
    fit_split: str = "train",
    alignments: str = OWN,
    precision: str = "fp32",
    remove_mean: bool = False,
    out: Path | None = None,
    **sample: Any,
) -> LayerSweep:
    """Cluster several layers of an encoder from one pass, and compare the clusters of each with phones.

    Args:
        corpus: folder or URL of the corpus.
        encoder: as of `fit_codebook`.
        layers: `all`, `last-third`, or numbers.
        clusters: of each layer; compare scores only at equal numbers.
        split: to score; None takes `valid` if the corpus has it (unseen speakers), else `fit_split`.
        fit_split: that k-means sees.
        alignments: `corpus` for the times in the corpus' metadata, or the name of a set that `wavlm align` has written.
        precision: of the encoder.
        remove_mean: subtract the utterance's mean from each layer first.
        out: folder of `scores.json` and `layers.png`; None writes nothing.
        sample: `share`, `memory_gib`, `seed`, `restarts` and `jobs` of `sweep_layers`.

    Returns:
        The scores; `chosen()` names a layer and the rule that chose it.

    Raises:
        UserError: there is no such layer, split or set of alignments, or the corpus or encoder cannot be used.
    """
    if out is not None:
        check_output(out)
    opened = Corpus.open(corpus)
    numbers = _numbers(encoder, [layers] if isinstance(layers, str) else layers)
    where = _to_score(opened, split, fit_split)
    with nullcontext() if out is None else own_folder(out, "codebook score"):
        sweep = _sweep(opened, encoder, numbers, clusters, where, fit_split, alignments, precision, remove_mean, sample)
        if out is not None:
            write_sweep(sweep, out)
    return sweep


def _numbers(encoder: str, layers: Sequence[str | int]) -> list[int] | None:
    """The layers of an option `--layers`; None for all."""
    words = [str(each) for each in layers]
    if words == ["all"]:
        return None
    if words == ["last-third"]:
        return last_third(load_encoder(encoder).config.layers)
    if not words or not all(word.isdecimal() for word in words):
        raise UserError(f"--layers {' '.join(words)}: give all, last-third, or numbers")
    return sorted({int(word) for word in words})


def _to_score(corpus: Corpus, split: str | None, fit_split: str) -> str:
    if split is not None:
        return split
    return "valid" if "valid" in corpus.splits else fit_split


def _sweep(
    corpus: Corpus,
    encoder: str,
    layers: list[int] | None,
    clusters: int,
    split: str,
    fit_split: str,
    alignments: str,
    precision: str,
    remove_mean: bool,
    sample: dict[str, Any],
) -> LayerSweep:
    source = LayerStack(encoder, layers, precision=precision, mean_removed=remove_mean)
    options = {"restarts": SWEEP_RESTARTS, **sample}
    return sweep_layers(corpus, source, clusters, split, fit_split, alignments, **options)


def write_sweep(sweep: LayerSweep, out: Path) -> None:
    """Write `scores.json` and the drawing `layers.png` of a sweep to a folder."""
    from wavlm_lightning.reports.plots import draw_layer_scores
    from wavlm_lightning.reports.theme import new_figure, save_png, style

    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "scores.json", sweep.body(), indent=1)
    known = {score.layer: score.quality for score in sweep.scores if score.quality is not None}
    lines = {"PNMI": {layer: each.pnmi for layer, each in known.items()}}
    lines["phone purity"] = {layer: each.phone_purity for layer, each in known.items()}
    if not known:
        lines = {"perplexity of the clusters": {score.layer: score.perplexity for score in sweep.scores}}
    with style():
        figure = new_figure(6.4, 3.6)
        draw_layer_scores(figure.subplots(), lines, sweep.chosen()[0], f"{sweep.clusters} clusters a layer")
    save_png(figure, out / "layers.png")


def phone_codebook(corpus: Path | str, out: Path, alignments: str = OWN, **settings: Any) -> Codebook:
    """Make a codebook whose classes are the phones of an alignment set, and save it.

    Args:
        corpus: folder of the corpus.
        out: folder of the codebook.
        alignments: name of the set, made by `wavlm align`; `corpus` for the times in the corpus itself.
        settings: `rate`, `positions`, `stress` and `unaligned` of `wavlm_lightning.codebooks.phones.phone_codebook`.

    Raises:
        UserError: there is no such set, a setting does not fit it, `out` holds another codebook, or another process writes
            there.
    """
    check_output(out)
    opened = Corpus.open(corpus)
    with own_folder(out, "codebook phones"):
        codebook = of_phones(opened, alignments, **settings)
        _leave_another(out, sha256=codebook.sha256)
        codebook.save(out)
    return codebook


class Labelled(NamedTuple):
    """The result of `apply_codebook`."""

    folder: Path  # of the labels
    shards: int  # number of shards labelled now; the others had labels of this codebook before
    part: JobShard  # which shards were considered
    quality: dict[str, ClusterQuality]  # by split with phone alignments; empty if only a part was labelled
    usage: LabelUsage  # of all labels that are there; also in `usage.json` of the folder
    soft: SoftSetting | None = None  # how its soft labels were made


def apply_codebook(
    codebook: Path,
    corpus: Path | str,
    name: str,
    splits: list[str] | None = None,
    jobs: int | None = None,
    part: str = "1/1",
    soft: int | None = None,
    temperature: float | None = None,
) -> Labelled:
    """Label every shard of a corpus, count the clusters in use, and score the labels if it has phone alignments.

    Args:
        codebook: folder of the codebook.
        corpus: folder of the corpus.
        name: of the label set; the labels go to `CORPUS/labels/NAME`.
        splits: which splits; all by default.
        jobs: processes; None chooses.
        part: `I/N` or `auto`: only every N-th shard, from the I-th.
        soft: keep so many of the nearest clusters a frame and their posteriors beside the labels.
        temperature: of the posteriors; by default the mean margin of the corpus, see `fitting_temperature`.

    Raises:
        UserError: see `wavlm_lightning.codebooks.label_corpus`.
    """
    opened, shard = Corpus.open(corpus), JobShard.parse(part)
    shards = label_corpus(opened, Codebook.load(codebook), name, splits, jobs, shard, soft, temperature)
    quality = {}
    if shard.of == 1:  # otherwise the labels of other parts may be missing
        found = {split: label_quality(opened, name, split) for split in splits or opened.splits}
        quality = {split: each for split, each in found.items() if each is not None}
    folder, usage = opened.directory / "labels" / name, label_usage(opened, name)
    write_usage(usage, folder)
    return Labelled(folder, shards, shard, quality, usage, SoftSetting.read(label_head(opened, name)))


def score_codebook(corpus: Path | str, name: str, split: str = "train", alignments: str = OWN) -> ClusterQuality | None:
    """Purity and PNMI of a label set against the phones of a split; None if they have no times.

    `alignments` is the name of a set that `wavlm align` has written, or `corpus` for the times in the corpus' metadata.
    """
    return label_quality(Corpus.open(corpus), name, split, alignments)
