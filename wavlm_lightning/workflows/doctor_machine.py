"""The checks of `wavlm doctor` on the machine: what there is to compute on, room, and what the user has set up."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from wavlm_lightning.callbacks.wandb_login import logged_in
from wavlm_lightning.system.hardware import cpu_bf16_instructions
from wavlm_lightning.system.paths import cache_directory
from wavlm_lightning.workflows.doctor_finding import REPAIR_PAIR, Finding, Status, first_line, installed_version

GIB = 2**30


def check_device() -> Iterator[Finding]:
    """What there is to compute on, and whether bf16 is fast there."""
    torch = import_module("torch")
    has_driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        if torch.cuda.is_bf16_supported(including_emulation=False):
            yield Finding("gpu", "ok", f"{', '.join(names)}; bf16 supported")
        else:
            yield Finding("gpu", "warn", f"{', '.join(names)}; no bf16, set `--trainer.precision 16-mixed`")
    elif has_driver and torch.version.cuda is None:
        yield Finding(
            "gpu", "warn", f"there is an NVIDIA GPU, but torch {torch.__version__} is built without CUDA; {REPAIR_PAIR}"
        )
    elif has_driver and os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        yield Finding(
            "gpu", "warn", "there is an NVIDIA GPU, but CUDA_VISIBLE_DEVICES hides it: `unset CUDA_VISIBLE_DEVICES`"
        )
    elif has_driver:
        needed = f"the driver may be too old for torch's CUDA {torch.version.cuda}: run `nvidia-smi` and update it"
        yield Finding("gpu", "warn", f"there is an NVIDIA GPU, but torch cannot use it; {needed}")
    else:
        yield Finding("gpu", "ok", "none; the demo and the tests run on the CPU, full-size pre-training needs one")
    bf16 = cpu_bf16_instructions()
    slow = (
        "bf16 instructions unknown on this system"
        if bf16 is None
        else "no bf16 instructions: fp32 is the faster choice here"
    )
    yield Finding("cpu bf16", "ok", f"yes ({', '.join(bf16)})" if bf16 else slow)


def check_cores() -> Iterator[Finding]:
    """As many threads as cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _read_words("/sys/fs/cgroup/cpu.max")
    allowed = int(quota[0]) / int(quota[1]) if len(quota) == 2 and quota[0].isdigit() else cores
    threads = int(os.environ.get("OMP_NUM_THREADS") or cores)
    if threads > allowed + 0.5:
        advice = f"set OMP_NUM_THREADS={max(1, int(allowed))}, or the threads wait for each other"
        yield Finding("cores", "warn", f"{threads} threads for {allowed:.1f} cores; {advice}")
    else:
        yield Finding("cores", "ok", f"{cores} ({threads} threads)")


def check_memory() -> Iterator[Finding]:
    """Memory suffices for the demo."""
    if (memory := _memory()) is not None:
        status: Status = "ok" if memory >= 4 * GIB else "warn"
        hint = "" if status == "ok" else "; the demo wants 4, close other programs"
        yield Finding("memory", status, f"{memory / GIB:.1f} GiB available{hint}")


def check_disk() -> Iterator[Finding]:
    """There is room where runs are written."""
    free = shutil.disk_usage(Path.cwd()).free
    status: Status = "ok" if free >= 5 * GIB else "warn" if free >= GIB else "FAIL"
    hint = "" if status == "ok" else "; make room, or run in a directory on another disk"
    yield Finding("disk", status, f"{free / GIB:.1f} GiB free in {Path.cwd()}{hint}")


def check_cache() -> Iterator[Finding]:
    """The cache directory can be written; nothing is left behind."""
    directory = cache_directory()
    nearest = next(path for path in (directory, *directory.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        reason = error.strerror or first_line(error)
        yield Finding(
            "cache", "FAIL", f"{directory} cannot be written ({reason}): set WAVLM_CACHE to a directory of yours"
        )
        return
    yield Finding("cache", "ok", f"{directory} can be written")


def check_wandb() -> Iterator[Finding]:
    """Where a run that logs to Weights & Biases would write."""
    mode = os.environ.get("WANDB_MODE", "").lower()
    if installed_version("wandb") is None:
        yield Finding(
            "wandb", "warn", "not installed; runs then log to CSV only: `pip install -c constraints.txt wandb`"
        )
    elif mode in ("offline", "disabled", "dryrun"):
        yield Finding("wandb", "ok", f"WANDB_MODE={mode}")
    elif logged_in():
        yield Finding("wandb", "ok", "logged in on this machine (the key itself was not tried)")
    else:
        yield Finding("wandb", "ok", "not logged in: runs are written offline")


def _read_words(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").split()
    except OSError:
        return []


def _memory() -> int | None:
    """Bytes still available to this process, in a container what its limit leaves; None if unknown."""
    words = _read_words("/proc/meminfo")
    if "MemAvailable:" not in words:
        return None
    available = int(words[words.index("MemAvailable:") + 1]) * 1024
    limit, used = _read_words("/sys/fs/cgroup/memory.max"), _read_words("/sys/fs/cgroup/memory.current")
    if limit and used and limit[0].isdigit():
        available = min(available, int(limit[0]) - int(used[0]))
    return available
