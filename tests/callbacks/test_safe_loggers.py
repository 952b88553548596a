"""A run never dies of its logger: errors are said once, and W&B without a network logs offline within seconds."""

from __future__ import annotations

import errno
import http.server
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import Logger
from quiet import quiet_trainer

from wavlm_lightning.callbacks.safe_loggers import CALLED, PATIENCE, keep_running
from wavlm_lightning.callbacks.wandb_login import unreachable
from wavlm_lightning.tasks import KeywordSpotting, TaskData
from wavlm_lightning.upstreams import Fbank
from wavlm_lightning.workflows.fit import fit


class Broken(Logger):
    """Raises wherever Lightning calls it, in the way of a full disk or of a server."""

    calls: dict[str, int]

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error, self.calls = error or OSError(errno.ENOSPC, "No space left on device"), {}

    name, version = "broken", 0

    def _fail(self, what: str) -> None:
        self.calls[what] = self.calls.get(what, 0) + 1
        raise self.error

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self._fail("log_metrics")

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._fail("log_hyperparams")

    def save(self) -> None:
        self._fail("save")

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        self._fail("after_save_checkpoint")

    def finalize(self, status: str) -> None:
        self._fail("finalize")


def test_a_logger_that_raises_everywhere(tiny, capsys):
    logger = keep_running(Broken())
    trainer = quiet_trainer(max_steps=6, logger=logger, log_every_n_steps=1, limit_val_batches=1)
    trainer.fit(KeywordSpotting(Fbank()), TaskData(str(tiny / "ks"), batch_size=8))
    assert trainer.global_step == 6
    said = capsys.readouterr().err
    assert said.count("the logger Broken failed (OSError") == 1 and "the run goes on" in said
    assert sum(logger.calls.values()) == PATIENCE


def test_a_logger_that_recovers_is_called_again(capsys):
    class Sometimes(Broken):
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            self.calls["log_metrics"] = self.calls.get("log_metrics", 0) + 1
            if self.calls["log_metrics"] % 3:
                raise ConnectionError(f"try {self.calls['log_metrics']}")

    logger = keep_running(Sometimes())
    for _ in range(9):
        logger.log_metrics({})
    assert logger.calls["log_metrics"] == 9
    assert keep_running(logger) is logger and all(hasattr(logger, name) for name in ("log_metrics", "finalize"))
    assert {"log_metrics", "finalize", "save", "log_hyperparams"} <= set(CALLED)


def test_ctrl_c_in_a_logger_still_ends_the_run():
    logger = Broken()
    logger.error = KeyboardInterrupt()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        keep_running(logger).log_metrics({})


def test_it_is_used_by_the_command(tiny, tmp_path, capsys):
    words = ["-c", "configs/superb/mini/ks.yaml", "--model.upstream", "Fbank", "--data.corpus", str(tiny / "ks")]
    words += ["--data.cache", "null", "--trainer.accelerator", "cpu", "--trainer.max_steps", "2", "--threads", "1"]
    words += ["--trainer.logger", f"{__name__}.Broken", "--trainer.enable_progress_bar", "false"]
    run = fit(*words, "--trainer.log_every_n_steps", "1", "--trainer.default_root_dir", str(tmp_path / "run"))
    assert run.trainer.global_step == 2 and "the logger Broken failed" in capsys.readouterr().err
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: Any) -> None:
        pass


def test_whether_a_server_answers():
    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert unreachable(f"http://127.0.0.1:{server.server_port}", 5) is None
        server.shutdown()
    assert unreachable("http://127.0.0.1:9", 5) is not None
    assert unreachable("nonsense", 5) is not None
    with socket.socket() as silent:  # accepts, and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        begin = time.monotonic()
        assert unreachable(f"http://127.0.0.1:{silent.getsockname()[1]}", 0.5)
        assert time.monotonic() - begin < 5


def test_a_key_and_no_network(tiny, tmp_path, monkeypatch, capsys):
    for name in ("WANDB_MODE", "WANDB_RUN_ID", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_API_KEY", 4 * "0123456789")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    words = ["-c", "configs/superb/mini/ks.yaml", "--model.upstream", "Fbank", "--data.corpus", str(tiny / "ks")]
    words += ["--data.cache", "null", "--trainer.accelerator", "cpu", "--trainer.max_steps", "2", "--threads", "1"]
    words += ["--trainer.logger", "Wandb", "--trainer.default_root_dir", str(tmp_path / "run")]
    begin = time.monotonic()
    try:
        run = fit(*words, "--trainer.enable_progress_bar", "false")
    finally:
        if "wandb" in sys.modules:
            import wandb

            wandb.teardown()
    assert time.monotonic() - begin < 60 and run.trainer.global_step == 2
    assert "http://127.0.0.1:9 does not answer" in capsys.readouterr().err
    assert list(Path(tmp_path, "run", "wandb").glob("offline-run-*"))
    state = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert state["global_step"] == 2
