"""Whole files of every kind that the package reads, as small as they can be; each function fills a folder."""

# ruff: noqa: E501 - tables, one row a line
from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).parents[1]


def sound(seconds: float = 0.4, rate: int = 16_000, seed: int = 0) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (
        0.4 * np.sin(2 * np.pi * 220 * time) + 0.05 * np.random.default_rng(seed).standard_normal(len(time))
    ).astype("f4")


# Audio.

AUDIO = {
    "wav": {}, "wav24": {"subtype": "PCM_24"}, "wavfloat": {"subtype": "FLOAT"}, "flac": {}, "ogg": {"subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"}, "mp3": {}, "aiff": {"subtype": "PCM_16"}, "au": {"subtype": "PCM_16"},
    "w64": {"subtype": "PCM_16"}, "caf": {"subtype": "PCM_16"}, "rf64": {"format": "RF64", "subtype": "PCM_16"},
    "sph": {"format": "NIST", "subtype": "PCM_16"},
}  # fmt: skip
CONTAINERS = {"wav24": "wav", "wavfloat": "wav", "rf64": "wav"}


def audio_file(kind: str) -> str:
    return f"recording.{CONTAINERS.get(kind, kind)}"


def audio(kind: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        import soundfile

        options: dict[str, Any] = AUDIO[kind]
        # Two channels at another rate, so that both are in the header and matter.
        stereo = np.stack([sound(1.0, 24_000), sound(1.0, 24_000, 1)], axis=1)
        soundfile.write(folder / audio_file(kind), stereo, 24_000, **options)

    return make


# Corpora.


def corpus(folder: Path) -> None:
    """Two splits, of which one has further audio, trials, and a label set with its codebook."""
    from wavlm_lightning.codebooks import MfccFeatures, fit_kmeans, label_corpus
    from wavlm_lightning.data.corpus import Corpus, CorpusWriter
    from wavlm_lightning.data.shards import Utterance

    writer = CorpusWriter(folder / "corpus", "small", "CC0", {"recipe": "test"}, shard_seconds=0.7)
    words = ["yes", "no"]
    for split, seeds in (("train", range(4)), ("valid", range(4, 6))):
        rows = [
            Utterance(
                f"{split}{seed}", sound(0.3 + 0.02 * seed, seed=seed), {"speaker": f"s{seed % 2}", "keyword": words[seed % 2]},
                audio={"clean": sound(0.3 + 0.02 * seed, seed=seed + 50)} if split == "valid" else {},
            )
            for seed in seeds
        ]  # fmt: skip
        writer.write_split(split, rows)
    writer.finish(
        {"speakers": ["s0", "s1"], "keywords": words}, {"valid": [(0, "valid4", "valid5"), (1, "valid4", "valid4")]}
    )
    opened = Corpus.open(folder / "corpus")
    codebook = fit_kmeans(opened, MfccFeatures(), 4, restarts=1)
    codebook.save(folder / "codebook")
    label_corpus(opened, codebook, "units")


MANIFEST = """path,speaker,text,language,split,start,end,note
a.wav,s1,"Hello, world",en,train,0.0,0.2,x
a.wav,s1,again,en,train,0.2,0.4,
b.wav,s2,caf\u00e9,fr,valid,,,"said ""so"" twice"
sub/c.wav,s3,more words,en,test,,,y
"""


def manifest(folder: Path) -> None:
    import soundfile

    (folder / "sub").mkdir()
    for seed, name in enumerate(("a.wav", "b.wav", "sub/c.wav")):
        soundfile.write(folder / name, sound(seed=seed), 16_000)
    (folder / "manifest.csv").write_text(MANIFEST, encoding="utf-8")


def rehash_corpus(box: Path) -> None:
    """Write sizes and hashes of what is there into `corpus.json`, as somebody who altered the files on purpose would."""
    import hashlib

    path = box / "corpus" / "corpus.json"
    body = json.loads(path.read_text())
    for part in body["splits"].values():
        for entry in (*part["shards"], part["lengths"]):
            data = (path.parent / entry["name"]).read_bytes()
            entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for entry in part["shards"]:
            index = (path.parent / entry["name"]).with_suffix(".index.json")
            content = json.loads(index.read_text())
            content["sha256"] = entry["sha256"]
            index.write_text(json.dumps(content))
    path.write_text(json.dumps(body))


# Published tables.


def _touch(root: Path, names: list[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


def published(folder: Path) -> None:
    """Miniatures of the releases that the recipes read; the audio files are empty, because a plan opens none."""
    rows = {
        "train": [("aa", "1", "Hola, dijo."), ("bb", "2", '"Una cita"')],
        "dev": [("cc", "3", "Que")],
        "test": [("dd", "4", "Fin")],
    }
    cv = folder / "common_voice" / "es"
    _touch(cv, [f"clips/cv_{n}.mp3" for n in range(1, 5)])
    for name, part in rows.items():
        lines = [f"{client * 64}\tcv_{n}.mp3\t{text}\t2\t0" for client, n, text in part]
        _write(cv, {f"{name}.tsv": "\n".join(["client_id\tpath\tsentence\tup_votes\tdown_votes", *lines]) + "\n"})

    fsc = folder / "fsc" / "fluent_speech_commands_dataset"
    for split in ("train", "valid", "test"):
        paths = [f"wavs/speakers/Sp{split}/{split}-4474-{n}.wav" for n in range(2)]
        _touch(fsc, paths)
        lines = [f'{n},{path},Sp{split},"Say, {n}",activate,lights,none' for n, path in enumerate(paths)]
        _write(
            fsc,
            {
                f"data/{split}_data.csv": "\n".join([",path,speakerId,transcription,action,object,location", *lines])
                + "\n"
            },
        )

    audios = []
    for name, subset in (
        ("audio/podcast/P0001/POD1.opus", "M"),
        ("audio/youtube/P0002/YOU1.opus", "DEV"),
        ("audio/youtube/P0002/YOU2.opus", "TEST"),
    ):
        _touch(folder / "gigaspeech", [name])
        segment = {
            "sid": f"{name[-9:-5]}_S0",
            "speaker": "ann",
            "begin_time": 0.1,
            "end_time": 0.5,
            "text_tn": "A <COMMA> B",
            "subsets": [f"{{{subset}}}"],
        }
        audios.append({"aid": name[-9:-5], "path": name, "segments": [segment]})
    _write(
        folder / "gigaspeech",
        {"GigaSpeech.json": json.dumps({"dataset": "GigaSpeech", "version": "v1.0.0", "audios": audios})},
    )

    quesst = folder / "quesst" / "quesst14Database"
    lists = {
        "utterances": [("Audio/quesst14_00001.wav", "nnenglish"), ("Audio/quesst14_00002.wav", "czech")],
        "dev": [("dev_queries/quesst14_dev_0001.wav", "nnenglish")], "eval": [("eval_queries/quesst14_eval_0001.wav", "nnenglish")],
    }  # fmt: skip
    for name, entries in lists.items():
        _touch(quesst, [path for path, _ in entries])
        _write(
            quesst,
            {
                f"scoring/language_key_{name}.lst": "".join(
                    f"quesst14Database/{path} {language}\n" for path, language in entries
                )
            },
        )
    for part in ("dev", "eval"):
        lines = f"SPEAKER quesst14_00001 1 0.00 9.00 <NA> <NA> speaker <NA>\nLEXEME quesst14_00001 1 0.50 0.40 quesst14_{part}_0001 lex speaker 0.5\n"
        _write(quesst, {f"scoring/groundtruth_quesst14_{part}/quesst14_{part}.rttm": lines})

    snips = folder / "snips" / "SNIPS"
    lines = []
    for voice in ("Ivy", "Joanna", "Amy", "Brian"):
        for name, tags in (("train-0", "O genre genre"), ("valid-0", "O O artist"), ("test-0", "O O O")):
            path = f"{name.split('-')[0]}/{voice}-snips-{name}.wav"
            _touch(snips, [path])
            lines.append(f"{Path(path).stem} BOS PLAY ROCK ABBA EOS\tO {tags} PlayMusic\n")
    _write(snips, {"all.iob.snips.txt": "".join(lines), "slots.txt": "O\ngenre\nartist\n"})

    for session in range(1, 6):
        for turn, emotion in (("impro01_F000", "neu"), ("impro01_M000", "exc"), ("script02_2_M007", "hap")):
            turn = f"Ses0{session}F_{turn}"
            dialogue, base = turn.rsplit("_", 1)[0], folder / "iemocap" / f"Session{session}"
            _touch(base, [f"sentences/wav/{dialogue}/{turn}.wav"])
            labels = base / "dialog" / "EmoEvaluation" / f"{dialogue}.txt"
            labels.parent.mkdir(parents=True, exist_ok=True)
            with labels.open("a") as file:
                file.write(f"[6.2901 - 8.2357]\t{turn}\t{emotion}\t[2.5, 2.5, 2.5]\nC-E2:\tNeutral;\t()\n\n")

    vox = folder / "voxpopuli" / "transcribed_data" / "fr"
    columns = "id\traw_text\tnormalized_text\tspeaker_id\tsplit\tgender\tis_gold_transcript\taccent"
    for name, entries in (("train", ["2009-a", "2010-b"]), ("dev", ["2011-c"]), ("test", ["2012-d"])):
        _touch(vox, [f"{key[:4]}/{key}.ogg" for key in entries])
        lines = [f'{key}\t"Bonjour.\tbonjour\t7\t{name}\tfemale\tFalse\tNone' for key in entries]
        _write(vox, {f"asr_{name}.tsv": "\n".join([columns, *lines]) + "\n"})

    mixtures = {
        "train": "1578-6379-0038_6415-111615-0009",
        "dev": "3536-8226-0026_1673-143397-0009",
        "test": "4077-13754-0001_5142-33396-0065",
    }
    for part, mixture in mixtures.items():
        audio = "train-100" if part == "train" else part
        _touch(folder / "libri2mix" / "Libri2Mix", [f"wav16k/max/{audio}/mix_both/{mixture}.wav"])
        turns = "".join(f"SPEAKER {mixture} 1 {n / 10:.3f} 0.300 <NA> <NA> {n} <NA> <NA>\n" for n in range(2))
        _write(folder / "libri2mix" / "kaldi", {f"{part}/rttm": turns})

    speech = folder / "librispeech" / "LibriSpeech"
    for subset, speaker in (("train-clean-100", 103), ("dev-clean", 84), ("test-clean", 61)):
        keys = [f"{speaker}-7-000{n}" for n in range(2)]
        _touch(speech, [f"{subset}/{speaker}/7/{key}.flac" for key in keys])
        _write(speech, {f"{subset}/{speaker}/7/{speaker}-7.trans.txt": "".join(f"{key} HE WALKS\n" for key in keys)})
    _write(folder / "librispeech", {"lexicon.txt": "HE\tHH IY1\nWALKS  W AO1 K S\n"})

    voxceleb = folder / "voxceleb1"
    names = [
        f"{speaker}/Vi_d-eo/0000{n}.wav" for speaker in ("id10001", "id10002", "id10270", "id10309") for n in range(3)
    ]
    _touch(voxceleb / "wav", names)
    _write(voxceleb, {
        "iden_split.txt": "".join(f"{1 + n % 3} {name}\n" for n, name in enumerate(names)),
        "veri_test.txt": f"1 {names[6]} {names[7]}\n0 {names[6]} {names[9]}\n0 {names[9]} {names[7]}\n",
    })  # fmt: skip


def one_published(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as every:
            published(Path(every))
            shutil.copytree(Path(every) / name, folder / name)

    return make


PUBLISHED = (
    "common_voice", "fsc", "gigaspeech", "quesst", "snips", "iemocap", "voxpopuli", "libri2mix", "librispeech", "voxceleb1"
)  # fmt: skip

# Encoders.


def _encoder() -> Any:
    import torch

    from wavlm_lightning.encoder import WavLM, WavLMConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        small = WavLMConfig.preset("tiny", layers=1, dim=16, heads=2, ffn_dim=16, pos_conv_kernel=4, pos_conv_groups=2)
        return WavLM(small)


def _helpers(folder: str, module: str) -> Any:
    """A module of the tests that writes checkpoints as other programs do."""
    import importlib

    if str(TESTS / folder) not in sys.path:
        sys.path.append(str(TESTS / folder))
    return importlib.import_module(module)


def encoders(folder: Path) -> None:
    """An encoder in every form: run, sharded run, Hugging Face with safetensors and with bin, unilm, torchaudio, fairseq."""
    import torch
    from torch.distributed.checkpoint import FileSystemWriter, save

    from wavlm_lightning.encoder.checkpoints.formats import ENCODER_KEY

    encoder = _encoder()
    state = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    run = {"epoch": 0, "global_step": 3, "state_dict": state, ENCODER_KEY: encoder.config.to_dict(), "codebooks": {}}
    torch.save(run, folder / "run.ckpt")
    encoder.save_pretrained(folder / "hf")
    encoder.save_pretrained(folder / "hfbin")
    from safetensors.torch import load_file

    torch.save(load_file(folder / "hfbin" / "model.safetensors"), folder / "hfbin" / "pytorch_model.bin")
    (folder / "hfbin" / "model.safetensors").unlink()
    sharded = folder / "sharded.ckpt"
    sharded.mkdir()
    save({"state_dict": state}, storage_writer=FileSystemWriter(sharded), no_dist=True)
    torch.save({key: value for key, value in run.items() if key != "state_dict"}, sharded / "meta.pt")
    unilm = _helpers("encoder", "test_encoder_checkpoints").unilm_checkpoint(_encoder())
    convolutions = list(
        zip(encoder.config.conv_channels, encoder.config.conv_kernels, encoder.config.conv_strides, strict=True)
    )
    unilm["cfg"]["conv_feature_layers"] = str(convolutions)
    torch.save(unilm, folder / "unilm.pt")


def fairseq(folder: Path) -> None:
    import torch

    helpers = _helpers("upstreams", "test_fairseq")
    content = {
        "args": None, "cfg": {"model": helpers.settings_of(False), "task": {"_name": "hubert_pretraining", "normalize": False}},
        "model": dict(helpers.fairseq_weights(helpers.model_of(False), False)), "extra_state": {"epoch": 3},
    }  # fmt: skip
    torch.save(content, folder / "fairseq.pt")


# Heads and runs.

CONFIG = """seed_everything: 1
model:
  class_path: wavlm_lightning.tasks.KeywordSpotting
  init_args:
    upstream:
      class_path: wavlm_lightning.upstreams.{upstream}
    learning_rate: 0.001
    hidden: 8
data:
  class_path: wavlm_lightning.tasks.TaskData
  init_args:
    corpus: corpora/ks
    gain_db: -3.0
trainer:
  max_steps: 4
"""


def head(folder: Path) -> None:
    """A run folder of a head on FBANK, with curves, card and stages."""
    import torch

    from wavlm_lightning.tasks import KeywordSpotting
    from wavlm_lightning.upstreams import Fbank

    run = folder / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(CONFIG.format(upstream="Fbank"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        task = KeywordSpotting(Fbank(), hidden=8)
        task.build(["yes", "no"])
    state = {name: tensor for name, tensor in task.state_dict().items() if not name.startswith("upstream.")}
    about = {
        "name": "KS", "labels": ["yes", "no"], "upstream_sha256": task.upstream.fingerprint(), "learning_rate": 1e-3, "seed": 1,
        "protocol": "superb", "processing": {}, "steps": 4, "best_step": 2, "fitted": {}, "started": {},
        "selection": {"metric": "valid/accuracy", "mode": "max", "value": 0.5},
    }  # fmt: skip
    torch.save({"epoch": 0, "global_step": 2, "state_dict": state, "task": about}, run / "checkpoints" / "best.ckpt")
    curves = run / "curves" / "version_0"
    curves.mkdir(parents=True)
    rows = "\n".join(f"0,{step},{1 / step:.4f},{0.1 * step if step % 2 == 0 else ''}" for step in range(1, 8))
    (curves / "metrics.csv").write_text(f"epoch,step,train/loss,valid/accuracy\n{rows}\n")
    (run / "card.json").write_text(json.dumps(CARD, indent=2))
    (run / "stages.json").write_text(
        json.dumps({"settings": {"seed": 1}, "seconds": {"prepare": 1.5}, "done": ["prepare"]})
    )
    (run / "run.json").write_text(json.dumps({"options": ["--seed", "1"], "files": {}}))


CARD = {
    "format": "wavlm_lightning/card/1", "task": "KS", "headline": "accuracy", "headlines": ["accuracy"],
    "metrics": {"accuracy": {"value": 50.0, "unit": "%", "better": "higher", "chance": 50.0}},
    "corpus": {"name": "small", "path": "corpora/ks", "split": "test", "utterances": 2, "seconds": 0.7},
    "upstream": {"label": "fbank", "class": "Fbank", "sha256": "0" * 64, "parameters": 0, "frame_rate": 100.0, "layers": 1},
    "learning_rate": 1e-3, "seed": 1, "steps": 4, "best_step": 2, "layer_weights": [0.5, 0.5],
    "selection": {"metric": "valid/accuracy", "value": 0.5, "split": "valid"}, "versions": {"torch": "2"},
}  # fmt: skip


def exported(folder: Path) -> None:
    """A head with its encoder in Hugging Face's format, and the head of a pre-training beside an encoder."""
    import torch

    from wavlm_lightning.pretraining.head_file import write_head
    from wavlm_lightning.tasks import KeywordSpotting
    from wavlm_lightning.tasks.huggingface.export import write_head_folder
    from wavlm_lightning.upstreams import WavLMUpstream

    _encoder().save_pretrained(folder / "encoder")
    task = KeywordSpotting(WavLMUpstream(str(folder / "encoder")), hidden=8)
    task.build(["yes", "no"])
    write_head_folder(folder / "head", task.eval(), {})
    write_head(
        folder / "encoder",
        {"objectives.0.weight": torch.ones(3, 2)},
        {"units": {"size": 4, "sha256": "0" * 64, "rate": 50.0}},
    )


# Configurations and states.

SWEEP = """program: wavlm
method: grid
metric: {name: valid/loss, goal: minimize}
parameters:
  model.learning_rate: {values: [0.001, 0.01]}
  model.init_args.hidden: {values: [8, 16]}
command: ["wavlm", "fit", "-c", "configs/superb/ks.yaml", "${args}"]
early_terminate: {type: hyperband, min_iter: 2, eta: 3}
run_cap: 4
"""
RECIPE = """recipe:
  hours: 10
  gpus: 1
  gpu: a100
  codebook: {clusters: 100, share: 0.1}
model:
  class_path: wavlm_lightning.pretraining.WavLMPretraining
  init_args: {encoder: tiny}
trainer: {max_steps: 10}
"""


def settings(folder: Path) -> None:
    (folder / "sweep.yaml").write_text(SWEEP)
    (folder / "also.yaml").write_text(CONFIG.format(upstream="Fbank"))
    (folder / "recipe.yaml").write_text(RECIPE)


def sweep(folder: Path) -> None:
    from wavlm_lightning.workflows.sweep.file import read_sweep
    from wavlm_lightning.workflows.sweep.study import SweepStudy

    (folder / "sweep.yaml").write_text(SWEEP)
    (folder / "sweep").mkdir()
    study = SweepStudy(folder / "sweep", read_sweep(str(folder / "sweep.yaml")), [], 0)
    study.begin(0)


def ledger(folder: Path) -> None:
    body = {"settings": {"seed": 1}, "seconds": {"prepare": 1.5}, "done": ["prepare"]}
    (folder / "stages.json").write_text(json.dumps(body))


def texts(folder: Path) -> None:
    turns = "".join(f"SPEAKER meeting{n // 2} 1 {n:.3f} 1.500 <NA> <NA> s{n % 2} <NA> <NA>\n" for n in range(6))
    _write(folder, {"lexicon.txt": "HE\tHH IY1\nWALKS  W AO1 K S\nA\tAH0\n", "turns.rttm": turns})


MAKE: dict[str, Callable[[Path], None]] = {
    "corpus": corpus, "manifest": manifest, "encoders": encoders, "fairseq": fairseq, "head": head,
    "exported": exported, "settings": settings, "sweep": sweep, "ledger": ledger, "texts": texts,
    **{f"published-{name}": one_published(name) for name in PUBLISHED},
    **{f"audio-{kind}": audio(kind) for kind in AUDIO},
}  # fmt: skip
