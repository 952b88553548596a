"""Peak memory of a step, on the GPU or the CPU."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path

import torch

from wavlm_lightning.system.errors import UserError

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
GIB = 2**30


def peak_added(step: Callable[[], object], device: str) -> float:
    """Run a step and measure by how much the memory in use rose at most.

    On a GPU this is memory allocated by PyTorch. On the CPU it is the resident memory of this process as Linux counts
    it, which is right only if the process did nothing large before: the step would reuse freed memory unnoticed.
    In GiB, at least one memory page; `device` is `cpu` or `cuda`.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / GIB
    try:
        CLEAR.write_text("5")  # the peak counts from here
        before = _resident("VmRSS")
        step()
        return max(_resident("VmHWM") - before, mmap.PAGESIZE) / GIB
    except OSError as error:
        raise UserError(f"peak memory on the CPU is read from {STATUS}, which only Linux has ({error})") from error


def _resident(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
