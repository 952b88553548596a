"""Name and bf16 instructions of the processor."""

import platform
from pathlib import Path


def cpu_bf16_instructions() -> list[str] | None:
    """The bf16 instructions of this processor, sorted; without any, fp32 is faster. None if the system does not tell."""
    words = set(_cpuinfo().split())
    return sorted(words & {"avx512_bf16", "amx_bf16", "bf16"}) if words else None  # `bf16` is that of Arm


def processor_name() -> str:
    """The processor's model name from /proc/cpuinfo, or Python's name for it, or the architecture (`aarch64`)."""
    for line in _cpuinfo().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""  # not Linux
