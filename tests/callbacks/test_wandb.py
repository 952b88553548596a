"""W&B without a server: what an offline run holds, and that a folder keeps its run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from enhancement import TwoHeadlines
from quiet import quiet_trainer
from wandb_records import records

from wavlm_lightning.augment.transforms import WaveformTransform
from wavlm_lightning.callbacks.wandb import KEPT, Wandb, WandbMedia, heat_map, logged_in, run_id, spectrogram
from wavlm_lightning.cli import main
from wavlm_lightning.tasks import TaskData, WaveformTask
from wavlm_lightning.upstreams import Fbank

KEYS = ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "WANDB_RUN_ID", "NETRC")


@pytest.fixture
def stranger(monkeypatch, tmp_path):
    """No account is logged in, and W&B's own files go to the test's folder."""
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "home").mkdir()
    yield tmp_path
    if "wandb" in sys.modules:
        import wandb

        wandb.teardown()  # it reads the environment once in a process, and later tests have another


def read(folder: Path) -> list[dict[str, list]]:
    """By start, the records of a run folder by their kind; wandb's own process may still be writing the last of them."""
    starts = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        kinds: dict[str, list] = {}
        deadline = time.monotonic() + 30
        while "exit" not in kinds and time.monotonic() < deadline:
            kinds = {}
            for record in records(path):
                kind = record.WhichOneof("record_type")
                kinds.setdefault(kind, []).append(getattr(record, kind))
            time.sleep(0.05)
        starts.append(kinds)
    return starts


def history(start: dict[str, list]) -> dict[str, list]:
    """Values by name of one start."""
    values: dict[str, list] = {}
    for row in start["history"]:
        for item in row.item:
            values.setdefault("/".join(item.nested_key) or item.key, []).append(json.loads(item.value_json))
    return values


@pytest.mark.slow
def test_a_head_offline_then_gone_on_with_then_tested(tiny, stranger, capfd):
    folder = stranger / "ks"
    options = ["-c", "configs/superb/mini/ks.yaml", "-c", "configs/logging/wandb.yaml", "--trainer.accelerator", "cpu"]
    options += [
        "--model.upstream.source",
        "tiny",
        "--data.corpus",
        str(tiny / "ks"),
        "--data.cache",
        str(stranger / "c"),
    ]
    options += ["--trainer.default_root_dir", str(folder), "--trainer.val_check_interval", "1"]
    options += ["--trainer.log_every_n_steps", "1", "--trainer.logger.tags", "[mine]"]
    assert main(["fit", *options, "--trainer.max_steps", "2"]) == 0
    assert main(["fit", *options, "--trainer.max_steps", "3", "--ckpt_path", "last"]) == 0
    assert main(["test", *options, "--ckpt_path", "best"]) == 0
    starts, kept = read(folder), json.loads((folder / KEPT).read_text())["id"]
    assert len(starts) == 3
    for start in starts:
        newest = start["run"][-1]
        assert (newest.run_id, newest.display_name, newest.run_group) == (kept, "ks", stranger.name)
        assert newest.project == "wavlm" and list(newest.tags) == ["mine", "KS"]
        assert [end.exit_code for end in start["exit"]] == [0]
    first, second, tested = starts
    config = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in first["config"][0].update}
    assert config["model"]["init_args"]["learning_rate"] == 1e-3 and config["data"]["init_args"]["batch_size"] == 32
    values = history(first)
    assert len(values["train/loss"]) == len(values["valid/accuracy"]) == 2
    assert {metric.name for metric in first["metric"] if metric.summary.max} == {"valid/accuracy", "valid/accuracy (%)"}
    assert values["valid/accuracy (%)"] == pytest.approx([100 * value for value in values["valid/accuracy"]])
    summary = {item.key or item.nested_key[0]: item.value_json for row in first["summary"] for item in row.update}
    assert json.loads(summary["valid/accuracy"]) == {"max": max(values["valid/accuracy"])}
    assert {artifact.type: artifact.name for artifact in first["artifact"]}["model"] == "ks-checkpoint"
    (file,) = next(a for a in first["artifact"] if a.type == "model").manifest.contents
    assert file.ref == (folder / "checkpoints" / "best.ckpt").resolve().as_uri() and file.size > 0
    assert "test/accuracy" in history(tested) and max(history(second)["trainer/global_step"]) == 3

    media = sorted(folder.glob("wandb/offline-run-*/files/media"))[0]
    assert len(list(media.glob("audio/samples/*.wav"))) == len(list(media.glob("images/samples/*.png"))) == 4
    assert len(list(media.glob("images/layer_weights_*.png"))) == 2
    table = json.loads(next(media.glob("table/samples/*.json")).read_text())
    assert table["columns"] == ["key", "labelled", "predicted"] and len(table["data"]) == 4
    assert all(json.loads(labelled)["keyword"].strip("_") in key for key, labelled, _ in table["data"])
    assert "probability" in json.loads(table["data"][0][2])
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]["WandbMedia"]
    assert sorted(state["weights"]) == [1, 2, 3]  # the heat map of the resumed run begins with the first update


class Half(WaveformTask):
    """Half of the input."""

    name = "HALF"

    def build_head(self, dim):
        pass

    def enhance(self, features, lengths, audio):
        return 0.5 * audio.audio


@dataclass(kw_only=True)
class Quieter(WaveformTransform):
    """A quarter of the input."""

    def change(self, waveform, draw):
        return waveform / 4


def test_answers_that_are_audio_are_heard_each_time(tiny, stranger):
    """What the head hears, which transforms have changed, and the reference only once."""
    logged = []
    logger = SimpleNamespace(experiment=SimpleNamespace(tags=(), log=logged.append))
    media = WandbMedia(logger, stranger, samples=2, codebook=None, upload_checkpoint=False)
    task, data = Half(Fbank(cmvn=False)), TaskData(str(tiny / "ks"), eval_transforms=[Quieter()])
    for _ in range(2):
        quiet_trainer(callbacks=[media], limit_val_batches=1).validate(task, data, verbose=False)
    sounds = (
        "audio",
        "spectrogram",
        "reference",
        "reference_spectrogram",
        "answer",
        "answer_spectrogram",
        "predictions",
    )
    assert set(logged[0]) == {*(f"samples/{name}" for name in sounds), "trainer/global_step"}
    assert "samples/answer" in logged[1] and not {"samples/audio", "samples/reference"} & set(logged[1])
    for heard, answer, reference in zip(
        *(logged[0][f"samples/{name}"] for name in ("audio", "answer", "reference")), strict=True
    ):
        waveforms = [soundfile.read(each._path)[0] for each in (heard, answer, reference)]
        assert np.abs(2 * waveforms[1] - waveforms[0]).max() < 4 / 32768
        assert np.abs(4 * waveforms[0] - waveforms[2]).max() < 8 / 32768 and len(waveforms[0]) > 1000
    assert all("level_db" in row[2] for row in logged[1]["samples/predictions"].data)


def test_metrics_are_logged_in_their_units_and_directions(tiny, stranger):
    """Of a task in dB with two headlines; percentages are scaled, a figure without a unit is logged once."""
    folder = stranger / "se"
    logger = Wandb(offline=True, samples=0)
    callback = logger.settle(folder, fresh=True)
    task = TwoHeadlines(Fbank(cmvn=False), learning_rate=1e-3)
    settings = {
        "logger": logger,
        "callbacks": [callback],
        "max_steps": 1,
        "log_every_n_steps": 1,
        "val_check_interval": 1,
    }
    trainer = quiet_trainer(**settings)
    trainer.fit(task, TaskData(str(tiny / "ks"), batch_size=8))
    (start,) = read(folder)
    values = {name: found[-1] for name, found in history(start).items() if name.startswith("valid/")}
    del values["valid/loss"]
    assert values == pytest.approx(
        {
            "valid/si_sdr": 9.3456,
            "valid/si_sdr (dB)": 9.3456,
            "valid/pesq": 2.6149,
            "valid/wer": 0.25,
            "valid/wer (%)": 25,
        }
    )
    defined = {metric.name: metric.summary for metric in start["metric"]}
    assert {name for name, summary in defined.items() if summary.max} == {
        "valid/si_sdr",
        "valid/si_sdr (dB)",
        "valid/pesq",
    }
    assert {name for name, summary in defined.items() if summary.min} == {"valid/wer (%)"}


def test_a_pre_training_brings_its_codebook(tiny, stranger):
    folder = stranger / "pretrain"
    options = ["fit", "-c", "configs/pretrain/tiny_waveform.yaml", "--data.corpus", str(tiny / "pretrain")]
    options += ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--trainer.max_steps", "1"]
    options += ["--trainer.val_check_interval", "1", "--trainer.default_root_dir", str(folder)]
    options += ["--trainer.logger", "Wandb", "--trainer.logger.codebook", str(tiny / "codebook")]
    assert main([*options, "--trainer.logger.upload_checkpoint", "true"]) == 0
    (start,) = read(folder)
    artifacts = {artifact.type: artifact for artifact in start["artifact"]}
    book = {file.path for file in artifacts["codebook"].manifest.contents}
    assert book == {"labels.json", "codebook.json", "centroids.safetensors"}
    sha256 = json.loads((tiny / "codebook" / "codebook.json").read_text())["sha256"]
    assert json.loads(artifacts["codebook"].metadata)["sha256"] == sha256
    (file,) = artifacts["model"].manifest.contents
    assert file.path == "best.ckpt" and not file.ref
    assert len(list(folder.glob("wandb/offline-run-*/files/media/audio/samples/*.wav"))) == 3


def test_a_codebook_that_is_none_is_named(tiny, stranger, capsys):
    options = ["fit", "-c", "configs/pretrain/tiny_waveform.yaml", "--data.corpus", str(tiny / "pretrain")]
    options += ["--trainer.logger", "Wandb", "--trainer.logger.codebook", str(tiny)]
    assert main([*options, "--trainer.default_root_dir", str(stranger / "run")]) == 2
    assert "no codebook here; trainer.logger.codebook is a folder of `wavlm codebook fit`" in capsys.readouterr().err


def test_who_is_logged_in(stranger, monkeypatch):
    assert not logged_in()
    (stranger / "home" / ".netrc").write_text("machine api.wandb.ai login user password x\n")
    assert logged_in()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org/")
    assert not logged_in()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert logged_in()


def test_a_folder_keeps_its_run_until_it_is_begun_anew(stranger, monkeypatch):
    one = run_id(stranger, fresh=True)
    assert run_id(stranger, fresh=False) == one
    other = run_id(stranger, fresh=True)
    assert other != one == one and run_id(stranger, fresh=False) == other
    monkeypatch.setenv("WANDB_RUN_ID", "agents")
    assert run_id(stranger, fresh=True) == "agents"


def test_pictures_show_what_is_there():
    tone = torch.sin(2 * torch.pi * 4000 * torch.arange(16_000) / 16_000)
    picture = spectrogram(tone)
    assert picture.shape == (201, 101, 3) and picture.dtype == np.uint8
    assert int(picture.sum((1, 2)).argmax()) == 100  # 4 of 8 kHz: the middle row
    steady, moved = heat_map({1: [0.5, 0.5], 2: [0.5, 0.5]}), heat_map({1: [0.5, 0.5], 2: [0.9, 0.1]})
    assert steady.shape == moved.shape and (steady != moved).any()


@pytest.mark.slow
def test_wandb_is_not_imported_unless_chosen():
    code = "import sys, wavlm_lightning.workflows.fit.command_line; sys.exit('wandb' in sys.modules or 'optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
