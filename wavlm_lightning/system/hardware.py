"""The machine: name and bf16 instructions of its processor, and the device that a command runs on."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from wavlm_lightning.system.errors import UserError

if TYPE_CHECKING:
    import torch


def cpu_bf16_instructions() -> list[str] | None:
    """The bf16 instructions of this processor, sorted; without any, fp32 is faster. None if the system does not tell."""
    words = set(_cpuinfo().split())
    return sorted(words & {"avx512_bf16", "amx_bf16", "bf16"}) if words else None  # `bf16` is that of Arm


def slow_bf16(precision: object) -> str | None:
    """Why a precision such as `bf16-mixed` costs time on this processor, one sentence; None if it does not or nobody knows."""
    if "bf16" not in str(precision) or cpu_bf16_instructions() != []:
        return None
    return (
        f"{processor_name()} has no bf16 instructions (avx512_bf16, amx_bf16), and {precision} takes longer than 32-true on "
        "it, ten times as long without AVX-512; set --trainer.precision 32-true"
    )


def processor_name() -> str:
    """The processor's model name from /proc/cpuinfo, or Python's name for it, or the architecture (`aarch64`)."""
    for line in _cpuinfo().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()


def machine_facts(device: torch.device) -> dict[str, str]:
    """Processor, its cores, threads of PyTorch and the device of a computation, for result cards and reports."""
    import torch

    cuda = device.type == "cuda"
    return {
        "processor": processor_name(),
        "cores": str(os.cpu_count() or 1),
        "threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name(device) if cuda else device.type.upper(),
    }


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""  # not Linux


def usable_cores() -> int:
    """Cores that this process may use: fewer than the machine has under taskset, in a container or in a SLURM job."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def capped(processes: int, option: str) -> int:
    """At most one process for each usable core; a line says so, once, if `option` asked for more."""
    cores = usable_cores()
    if processes > cores:
        _note_capped(processes, option, cores)
    return min(processes, cores)


@cache
def _note_capped(processes: int, option: str, cores: int) -> None:
    from wavlm_lightning.system.progress import say

    say(f"note: {option} is {processes}, but this process may use {cores} core{'s'[: cores > 1]}: {cores} are started")


def choose_device(name: str | None = None) -> torch.device:
    """The device that `--device` names, or the GPU if there is one, or the processor.

    Args:
        name: such as `cpu`, `cuda` or `cuda:1`; None chooses.

    Raises:
        UserError: PyTorch cannot use that device on this machine.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)  # a device that PyTorch knows by name may still be missing here
    except (RuntimeError, AssertionError) as error:  # AssertionError: PyTorch was built without CUDA
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name}: not usable here ({reason}); `wavlm doctor` checks this machine") from error
    return device
