"""CPU threads of a fit: chosen once, kept in the run folder, used again when the run is resumed."""

from __future__ import annotations

import pytest
import torch
import yaml

from wavlm_lightning.cli import main
from wavlm_lightning.system import hardware
from wavlm_lightning.workflows.fit import command_line


@pytest.fixture
def options(tiny, tmp_path) -> list[str]:
    """A short run of the KS head on spectral features; torch's setting is put back afterwards."""
    return [
        *("fit", "-c", "configs/superb/mini/ks.yaml", "--model.upstream", "Fbank", "--model.upstream.cmvn", "false"),
        *("--data.corpus", str(tiny / "ks"), "--data.cache", "null", "--trainer.accelerator", "cpu"),
        *("--trainer.default_root_dir", str(tmp_path / "run"), "--trainer.val_check_interval", "2"),
    ]


@pytest.fixture(autouse=True)
def torch_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def kept(tmp_path) -> int | None:
    return yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["threads"]


def test_the_choice_is_written_and_kept_on_resume(options, tmp_path, monkeypatch):
    """The timing says 1 thread at the start; it is not asked again."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    asked = []
    monkeypatch.setattr(command_line, "LONG", 1)
    monkeypatch.setattr(command_line, "fastest_threads", lambda: asked.append(1) or 1)
    torch.set_num_threads(2)
    assert main([*options, "--trainer.max_steps", "2"]) == 0
    assert (asked, kept(tmp_path), torch.get_num_threads()) == ([1], 1, 1)
    torch.set_num_threads(2)
    assert main([*options, "--trainer.max_steps", "4", "--ckpt_path", "last"]) == 0
    assert (asked, kept(tmp_path), torch.get_num_threads()) == ([1], 1, 1)


def test_what_the_user_set_is_not_timed(options, tmp_path, monkeypatch):
    monkeypatch.setattr(command_line, "LONG", 1)
    monkeypatch.setattr(command_line, "fastest_threads", lambda: pytest.fail("timed"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main([*options, "--trainer.max_steps", "2"]) == 0
    assert kept(tmp_path) is None
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert main([*options, "--trainer.max_steps", "4", "--ckpt_path", "last", "--threads", "1"]) == 0
    assert kept(tmp_path) == 1


def test_a_short_run_is_not_timed(options, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(command_line, "fastest_threads", lambda: pytest.fail("timed"))
    assert main([*options, "--trainer.max_steps", "2"]) == 0


@pytest.mark.parametrize(("precision", "warns"), [("bf16-mixed", True), ("32-true", False)])
def test_bf16_that_costs_time_is_said(options, monkeypatch, capsys, precision, warns):
    monkeypatch.setattr(hardware, "_cpuinfo", lambda: "model name : Old Xeon\nflags : avx512f\n")
    assert main([*options, "--trainer.fast_dev_run", "true", "--trainer.precision", precision]) == 0
    assert ("note: Old Xeon has no bf16 instructions" in capsys.readouterr().err) == warns


def test_no_threads_are_refused(options, capsys):
    assert main([*options, "--threads", "0"]) == 2
    assert "--threads 0: must be 1 or more" in capsys.readouterr().err
