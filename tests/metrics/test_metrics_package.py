"""What importing the package costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from wavlm_lightning import metrics


def test_import_is_light():
    """Score tables read metrics/superb.py; they must not wait for torch."""
    program = (
        "import sys, wavlm_lightning.metrics; from wavlm_lightning.metrics.superb import score;"
        "print([name for name in ('torch', 'torchmetrics', 'scipy') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_every_public_name_is_there():
    for name in metrics.__all__:
        assert getattr(metrics, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'f1'"):
        metrics.f1  # noqa: B018
