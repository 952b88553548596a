"""Every reader of a file that somebody else may have written, as a door to throw damaged files at.

A new reader gets a line here. `allowed` says which other values are legitimate: `nothing` where a check sum or a second
copy covers the file, `anything` where a change is as good as what was there.
"""

# ruff: noqa: E501 - tables, one row a line
from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fuzzing import originals
from fuzzing.harness import Door, anything, facts, nothing

from wavlm_lightning.audio import BadAudio
from wavlm_lightning.encoder import CheckpointError
from wavlm_lightning.system.errors import UserError

SENTENCES = (UserError, BadAudio, CheckpointError)
CORPUS = "corpus/corpus.json"


# Audio.


def read_audio(kind: str) -> Callable[[Path], np.ndarray]:
    def read(box: Path) -> np.ndarray:
        from wavlm_lightning.audio import load_mono

        return load_mono(box / originals.audio_file(kind), allow_silence=True)

    return read


def same_length(before: Any, after: Any, path: Path) -> str | None:
    """Samples may change, nothing covers them; their number only with a header of another rate, coding or channel count."""
    import soundfile

    if not (np.isfinite(after).all() and np.abs(after).max(initial=0) <= 1):
        return "samples that are not finite or beyond full scale"
    # What a stretch of 0.1 s covers is not refused: chunks behind the samples, the last frame of an mp3.
    if abs(len(before) - len(after)) <= 0.1 * 16_000:
        return None
    if path.suffix == ".mp3" and len(after) > len(before):  # nothing says how many frames there should be
        return None
    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError:
        return f"{len(after)} samples of a file that libsndfile does not open"
    if (info.samplerate, info.channels) != (24_000, 2) or info.subtype != SUBTYPES.get(path.suffix, info.subtype):
        return None
    return f"{len(after)} samples instead of {len(before)} under the same rate and channels"


SUBTYPES = {".aiff": "PCM_16", ".au": "PCM_16", ".w64": "PCM_16", ".caf": "PCM_16", ".sph": "PCM_16"}


def same_flac(before: Any, after: Any, path: Path) -> str | None:
    """Frames of FLAC carry check sums and their rate."""
    return nothing(before, after, path)


# Corpora.


def read_corpus(box: Path) -> Any:
    """What training reads: lengths, metas, waveforms, further audio, labels, trials."""
    from wavlm_lightning.codebooks import LabelSet
    from wavlm_lightning.data.corpus import Corpus

    opened = Corpus.open(box / "corpus")
    found: dict[str, Any] = {"inventories": opened.inventories, "trials": opened.trials("valid")}
    for name in opened.splits:
        split = opened.split(name)
        rows = LabelSet.open(opened, "units", name).rows
        found[name] = [split.samples, split.metas(), split.keys, [np.array(row) for row in rows]]
        for shard in split.shards:
            for place in range(shard.utterances):
                found[name] += [shard.waveform(place), shard.further_audio(place)]
    return found


def written(before: Any, after: Any, path: Path) -> str | None:
    """Of what `corpus.json` says, label sets have no copy elsewhere; trials and metas neither."""
    if path.name == "corpus.json":
        kept = {key: value for key, value in before.items() if key != "inventories"}
        return (
            nothing(before, after, path)
            if facts(kept) != facts({k: after.get(k) for k in kept}) and set(kept) <= set(after)
            else None
        )
    return nothing(before, after, path)


def check_corpus(box: Path) -> Any:
    """`wavlm data check`, which reads everything."""
    from wavlm_lightning.data.corpus import Corpus
    from wavlm_lightning.workflows.corpus.check import check

    found = check(Corpus.open(box / "corpus"), jobs=1)
    if found.error:
        raise UserError(found.error)
    return read_corpus(box)


def read_info(box: Path) -> Any:
    from wavlm_lightning.data.corpus import Corpus
    from wavlm_lightning.workflows.corpus.info import info

    return [line.replace(str(box), "") for line in info(Corpus.open(box / "corpus"))]


def read_trials(box: Path) -> Any:
    from wavlm_lightning.data.corpus import Corpus

    return Corpus.open(box / "corpus").trials("valid")


def read_manifest(box: Path) -> Any:
    from wavlm_lightning.data.division import Division
    from wavlm_lightning.data.folder import FolderRecipe

    recipe = FolderRecipe(box, box / "out", box / "manifest.csv")
    return Division(0.05, 0.05, "auto").divide(recipe._recordings(None), box).splits


def rows_kept(before: Any, after: Any, path: Path) -> str | None:
    """Values of a manifest are free; that each row becomes one utterance is not."""
    rows = sum(bool(line.strip()) for line in path.read_text("utf-8-sig").splitlines()) - 1
    found = sum(map(len, after.values()))
    return None if found == rows else f"{found} utterances of {rows} rows"


def read_webdataset(box: Path) -> Any:
    """A shard without its entry in `corpus.json`, as tools that read WebDataset see it."""
    from wavlm_lightning.data.shard_index import ShardIndex

    shard = ShardIndex.open(box / "corpus" / "train-000000.tar")
    return [[shard.waveform(place), shard.meta(place)] for place in range(shard.utterances)]


def read_codebook(box: Path) -> Any:
    from wavlm_lightning.codebooks import Codebook, FeatureSource

    codebook = Codebook.load(box / "codebook")
    FeatureSource.from_description(codebook.features)
    return [codebook.centroids, codebook.rate, codebook.features]


def planned(recipe: str, folder: str, *words: str) -> Callable[[Path], Any]:
    def read(box: Path) -> Any:
        from wavlm_lightning.workflows.corpus.prepare import plan, recipe_named

        parser = argparse.ArgumentParser()
        recipe_named(recipe).add_arguments(parser)
        options = parser.parse_args([word.replace("BOX", str(box)) for word in words])
        options.allow_partial = True
        made = plan(recipe, box / folder, options)
        return [made.splits, made.inventories, made.trials]

    return read


def read_lexicon(box: Path) -> Any:
    from wavlm_lightning.data.corpora.lexicon import read_lexica

    return read_lexica([box / "lexicon.txt"])


def read_rttm(box: Path) -> Any:
    from wavlm_lightning.metrics import parse_rttm
    from wavlm_lightning.system.reading import read_text, reading

    path = box / "turns.rttm"
    with reading(path, "an RTTM file"):
        return parse_rttm(read_text(path).splitlines())


# Encoders, heads.


def load(name: str) -> Callable[[Path], Any]:
    def read(box: Path) -> Any:
        from wavlm_lightning.upstreams.wavlm import load_encoder

        encoder = load_encoder(box / name)
        return [encoder.config, encoder.state_dict()]

    return read


def sealed_but_settings(before: Any, after: Any, path: Path) -> str | None:
    """Weights are finite and of the model's shapes. Settings, and weights that somebody wrote anew, have no check sum."""
    tensors = after[1].values()
    return None if all(tensor.isfinite().all() for tensor in tensors) else "weights that are NaN or infinite"


def read_fairseq(box: Path) -> Any:
    from wavlm_lightning.upstreams import FairseqUpstream

    upstream = FairseqUpstream(str(box / "fairseq.pt"))
    return [{"dim": upstream.dim, "layers": upstream.num_layers}, upstream.state_dict()]


def read_head_run(box: Path) -> Any:
    from wavlm_lightning.workflows.predict.head import open_head

    head = open_head(box / "run", "cpu")
    return [[head.task.labels, head.gain_db, head.trim, head.task.upstream.label], dict(head.task.state_dict())]


def read_head_folder(box: Path) -> Any:
    from wavlm_lightning.workflows.predict.head import open_head

    head = open_head(box / "head", "cpu")
    return [[head.task.labels, head.gain_db, head.trim], dict(head.task.state_dict())]


def read_hf_upstream(box: Path) -> Any:
    from wavlm_lightning.upstreams.specs import build

    upstream = build(f"hf:{box / 'encoder'}")
    return [[upstream.dim, upstream.num_layers, upstream.frame_rate], upstream.state_dict()]


def read_pretraining_head(box: Path) -> Any:
    from wavlm_lightning.pretraining.head_file import read_head

    state, books = read_head(box / "encoder")
    return [books, state]


# Runs and settings.


def read_card(box: Path) -> Any:
    from wavlm_lightning.reports.cards import ResultCard

    return ResultCard.read(box / "run")


def read_curves(box: Path) -> Any:
    from wavlm_lightning.reports.runs.curves import run_curves

    return run_curves(box / "run")


def read_report(box: Path) -> Any:
    """The texts of the report of a run folder, from its card, curves, configuration and stages, without its pictures."""
    from wavlm_lightning.reports.runs.report import write_run_report

    page, problems = write_run_report([box / "run"], box / "report", lambda _: None)
    return [problems, (page.parent / "report.md").read_text().replace(str(box), "")]


def read_run_record(box: Path) -> Any:
    from wavlm_lightning.workflows.fit.head_runs import HeadRun

    HeadRun(box / "run", ["--seed", "1"]).check()
    return True


def read_sweep_file(box: Path) -> Any:
    from wavlm_lightning.workflows.sweep.file import read_sweep

    found = read_sweep(str(box / "sweep.yaml"))
    found.trial_count(None)
    return {key: value for key, value in vars(found).items() if key != "path"}


def read_study(box: Path) -> Any:
    from wavlm_lightning.workflows.sweep.file import read_sweep
    from wavlm_lightning.workflows.sweep.study import SweepStudy

    study = SweepStudy(box / "sweep", read_sweep(str(box / "sweep.yaml")), [], 0)
    return study.trials()


def read_also_file(box: Path) -> Any:
    from wavlm_lightning.workflows.fit.joint_heads import read_also

    return [[task.model, task.lists, task.others] for task in read_also([str(box / "also.yaml")])]


def read_recipe(box: Path) -> Any:
    from wavlm_lightning.workflows.recipe.chain import chain

    return [[stage.name, stage.content, stage.recipe] for stage in chain(str(box / "recipe.yaml"))]


def read_ledger(box: Path) -> Any:
    from wavlm_lightning.system.ledger import Ledger

    return Ledger(box / "stages.json", {"seed": 1}, "recipe").body


def read_cache(box: Path) -> Any:
    """Features of a shard: a damaged file is computed again, so the result is always the same."""
    import torch

    from wavlm_lightning.data.corpus import Corpus
    from wavlm_lightning.upstreams import Fbank
    from wavlm_lightning.upstreams.cache import FeatureCache

    torch.set_num_threads(1)
    cache = FeatureCache(box / "cache", Fbank(), "utterance")
    shard = Corpus.open(box / "corpus").split("train").shards[0]
    cache.fill(shard)
    return [cache.read(shard, place) for place in range(shard.utterances)]


def cache(folder: Path) -> None:
    originals.corpus(folder)
    read_cache(folder)
    for lock in folder.glob("cache/*/*.lock"):
        lock.unlink()


MAKE = {**originals.MAKE, "cache": cache}


def _doors() -> list[Door]:
    doors = []
    for kind in originals.AUDIO:
        allowed = same_flac if kind == "flac" else same_length
        doors.append(
            Door(
                f"audio {kind}", f"audio-{kind}", {originals.audio_file(kind): "bytes"}, read_audio(kind), allowed, 2.0
            )
        )
    train = "corpus/train-000000"
    corpus = {
        CORPUS: "json", f"{train}.tar": "bytes", f"{train}.index.json": "json", "corpus/valid-000000.index.json": "json",
        "corpus/train.lengths.npy": "npy", "corpus/labels/units/labels.json": "json",
        "corpus/labels/units/train-000000.safetensors": "safetensors",
    }  # fmt: skip
    inner = {f"{train}.tar": "bytes", f"{train}.index.json": "json", "corpus/train.lengths.npy": "npy"}
    doors += [
        Door("corpus", "corpus", corpus, read_corpus, written, 4),
        Door("corpus, hashes written again", "corpus", {"corpus/train.lengths.npy": "npy", f"{train}.index.json": "json"}, check_corpus, nothing, 1, originals.rehash_corpus),
        Door("data check", "corpus", corpus, check_corpus, written, 1),
        Door("data info", "corpus", {CORPUS: "json", "corpus/labels/units/labels.json": "json"}, read_info, anything, 1),
        Door("trials", "corpus", {"corpus/trials-valid.csv": "csv"}, read_trials, anything, 2),
        Door("webdataset shard", "corpus", {**inner}, read_webdataset, anything, 1),
        Door("codebook", "corpus", {"codebook/codebook.json": "json", "codebook/centroids.safetensors": "safetensors"}, read_codebook, anything, 2),
        Door("manifest", "manifest", {"manifest.csv": "csv"}, read_manifest, rows_kept, 3),
    ]  # fmt: skip
    published = {
        "common_voice": ("common_voice", {"es/train.tsv": "tsv"}, "--language", "es"),
        "fluent_speech_commands": ("fsc", {"fluent_speech_commands_dataset/data/train_data.csv": "csv"}),
        "gigaspeech": ("gigaspeech", {"GigaSpeech.json": "json"}, "--subset", "M"),
        "quesst14": ("quesst", {"quesst14Database/scoring/language_key_dev.lst": "words", "quesst14Database/scoring/groundtruth_quesst14_dev/quesst14_dev.rttm": "words"}),
        "snips": ("snips", {"SNIPS/all.iob.snips.txt": "words", "SNIPS/slots.txt": "words"}),
        "iemocap": ("iemocap", {"Session1/dialog/EmoEvaluation/Ses01F_impro01.txt": "tsv"}),
        "voxpopuli": ("voxpopuli", {"transcribed_data/fr/asr_train.tsv": "tsv"}, "--kind", "asr", "--language", "fr"),
        "libri2mix": ("libri2mix", {"kaldi/train/rttm": "words"}, "--labels", "BOX/libri2mix/kaldi"),
        "librispeech": ("librispeech", {"LibriSpeech/train-clean-100/103/7/103-7.trans.txt": "words", "lexicon.txt": "words"}, "--lexicon", "BOX/librispeech/lexicon.txt"),
        "voxceleb1 sid": ("voxceleb1", {"iden_split.txt": "words"}, "--task", "sid"),
        "voxceleb1 sv": ("voxceleb1", {"veri_test.txt": "words"}, "--task", "sv"),
    }  # fmt: skip
    for name, (folder, files, *words) in published.items():
        there = {f"{folder}/{file}": form for file, form in files.items()}
        doors.append(Door(name, f"published-{folder}", there, planned(name.split()[0], folder, *words), anything, 0.7))
    doors += [
        Door("lexicon", "texts", {"lexicon.txt": "words"}, read_lexicon, anything, 2),
        Door("rttm", "texts", {"turns.rttm": "words"}, read_rttm, anything, 2),
        Door("encoder, run", "encoders", {"run.ckpt": "torch"}, load("run.ckpt"), sealed_but_settings, 1),
        Door("encoder, run, bytes", "encoders", {"run.ckpt": "bytes"}, load("run.ckpt"), nothing, 1),
        Door("encoder, sharded", "encoders", {"sharded.ckpt/.metadata": "bytes", "sharded.ckpt/meta.pt": "torch", "sharded.ckpt/__0_0.distcp": "bytes"}, load("sharded.ckpt"), sealed_but_settings, 1),
        Door("encoder, hugging face", "encoders", {"hf/config.json": "json", "hf/preprocessor_config.json": "json", "hf/model.safetensors": "safetensors"}, load("hf"), sealed_but_settings, 1),
        Door("encoder, hugging face bin", "encoders", {"hfbin/pytorch_model.bin": "torch"}, load("hfbin"), sealed_but_settings, 0.5),
        Door("encoder, unilm", "encoders", {"unilm.pt": "torch"}, load("unilm.pt"), sealed_but_settings, 1),
        Door("encoder, unilm, bytes", "encoders", {"unilm.pt": "bytes"}, load("unilm.pt"), nothing, 0.5),
        Door("encoder, fairseq", "fairseq", {"fairseq.pt": "torch"}, read_fairseq, sealed_but_settings, 0.5),
        Door("encoder, fairseq, bytes", "fairseq", {"fairseq.pt": "bytes"}, read_fairseq, nothing, 0.5),
        Door("encoder, hf:", "exported", {"encoder/config.json": "json", "encoder/preprocessor_config.json": "json", "encoder/model.safetensors": "safetensors"}, read_hf_upstream, sealed_but_settings, 0.5),
        Door("head, run", "head", {"run/checkpoints/best.ckpt": "torch", "run/config.yaml": "yaml"}, read_head_run, sealed_but_settings, 1),
        Door("head, run, bytes", "head", {"run/checkpoints/best.ckpt": "bytes"}, read_head_run, nothing, 0.5),
        Door("head, hugging face", "exported", {"head/config.json": "json", "head/model.safetensors": "safetensors"}, read_head_folder, sealed_but_settings, 0.5),
        Door("head of pre-training", "exported", {"encoder/pretraining_head.json": "json", "encoder/pretraining_head.safetensors": "safetensors"}, read_pretraining_head, sealed_but_settings, 1),
        Door("card", "head", {"run/card.json": "json"}, read_card, anything, 2),
        Door("curves", "head", {"run/curves/version_0/metrics.csv": "csv"}, read_curves, anything, 2),
        Door("report", "head", {"run/card.json": "json", "run/config.yaml": "yaml", "run/stages.json": "json"}, read_report, anything, 1),
        Door("run.json", "head", {"run/run.json": "json"}, read_run_record, anything, 2),
        Door("stages.json", "ledger", {"stages.json": "json"}, read_ledger, anything, 2),
        Door("sweep file", "settings", {"sweep.yaml": "yaml"}, read_sweep_file, anything, 2),
        Door("sweep folder", "sweep", {"sweep/sweep.json": "json", "sweep/journal.jsonl": "jsonl"}, read_study, anything, 1),
        Door("--also file", "settings", {"also.yaml": "yaml"}, read_also_file, anything, 1),
        Door("recipe file", "settings", {"recipe.yaml": "yaml"}, read_recipe, anything, 1),
        Door("feature cache", "cache", {"cache/*/*.safetensors": "safetensors"}, read_cache, nothing, 0.7),
    ]  # fmt: skip
    from dataclasses import replace

    return [replace(door, refusals=SENTENCES) for door in doors]


DOORS = _doors()

# Doors with faults that are not fixed yet: name of the door -> what is wrong. They are tried and shown, but fail no test.
KNOWN: dict[str, str] = {
    "audio w64": "a chunk that a splice puts before the samples can hide a part of them",
    "audio mp3": "a file whose first frames are overwritten loses more than those, because libsndfile estimates its length",
}
