"""Curves: the rows of Lightning's logger, never half a file, and a run does not end because they cannot be written."""

from __future__ import annotations

import csv

import pytest
from lightning.pytorch.loggers import CSVLogger
from test_checkpoint_files import little_room

from wavlm_lightning.callbacks.curves import Curves


def log(logger: CSVLogger) -> None:
    for step in range(0, 500, 10):
        logger.log_metrics({"train/loss": 1 / (step + 1), "epoch": 0.0}, step)
        if step == 250:  # a column that is new
            logger.log_metrics({"valid/loss": 0.5}, step)
        if step % 50 == 0:
            logger.save()
    logger.finalize("success")


def test_the_file_is_lightnings(tmp_path):
    contents = []
    for kind in (CSVLogger, Curves):
        log(kind(tmp_path / kind.__name__, name="curves"))
        contents.append((tmp_path / kind.__name__ / "curves" / "version_0" / "metrics.csv").read_bytes())
    assert contents[0] == contents[1]
    assert [path.name for path in (tmp_path / "Curves" / "curves" / "version_0").iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize("metric", ["old", "new"])
def test_a_full_disk_loses_no_rows(tmp_path, metric):
    logger = Curves(tmp_path, name="curves")
    path = tmp_path / "curves" / "version_0" / "metrics.csv"
    for step in range(100):
        logger.log_metrics({"old": float(step)}, step)
    logger.save()
    before = path.read_bytes()
    logger.log_metrics({metric: 0.25}, 100)
    with little_room(len(before) + 4), pytest.warns(UserWarning, match="rows of curves could not be written yet"):
        logger.save()
    assert path.read_bytes() == before
    logger.finalize("success")
    rows = list(csv.DictReader(path.open()))
    assert len(rows) == 101 and rows[-1][metric] == "0.25" and rows[50]["old"] == "50.0"
