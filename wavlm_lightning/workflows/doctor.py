"""The checks of `wavlm doctor`: Python, packages and their libraries, GPU, cores, memory, disk, cache, Weights & Biases.

A check is a function that yields findings. It must not fail because a package is broken: that is what it reports, so
packages are imported inside the checks. No check uses the network.
"""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Literal

from wavlm_lightning.callbacks.wandb_login import logged_in
from wavlm_lightning.system.errors import pip_install
from wavlm_lightning.system.hardware import cpu_bf16_instructions, slow_bf16, usable_cores
from wavlm_lightning.system.paths import cache_directory

Status = Literal["ok", "warn", "FAIL"]
GIB = 2**30
REPAIR_PAIR = (
    "torch and torchaudio must be of one release and one build: put the tested pair back with "
    "`pip install --force-reinstall -c constraints.txt torch torchaudio` (or delete .venv and run `make install`)"
)


@dataclass(frozen=True)
class Finding:
    """A line of the report."""

    check: str  # what was checked, such as `torch` or `disk`
    status: Status  # `warn`: it works, but look at it
    message: str  # what was found and, if something is wrong, the command that repairs it


Check = Callable[[], Iterator[Finding]]


def examine(checks: tuple[Check, ...] | None = None) -> list[Finding]:
    """Run the checks one by one; a check that raises becomes a warning and does not stop the others.

    Args:
        checks: which ones; all by default.

    Example:
        >>> [finding.check for finding in examine() if finding.status == "FAIL"]
        []
    """
    findings = []
    for check in CHECKS if checks is None else checks:
        try:
            findings += list(check())
        except Exception as error:
            name = check.__name__.removeprefix("check_").replace("_", " ")
            findings.append(Finding(name, "warn", f"could not be checked: {_first_line(error)}"))
    return findings


def check_python() -> Iterator[Finding]:
    """Python is 3.11 or later."""
    version = platform.python_version()
    if _numbers(version) < (3, 11):
        yield Finding("python", "FAIL", f"{version}; 3.11 or later is needed: `make install PYTHON=python3.11`")
    else:
        yield Finding("python", "ok", f"{version} at {sys.executable}")


def check_torch() -> Iterator[Finding]:
    """Torch and torchaudio import and are of one release (torchaudio's wheel does not declare its dependency on torch)."""
    versions = {name: _installed_version(name) for name in ("torch", "torchaudio")}
    for name, version in versions.items():
        if version is None:
            yield Finding(name, "FAIL", f"not installed; {REPAIR_PAIR}")
            return
        try:
            import_module(name)
        # A torchaudio built for another torch raises RuntimeError (CUDA versions differ) or OSError (a missing
        # library), not only ImportError.
        except Exception as error:
            pair = " and ".join(f"{package} {found or 'missing'}" for package, found in versions.items())
            reason = f"{name} does not load ({type(error).__name__}: {_first_line(error)})"
            yield Finding(name, "FAIL", f"{pair} are installed, but {reason}; {REPAIR_PAIR}")
            return
    torch, torchaudio = (str(version) for version in versions.values())
    if torch.split(".")[:2] != torchaudio.split(".")[:2]:
        message = f"torch {torch} and torchaudio {torchaudio} do not belong together; {REPAIR_PAIR}"
        yield Finding("torch", "FAIL", message)
    else:
        yield Finding("torch", "ok", f"torch {torch} and torchaudio {torchaudio} load together")


def check_packages() -> Iterator[Finding]:
    """Every package that pyproject.toml requires is installed in an accepted version."""
    from packaging.requirements import Requirement

    if _installed_version("wavlm_lightning") is None:
        message = "wavlm_lightning is imported from a folder, but not installed: run `make install`"
        yield Finding("packages", "warn", message)
        return
    requirements = [Requirement(line) for line in metadata.requires("wavlm_lightning") or []]
    wrong = 0
    for requirement in requirements:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = _installed_version(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            wrong += 1
            state = "is missing" if found is None else f"is {found}"
            needed = f"{requirement.specifier or 'any version'} is needed"
            fix = f"`pip install -c constraints.txt '{requirement}'`"
            yield Finding(requirement.name, "FAIL", f"{state}, {needed}: {fix}")
    if not wrong:
        yield Finding("packages", "ok", "every required package is installed in an accepted version")


def check_lightning() -> Iterator[Finding]:
    """Lightning is a version without known vulnerabilities.

    Only the metadata is read: importing one of the two malicious versions would already do harm.
    """
    for name in ("lightning", "pytorch-lightning"):
        found = _installed_version(name)
        if found is None:
            if name == "lightning":
                yield Finding(name, "FAIL", "not installed: `pip install -c constraints.txt lightning`")
        elif found in ("2.6.2", "2.6.3"):
            cure = "uninstall it, change the passwords and tokens that this machine holds, then"
            fix = "`pip install -c constraints.txt lightning`"
            yield Finding(name, "FAIL", f"{found} was a malicious upload: {cure} {fix}")
        elif _numbers(found) < (2, 6, 6):
            needed = f"2.6.6 or later is needed: `pip install -c constraints.txt {name}`"
            yield Finding(name, "FAIL", f"{found} can run code hidden in a checkpoint (CVE-2026-58659); {needed}")
        else:
            yield Finding(name, "ok", found)


def check_corpus_extra() -> Iterator[Finding]:
    """The synthesiser of the mini corpus is installed; it is an extra because of its licence (GPL)."""
    try:
        library = Path(import_module("espeakng_loader").get_library_path())
    except ImportError:
        fix = f"`wavlm demo` and the mini corpus need it: {pip_install('corpus')}"
        yield Finding("corpus extra", "warn", f"espeakng-loader is not installed; {fix} (GPL-3.0-or-later)")
        return
    if library.is_file():
        yield Finding("corpus extra", "ok", f"espeak-ng at {library}")
    else:
        fix = "`pip install --force-reinstall -c constraints.txt espeakng-loader`"
        message = f"espeakng-loader is installed, but its library {library} is missing: {fix}"
        yield Finding("corpus extra", "warn", message)


def check_audio() -> Iterator[Finding]:
    """Soundfile loads libsndfile, which reads the audio formats of corpora."""
    try:
        formats = import_module("soundfile").available_formats()
    except (ImportError, OSError) as error:
        fix = "`pip install --force-reinstall -c constraints.txt soundfile`, or install libsndfile with your system"
        yield Finding("audio files", "FAIL", f"soundfile does not load ({_first_line(error)}): {fix}")
        return
    newer = "install libsndfile 1.1 or later"
    if "FLAC" not in formats:
        yield Finding("audio files", "FAIL", f"libsndfile cannot read FLAC, the format of shards; {newer}")
    elif "MP3" not in formats:
        yield Finding("audio files", "warn", f"libsndfile cannot read MP3; {newer} to prepare mp3 files")
    else:
        yield Finding("audio files", "ok", "wav, flac, ogg and mp3 can be read")


def check_device() -> Iterator[Finding]:
    """The GPU, if there is one, and whether GPU and processor have bf16 instructions."""
    torch, unused = import_module("torch"), "there is an NVIDIA GPU, but"
    has_driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        if torch.cuda.is_bf16_supported(including_emulation=False):
            yield Finding("gpu", "ok", f"{', '.join(names)}; bf16 supported")
        else:
            yield Finding("gpu", "warn", f"{', '.join(names)}; without bf16, set `--trainer.precision 16-mixed`")
    elif has_driver and torch.version.cuda is None:
        yield Finding("gpu", "warn", f"{unused} torch {torch.__version__} is built without CUDA; {REPAIR_PAIR}")
    elif has_driver and os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        yield Finding("gpu", "warn", f"{unused} CUDA_VISIBLE_DEVICES hides it: `unset CUDA_VISIBLE_DEVICES`")
    elif has_driver:
        needed = f"the driver may be too old for torch's CUDA {torch.version.cuda}: run `nvidia-smi` and update it"
        yield Finding("gpu", "warn", f"{unused} torch cannot use it; {needed}")
    else:
        yield Finding("gpu", "ok", "none; the demo and the tests run on the CPU, full-size pre-training needs one")
    if slow := slow_bf16("bf16-mixed"):
        yield Finding("cpu bf16", "warn", slow)
    else:
        bf16 = cpu_bf16_instructions()
        yield Finding("cpu bf16", "ok", f"yes ({', '.join(bf16)})" if bf16 else "instructions unknown on this system")


def check_cores() -> Iterator[Finding]:
    """There are no more threads than cores that this process may use."""
    cores = usable_cores()
    quota = _read_words("/sys/fs/cgroup/cpu.max")
    allowed = int(quota[0]) / int(quota[1]) if len(quota) == 2 and quota[0].isdigit() else cores
    threads = int(os.environ.get("OMP_NUM_THREADS") or cores)
    if threads > allowed + 0.5:
        advice = f"set OMP_NUM_THREADS={max(1, int(allowed))}, because surplus threads wait for each other"
        yield Finding("cores", "warn", f"{threads} threads for {allowed:.1f} cores; {advice}")
    else:
        yield Finding("cores", "ok", f"{cores} ({threads} threads)")


def check_memory() -> Iterator[Finding]:
    """There is enough memory for the demo."""
    if (memory := _memory()) is not None:
        status: Status = "ok" if memory >= 4 * GIB else "warn"
        hint = "" if status == "ok" else "; the demo needs 4, close other programs"
        yield Finding("memory", status, f"{memory / GIB:.1f} GiB available{hint}")


def check_disk() -> Iterator[Finding]:
    """There is disk space in the working directory."""
    free = shutil.disk_usage(Path.cwd()).free
    status: Status = "ok" if free >= 5 * GIB else "warn" if free >= GIB else "FAIL"
    hint = "" if status == "ok" else "; delete something, or work in a directory on another disk"
    yield Finding("disk", status, f"{free / GIB:.1f} GiB free in {Path.cwd()}{hint}")


def check_cache() -> Iterator[Finding]:
    """The cache directory can be written."""
    directory = cache_directory()
    nearest = next(path for path in (directory, *directory.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        reason = f"{directory} cannot be written ({error.strerror or _first_line(error)})"
        yield Finding("cache", "FAIL", f"{reason}: set WAVLM_CACHE to a directory of yours")
    else:
        yield Finding("cache", "ok", f"{directory} can be written")


def check_wandb() -> Iterator[Finding]:
    """Whether a run that logs to Weights & Biases goes to the server or stays on this machine."""
    mode = os.environ.get("WANDB_MODE", "").lower()
    if _installed_version("wandb") is None:
        fix = "`pip install -c constraints.txt wandb`"
        yield Finding("wandb", "warn", f"not installed; runs then log to CSV only: {fix}")
    elif mode in ("offline", "disabled", "dryrun"):
        yield Finding("wandb", "ok", f"WANDB_MODE={mode}")
    elif logged_in():
        yield Finding("wandb", "ok", "logged in on this machine (the key itself was not tried)")
    else:
        yield Finding("wandb", "ok", "not logged in: runs are written offline")


CHECKS: tuple[Check, ...] = (
    check_python, check_torch, check_packages, check_lightning, check_corpus_extra, check_audio,
    check_device, check_cores, check_memory, check_disk, check_cache, check_wandb,
)  # fmt: skip


def _installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _first_line(error: Exception) -> str:
    """The first line of an error's message, at most 200 characters; its type if there is no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".")[:3] if part.isdigit())


def _read_words(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").split()
    except OSError:
        return []


def _memory() -> int | None:
    """Bytes available to this process, within the limit of its container; None if unknown."""
    words = _read_words("/proc/meminfo")
    if "MemAvailable:" not in words:
        return None
    available = int(words[words.index("MemAvailable:") + 1]) * 1024
    limit, used = _read_words("/sys/fs/cgroup/memory.max"), _read_words("/sys/fs/cgroup/memory.current")
    if limit and used and limit[0].isdigit():
        available = min(available, int(limit[0]) - int(used[0]))
    return available
