"""`wavlm fit` and its kin: every shipped YAML runs, runs live in their folder, mistakes are named."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pseudo_corpora import pseudo_of

from wavlm_lightning.cli import main
from wavlm_lightning.codebooks import Codebook, MfccFeatures, fit_kmeans, label_corpus
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.system.shipped_configs import configs_folder
from wavlm_lightning.system.yaml_files import read_yaml
from wavlm_lightning.tasks.components.front_end import ConvTasNet

CONFIGS = sorted(
    str(path.relative_to(configs_folder()))
    for path in configs_folder().rglob("*.yaml")
    if not {"sweeps", "logging"} & set(path.parts)
)
OFFICIAL = {
    "librispeech": "pr",
    "speech_commands": "ks",
    "fluent_speech_commands": "ic",
    "voxceleb1_sid": "sid",
    "voxceleb1_sv": "sv",
    "voxceleb2": "sv",
    "iemocap": "er",
    "quesst14": "qbe",
    "snips": "sf",
    "libri2mix": "sd",
    **dict.fromkeys(("libri2mix_target_max", "libri2mix_target_min"), "target"),
    "bvcc": "mos",
    "chime4": "noisy",
    "voicebank_demand": "enhancement",
    "libri2mix_separation": "separation",
    "own_voices": "voices",
    "covost2": "translation",
    **dict.fromkeys(("meetings", "ami"), "meetings"),
    "librispeech960": "pretrain",
    "librilight": "pretrain",
    "mix94k": "pretrain",
    "mine": "pretrain",
    **dict.fromkeys(("librilight_10min", "librilight_1h", "librilight_10h", "common_voice_es"), "pr"),
    **dict.fromkeys((f"common_voice_{name}_sg" for name in ("es", "zh", "ar")), "pr"),
    "sbcsae": "pr",
    **dict.fromkeys(("librispeech100_dev_other", "librispeech960_dev_other"), "pr"),
}
"""Which tiny corpus stands in for the corpus that a configuration names."""
LARGE_HEADS = (
    *("superb/asr.yaml", "superb/sf.yaml", "finetune/sf_base.yaml", "fullstack/asr_attention.yaml"),
    *("fullstack/se.yaml", "fullstack/ss.yaml", "fullstack/vc.yaml"),
    *(f"fullstack/noisy_{name}.yaml" for name in ("front_end", "asr", "asr_attention", "asr_separate", "asr_joint")),
    *(f"fullstack/ood_asr_{name}.yaml" for name in ("es", "zh", "ar", "sbcsae")),
)
CPU = ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true"]


@cache
def content_of(config: str) -> dict[str, Any]:
    return read_yaml(configs_folder() / config, "a configuration", kind=dict)


@pytest.fixture(scope="module")
def pretrained(tiny, tmp_path_factory) -> Path:
    """A run folder of `configs/pretrain/tiny_waveform.yaml`, four steps long."""
    folder = tmp_path_factory.mktemp("runs") / "pretrain"
    options = [
        "fit",
        "-c",
        "configs/pretrain/tiny_waveform.yaml",
        *pretraining_of(tiny, folder),
        "--trainer.max_steps",
        "4",
    ]
    assert main(options) == 0
    return folder


def pretraining_of(tiny: Path, folder: Path) -> list[str]:
    corpus = ["--data.corpus", str(tiny / "pretrain"), "--trainer.default_root_dir", str(folder)]
    little = ["--data.batch_seconds", "8", "--trainer.limit_val_batches", "2"]
    return [*corpus, *CPU, *little, "--trainer.val_check_interval", "2", "--trainer.log_every_n_steps", "1"]


def task_of(tiny: Path, folder: Path, name: str, upstream: Path | str) -> list[str]:
    corpus = ["--data.corpus", str(tiny / name), "--data.cache", str(folder.parent / "cache")]
    return [
        "-c",
        f"configs/superb/mini/{name}.yaml",
        *corpus,
        "--model.upstream.source",
        str(upstream),
        "--trainer.default_root_dir",
        str(folder),
        *CPU,
        "--trainer.val_check_interval",
        "1",
    ]


def one_batch(tiny: Path, tmp_path: Path, pretrained: Path, config: str) -> list[str]:
    """The command that runs a shipped configuration on one batch of a tiny corpus."""
    content = content_of(config)
    name = Path(content["data"]["init_args"]["corpus"]).name
    verb = "test" if content["model"]["class_path"].endswith(("QueryByExample", "KnnConversion")) else "fit"
    arguments = [verb, "-c", f"configs/{config}", *CPU, "--data.corpus", str(tiny / OFFICIAL.get(name, name))]
    arguments += ["--trainer.default_root_dir", str(tmp_path)]
    if verb == "fit":  # QbE compares everything with everything, so one batch of it means nothing
        arguments += ["--trainer.fast_dev_run", "true"]
    if config.startswith("pretrain/"):
        # Full-size encoders on one crop: 2.5 s of Large take two cores some seconds.
        arguments += ["--data.batch_seconds", "2.5", "--data.max_seconds", "2.5", "--data.num_workers", "0"]
        labels, corpus = content["data"]["init_args"]["labels"], tiny / "pretrain"
        if isinstance(labels, list):
            corpus = with_labels(tiny, tmp_path, labels)
        elif "soft" in str(labels):
            corpus = with_labels(tiny, tmp_path, [labels], soft=4)
        elif labels:
            arguments += ["--data.labels", "mfcc100"]
        arguments += ["--data.corpus", str(corpus)]
        if "noise_corpus" in content["data"]["init_args"]:
            arguments += ["--data.noise_corpus", str(tiny / "ks")]
        if "/" in content["model"]["init_args"]["encoder"]:
            assert main(["export", str(pretrained), str(tmp_path / "released")]) == 0
            arguments += ["--model.encoder", str(tmp_path / "released")]
    if content["model"]["class_path"].startswith("wavlm_lightning.tasks"):
        arguments += ["--model.upstream.source", str(pretrained), "--data.num_workers", "0"]
    if content["model"]["class_path"].endswith("KnnConversion"):  # no vocoder, and no recogniser, has been before
        arguments += ["--model.vocoder", "null", "--model.content", "null", "--trainer.limit_test_batches", "1"]
    if content["model"]["init_args"].get("embeddings"):  # no verification run has been before
        arguments += ["--model.embeddings", "null"]
    if content["model"]["init_args"].get(
        "front_end_from"
    ):  # neither the front-end nor the head has been trained before
        network = ConvTasNet(**content["model"]["init_args"]["front_end"].get("init_args", {}))
        trained = {f"front_end.{name}": value for name, value in network.state_dict().items()}
        torch.save({"state_dict": trained, "global_step": 0}, tmp_path / "front_end.ckpt")
        arguments += ["--model.front_end_from", str(tmp_path / "front_end.ckpt"), "--model.start_from", "null"]
    if content["model"]["class_path"].endswith("EcapaVerification"):
        # A tiny speaker has one utterance, which makes no trial, and no stage has been before.
        arguments += ["--model.calibration_trials", "0", "--model.start_from", "null"]
        arguments += [
            "--data.transforms",
            yaml.safe_dump(with_corpus(content["data"]["init_args"]["transforms"], tiny)),
        ]
    if name == "chime4":  # its four cells are splits
        arguments += ["--data.valid_split", "valid", "--data.test_split", "test"]
    if OFFICIAL.get(name) == "voices":  # the splits of one target
        arguments += [part for split in ("train", "valid", "test") for part in (f"--data.{split}_split", f"{split}_1")]
    if "pseudo_corpus" in content["data"]["init_args"]:
        pseudo = pseudo_of(tiny / OFFICIAL.get(name, name), tmp_path / "pseudo")
        arguments += ["--data.pseudo_corpus", str(pseudo), "--data.train_seconds", "null"]
    if content["data"]["init_args"].get("cache"):
        arguments += ["--data.cache", str(tmp_path / "cache")]
    return arguments


def with_labels(tiny: Path, tmp_path: Path, names: list[str], soft: int | None = None) -> Path:
    """A copy of the tiny corpus with label sets of these names: the first is of the tiny codebook, further ones of others."""
    shutil.copytree(tiny / "pretrain", tmp_path / "pretrain")
    corpus = Corpus.open(tmp_path / "pretrain")
    for number, name in enumerate(names):
        codebook = Codebook.load(tiny / "codebook")
        if number:  # another size and rate
            codebook = fit_kmeans(corpus, MfccFeatures(rate=50.0), 7, restarts=1)
        if name != "mfcc100":
            label_corpus(corpus, codebook, name, soft=soft)
    return corpus.directory


def with_corpus(transforms: Any, tiny: Path) -> Any:
    """Transforms that read a tiny corpus in place of any other."""
    if isinstance(transforms, list):
        return [with_corpus(each, tiny) for each in transforms]
    if not isinstance(transforms, dict):
        return transforms
    changed = {name: with_corpus(value, tiny) for name, value in transforms.items()}
    return changed | ({"corpus": str(tiny / "ks"), "corpus_split": "train"} if "corpus" in changed else {})


QUICK = ("pretrain/tiny", "pretrain/wavlm_base", "superb/ks", "superb/pr", "superb/mini/ks", "finetune/ks")
"""One of each kind runs in the fast part; all of them take a minute."""


def shrunk(config: str) -> list[str]:
    """Options that make the batch of a configuration cheap; none where it is cheap as it stands."""
    model = content_of(config)["model"]["init_args"]
    if config in LARGE_HEADS:
        return ["--data.batch_size", "2"]
    if not config.startswith("pretrain/") or config.startswith("pretrain/tiny") or "/" in model["encoder"]:
        return []
    # As wide as it is, and as deep as its objectives need.
    layers = max(each.get("init_args", {}).get("layer") or 0 for each in model["objectives"]) + 1
    return ["--model.encoder_overrides.layers", str(layers), "--model.encoder_overrides.ffn_dim", "64"]


def form(value: Any, key: str = "") -> Iterator[str]:
    """The keys and classes of a configuration, without its values and without the recipe, which fitting ignores."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if key or name != "recipe":
                yield from form(inner, f"{key}.{name}")
    elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
        for number, inner in enumerate(value):
            yield from form(inner, f"{key}.{number}")
    else:
        yield f"{key}={value}" if key.endswith(".class_path") else key


def with_marks() -> Iterator[Any]:
    """Every configuration: quick ones, slow ones, and long those that differ from an earlier one by values alone.

    Long, too, are the large heads of `fullstack`, whose classes the configurations of `fullstack/mini` run.

    The values of all are parsed in `test_print_config`.
    """
    seen = set()
    for config in CONFIGS:
        keys = frozenset(form(content_of(config)))
        rare = keys in seen or (config.startswith("fullstack/") and config in LARGE_HEADS)
        slow = [pytest.mark.slow, pytest.mark.long] if rare else [pytest.mark.slow]
        yield pytest.param(config, marks=[] if config.removesuffix(".yaml") in QUICK else slow)
        seen.add(keys)


@pytest.mark.parametrize("config", with_marks())
def test_every_config_runs_one_batch(tiny, tmp_path, pretrained, config):
    assert main([*one_batch(tiny, tmp_path, pretrained, config), *shrunk(config)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("config", [config for config in CONFIGS if shrunk(config)])
@pytest.mark.long
def test_every_config_of_full_size_runs_one_batch(tiny, tmp_path, pretrained, config):
    # In a process of its own, which gives the 6 GB of Large and its optimiser back for certain.
    command = [sys.executable, "-m", "wavlm_lightning", *one_batch(tiny, tmp_path, pretrained, config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_run_lives_in_its_folder(pretrained):
    assert {p.name for p in (pretrained / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert yaml.safe_load((pretrained / "config.yaml").read_text())["trainer"]["max_steps"] == 4
    header = (pretrained / "curves" / "version_0" / "metrics.csv").read_text().splitlines()[0].split(",")
    wanted = (
        "train/loss",
        "train/masked_accuracy",
        "valid/masked_accuracy",
        "valid/unmasked_accuracy",
        "valid/perplexity",
    )
    assert set(wanted) <= set(header)
    assert torch.load(pretrained / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4


def test_fit_test_and_card(tiny, tmp_path, pretrained, capsys):
    folder = tmp_path / "ks"
    arguments = task_of(tiny, folder, "ks", pretrained)
    assert main(["fit", *arguments, "--trainer.max_steps", "6"]) == 0
    assert main(["test", *arguments, "--ckpt_path", "best"]) == 0
    card = json.loads((folder / "card.json").read_text())
    assert card["task"] == "KS" and card["steps"] == 6 and 1 <= card["best_step"] <= 6
    assert card["learning_rate"] == 1e-3 and card["upstream"]["label"] == str(pretrained)
    assert len(card["layer_weights"]) == 5 and sum(card["layer_weights"]) == pytest.approx(1.0, abs=1e-4)
    assert card["command"].startswith("wavlm test -c configs/superb/mini/ks.yaml")
    assert main(["validate", *arguments, "--ckpt_path", "best"]) == 0


def test_predictions_are_written(tiny, tmp_path, pretrained):
    from safetensors.torch import load_file

    folder = tmp_path / "ks"
    arguments = task_of(tiny, folder, "ks", pretrained)
    assert main(["fit", *arguments, "--trainer.max_steps", "1"]) == 0
    assert main(["predict", *arguments, "--ckpt_path", "best"]) == 0
    outputs = load_file(folder / "predictions.safetensors")
    assert len(outputs) == 12 and all(value.shape == (12,) for value in outputs.values())


def test_a_run_is_not_written_over_and_goes_on(tiny, tmp_path, pretrained, capsys):
    folder = tmp_path / "run"
    arguments = ["fit", "-c", "configs/pretrain/tiny_waveform.yaml", *pretraining_of(tiny, folder)]
    assert main([*arguments, "--trainer.max_steps", "3"]) == 0
    assert main([*arguments, "--trainer.max_steps", "6"]) == 2
    assert "already holds a run; resume it with --ckpt_path last" in capsys.readouterr().err
    assert main([*arguments, "--trainer.max_steps", "6", "--ckpt_path", "last"]) == 0
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6
    assert len(list((folder / "curves").iterdir())) == 2


def test_curves_are_written_as_csv_whatever_logger_is_named(tiny, tmp_path):
    folder = tmp_path / "run"
    arguments = [
        "fit",
        "-c",
        "configs/pretrain/tiny_waveform.yaml",
        *pretraining_of(tiny, folder),
        "--trainer.max_steps",
        "2",
    ]
    logger = "lightning.pytorch.loggers.WandbLogger"
    assert main([*arguments, "--trainer.logger", logger, "--trainer.logger.save_dir", str(folder)]) == 0
    rows = list(csv.DictReader((folder / "curves" / "version_0" / "metrics.csv").open()))
    wanted = {"train/gradient_norm", "train/skipped_updates", "health/audio_seconds_per_second", "health/padding_share"}
    wanted |= {f"health/effective_rank/layer_{layer:02}" for layer in range(5)}
    assert wanted <= set(rows[0])
    again = tmp_path / "again"
    arguments[arguments.index(str(folder))] = str(again)
    assert main([*arguments, "--trainer.logger", "false"]) == 0
    assert not (again / "curves").exists()


@pytest.mark.slow
def test_killed_before_its_first_checkpoint_a_run_says_what_there_is(tiny, tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = ["fit", "-c", "configs/pretrain/tiny_waveform.yaml", *pretraining_of(tiny, folder)]
    assert main([*arguments, "--trainer.max_steps", "3"]) == 0
    (folder / "checkpoints" / "last.ckpt").unlink()
    assert main([*arguments, "--trainer.max_steps", "4"]) == 2
    assert "resume it with --ckpt_path best" in capsys.readouterr().err
    assert main([*arguments, "--trainer.max_steps", "4", "--ckpt_path", "best"]) == 0
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4


def test_lightning_still_has_the_hook_that_would_let_checkpoints_override():
    """Ours is a no-op under a private name: should Lightning rename it, checkpoints would win again, silently."""
    from lightning.pytorch.cli import LightningCLI

    assert "_parse_ckpt_path" in vars(LightningCLI)


def test_what_a_model_cannot_do_is_one_sentence(tiny, tmp_path, pretrained, capsys):
    arguments = ["-c", "configs/pretrain/tiny_waveform.yaml", *pretraining_of(tiny, pretrained)]
    assert main(["test", *arguments, "--ckpt_path", "last"]) == 2
    said = capsys.readouterr().err
    assert "WavLMPretraining has no test; `wavlm validate " in said and "Traceback" not in said


def test_a_checkpoint_never_overrides_the_command_line(tiny, tmp_path, pretrained, capsys):
    """Nor does the record say another rate than the one that was used; see `test_going_on`."""
    folder = tmp_path / "ks"
    arguments = task_of(tiny, folder, "ks", pretrained)
    assert main(["fit", *arguments, "--trainer.max_steps", "2", "--model.learning_rate", "0.5"]) == 0
    again = ["fit", *arguments, "--trainer.max_steps", "4", "--ckpt_path", "last"]
    assert main([*again, "--model.learning_rate", "0.25"]) == 2
    assert "model.learning_rate is 0.25 here and 0.5 in" in capsys.readouterr().err
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model"]["init_args"]["learning_rate"] == 0.5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--trainer.max_step", "3"], "did you mean 'max_steps'"),
        (["--model.learning_rat", "3"], "Option 'learning_rat' is not accepted; did you mean 'learning_rate'"),
        (["--model.upstream.sorce", "x"], "model (KeywordSpotting), upstream (WavLMUpstream): Option 'sorce'"),
        (["--model.learning_rate", "fast"], "learning_rate: expected float, not fast"),
        (["--model", "KeywordSpoting"], "did you mean 'KeywordSpotting'"),
        (["--data.corpus", "nowhere"], "nowhere: no corpus.json here"),
        (["--ckpt_path", "missing.ckpt"], "missing.ckpt: no such checkpoint"),
        (
            ["--model.upstream.source", "nowhere"],
            "nowhere: no such file or folder; give a checkpoint, or random: and one of tiny",
        ),
    ],
)
def test_mistakes_are_one_sentence(tiny, tmp_path, pretrained, capsys, wrong, message):
    assert main(["fit", *task_of(tiny, tmp_path / "ks", "ks", pretrained), *wrong]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1] and said[-1].startswith("wavlm fit: ")
    assert "Traceback" not in "\n".join(said) and "usage:" not in "\n".join(said)


def test_print_config_round_trips(tiny, tmp_path, pretrained, capsys):
    arguments = task_of(tiny, tmp_path / "ks", "ks", pretrained)
    with pytest.raises(SystemExit) as stop:
        main(["fit", *arguments, "--print_config"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    (tmp_path / "printed.yaml").write_text(text[text.index("# lightning") if text.startswith("# ") else 0 :])
    assert main(["fit", "-c", str(tmp_path / "printed.yaml"), "--trainer.fast_dev_run", "true"]) == 0


@pytest.mark.slow
def test_ctrl_c_saves_and_the_run_goes_on(tiny, tmp_path):
    folder = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "wavlm_lightning",
        "fit",
        "-c",
        "configs/pretrain/tiny_waveform.yaml",
        *pretraining_of(tiny, folder),
    ]
    command += ["--trainer.max_steps", "100000", "--checkpoint_every", "100000"]
    with (tmp_path / "log").open("w") as log:
        # A shell's background jobs ignore Ctrl-C, and so would what they start.
        listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=listen)
        metrics = folder / "curves" / "version_0" / "metrics.csv"
        deadline = time.monotonic() + 90
        while not (folder / "checkpoints" / "best.ckpt").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        try:
            status = process.wait(timeout=120)
        finally:
            process.kill()
    assert status != 0 and metrics.exists(), (tmp_path / "log").read_text()[-2000:]
    step = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert step >= 2
    arguments = [
        "fit",
        "-c",
        "configs/pretrain/tiny_waveform.yaml",
        *pretraining_of(tiny, folder),
        "--ckpt_path",
        "last",
    ]
    assert main([*arguments, "--trainer.max_steps", str(step + 1)]) == 0
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == step + 1


@pytest.mark.slow
def test_two_processes(tiny, tmp_path):
    """DDP from the command line, with validation splits too small to share evenly."""
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "wavlm_lightning", "fit", "-c", "configs/pretrain/tiny_waveform.yaml"]
    command += [*pretraining_of(tiny, folder), "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    command += ["--trainer.max_steps", "3", "--trainer.val_check_interval", "1", "--data.batch_seconds", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3


def test_another_shape_than_the_checkpoint_has_is_one_sentence(tiny, tmp_path, pretrained, capsys):
    arguments = ["fit", "-c", "configs/pretrain/tiny_waveform.yaml", *pretraining_of(tiny, tmp_path / "run")]
    overrides = ["--model.encoder", str(pretrained), "--model.encoder_overrides", "{position_bias: none}"]
    assert main([*arguments, *overrides]) == 2
    said = capsys.readouterr().err
    assert "its weights do not fit the fields that were changed (position_bias)" in said and "Traceback" not in said


def test_export_loads_in_transformers(tmp_path, pretrained):
    from transformers import WavLMModel

    from wavlm_lightning.upstreams.wavlm import load_encoder

    assert main(["export", str(pretrained), str(tmp_path / "hf")]) == 0
    theirs = WavLMModel.from_pretrained(tmp_path / "hf").eval()
    ours = load_encoder(pretrained).eval()
    audio = 0.1 * torch.randn(1, 16_000)
    with torch.no_grad():
        assert torch.allclose(theirs(audio).last_hidden_state, ours(audio).hidden[-1], atol=1e-4)


@pytest.mark.slow
def test_a_head_outside_the_repository(tiny, tmp_path, pretrained):
    """A file in the working directory and a YAML: nothing installed, nothing registered."""
    (tmp_path / "accents.py").write_text(
        "from wavlm_lightning.tasks import UtteranceClassification\n\n\n"
        "class AccentIdentification(UtteranceClassification):\n"
        '    """Which accent; a head of one\'s own."""\n\n'
        '    name, inventory, field = "ACC", "keywords", "keyword"\n'
    )
    arguments = [
        sys.executable,
        "-m",
        "wavlm_lightning",
        "fit",
        "--model",
        "accents.AccentIdentification",
        "--model.upstream",
        "Fbank",
        "--model.upstream.cmvn",
        "false",
        "--data",
        "TaskData",
        "--data.corpus",
        str(tiny / "ks"),
        "--trainer.max_steps",
        "2",
        *CPU,
    ]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "runs" / "default" / "checkpoints" / "last.ckpt").is_file()
