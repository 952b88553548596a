"""Curves as CSV whatever loggers are named; Lightning's CSV and TensorBoard loggers write to the run folder."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import pytest
import yaml
from same_runs import options

from wavlm_lightning.cli import main
from wavlm_lightning.workflows.fit.loggers import in_run_folder


def files(folder: Path, *left_out: str) -> set[str]:
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {path for path in found if not path.startswith(("checkpoints", *left_out))}


def columns(path: Path) -> set[str]:
    with path.open() as file:
        return set(next(csv.reader(file)))


def test_a_csv_logger_is_the_curves_of_the_run(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = options(tiny, "ks", "--data.cache", "null", "--trainer.logger", "CSVLogger", updates=2)
    assert main(["fit", *words, "--trainer.default_root_dir", "run"]) == 0
    assert files(tmp_path / "run") == {"config.yaml", "curves/version_0/metrics.csv"}
    assert main(["test", "run"]) == 0  # no curves of a test, as without a logger
    assert files(tmp_path / "run") == {"config.yaml", "curves/version_0/metrics.csv", "card.json", "utterances.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    words += ["--trainer.default_root_dir", "run", "--trainer.max_steps", "4", "--ckpt_path", "last"]
    assert main(["fit", *words]) == 0
    assert "curves/version_1/metrics.csv" in files(tmp_path / "run")


def test_loggers_of_a_yaml_and_a_run_that_moves(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = [{"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"prefix": "mine"}}]
    Path("loggers.yaml").write_text(yaml.safe_dump({"trainer": {"logger": named}}))
    words = options(tiny, "ks", "--data.cache", "null", "-c", "loggers.yaml", updates=2)
    assert main(["fit", *words, "--trainer.default_root_dir", "run"]) == 0
    assert "mine-valid/accuracy" in columns(Path("run/csv/version_0/metrics.csv"))
    assert "valid/accuracy" in columns(Path("run/curves/version_0/metrics.csv"))
    Path("run").rename("moved")
    assert main(["test", "moved"]) == 0
    assert "moved" in {path.name for path in tmp_path.iterdir()} and not Path("run").exists()
    assert "mine-test/accuracy" in columns(Path("moved/csv/version_1/metrics.csv"))


def test_a_folder_that_is_given_counts(tiny, tmp_path):
    place = tmp_path / "place"
    words = options(tiny, "ks", "--data.cache", "null", "--trainer.logger", "CSVLogger", updates=2)
    words += ["--trainer.logger.save_dir", str(place), "--trainer.default_root_dir", str(tmp_path / "run")]
    assert main(["fit", *words]) == 0
    assert "valid/accuracy" in columns(place / "lightning_logs" / "version_0" / "metrics.csv")
    assert "valid/accuracy" in columns(tmp_path / "run" / "curves" / "version_0" / "metrics.csv")
    kept = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["trainer"]["logger"]
    assert kept["init_args"]["save_dir"] == str(place)


def test_several_heads_keep_their_curves(tiny, tmp_path):
    words = options(tiny, "ks", "--data.cache", "null", "--trainer.logger", "CSVLogger", updates=2)
    words += ["--model.learning_rate", "[1e-2, 1e-3]", "--trainer.default_root_dir", str(tmp_path / "run")]
    assert main(["fit", *words]) == 0
    for label in ("learning-rate-0.01", "learning-rate-0.001"):
        assert "valid/accuracy" in columns(tmp_path / "run" / label / "curves" / "version_0" / "metrics.csv")


def test_false_switches_the_curves_off(tiny, tmp_path):
    words = options(tiny, "ks", "--data.cache", "null", "--trainer.logger=false", updates=2)
    assert main(["fit", *words, "--trainer.default_root_dir", str(tmp_path / "run")]) == 0
    assert files(tmp_path / "run") == {"config.yaml"}


def test_tensorboard(tiny, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    words = options(tiny, "ks", "--data.cache", "null", "--trainer.logger", "TensorBoardLogger", updates=2)
    assert main(["fit", *words, "--trainer.default_root_dir", "run"]) == 0
    written = files(tmp_path / "run")
    assert [path for path in written if path.startswith("tensorboard/version_0/events.")]
    assert "curves/version_0/metrics.csv" in written and {path.name for path in tmp_path.iterdir()} == {"run"}


def test_without_tensorboard(tiny, tmp_path, monkeypatch, capsys):
    known = importlib.util.find_spec
    absent = ("tensorboard", "tensorboardX")
    monkeypatch.setattr(
        "wavlm_lightning.workflows.fit.loggers.find_spec", lambda name: None if name in absent else known(name)
    )
    words = options(tiny, "ks", "--trainer.logger", "TensorBoardLogger")
    assert main(["fit", *words, "--trainer.default_root_dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "trainer.logger: TensorBoardLogger needs TensorBoard: " in said and "[tensorboard]" in said


@pytest.mark.parametrize(
    "value", ["true", "Wandb", "my.CSVLogger", "{class_path: CSVLogger, init_args: {save_dir: x}}", "[1, 2"]
)
def test_others_are_left_as_they_are(value):
    assert in_run_folder(["--trainer.logger", value]) == ["--trainer.logger", value]
    assert in_run_folder([f"--trainer.logger={value}", "-c", "missing.yaml"])[0] == f"--trainer.logger={value}"
