"""Peak memory of a step, in a process that has done nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest

from wavlm_lightning.system.peak_memory import CLEAR

PROGRAM = """
import numpy
from wavlm_lightning.system.peak_memory import peak_added

def step():
    big = numpy.ones(64 * 2**20, dtype=numpy.uint8)
    del big
    return numpy.ones(16 * 2**20, dtype=numpy.uint8)

print(peak_added(step, "cpu"))
"""


@pytest.mark.skipif(not CLEAR.exists(), reason="only Linux counts so")
@pytest.mark.slow
def test_what_is_freed_again_counts_and_what_follows_does_not_add():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert 60 / 1024 < float(done.stdout) < 72 / 1024
