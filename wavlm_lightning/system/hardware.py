"""What the processor of this machine is called, and what it is quick at."""

import platform
from pathlib import Path


def cpu_bf16_instructions() -> list[str] | None:
    """The bf16 instructions of this processor, by Linux's names in /proc/cpuinfo; without any, fp32 is the faster choice.

    Returns:
        Those found of `amx_bf16`, `avx512_bf16` and `bf16` (Arm), sorted; None if this system does not say.
    """
    words = set(_cpuinfo().split())
    return sorted(words & {"avx512_bf16", "amx_bf16", "bf16"}) if words else None


def processor_name() -> str:
    """The processor's model name from /proc/cpuinfo, else what Python calls it, else the architecture (`aarch64`)."""
    for line in _cpuinfo().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()


def _cpuinfo() -> str:
    """Empty where there is no such file."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
