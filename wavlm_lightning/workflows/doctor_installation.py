"""The checks of `wavlm doctor` on what is installed: Python, packages and the libraries behind them."""

import platform
import sys
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path

from wavlm_lightning.workflows.doctor_finding import REPAIR_PAIR, Finding, first_line, installed_version


def check_python() -> Iterator[Finding]:
    """Python is new enough."""
    version = platform.python_version()
    if _numbers(version) < (3, 11):
        yield Finding("python", "FAIL", f"{version}; 3.11 or later is needed: `make install PYTHON=python3.11`")
    else:
        yield Finding("python", "ok", f"{version} at {sys.executable}")


def check_torch() -> Iterator[Finding]:
    """Torch and torchaudio import, and are of one release: torchaudio's wheel declares no dependency to ensure it."""
    versions = {name: installed_version(name) for name in ("torch", "torchaudio")}
    for name, version in versions.items():
        if version is None:
            yield Finding(name, "FAIL", f"not installed; {REPAIR_PAIR}")
            return
        try:
            import_module(name)
        # A torchaudio built for another torch raises RuntimeError (CUDA versions differ) or OSError (a library that
        # is not there), not only ImportError.
        except Exception as error:
            pair = " and ".join(f"{package} {found or 'missing'}" for package, found in versions.items())
            reason = f"{name} does not load ({type(error).__name__}: {first_line(error)})"
            yield Finding(name, "FAIL", f"{pair} are here, but {reason}; {REPAIR_PAIR}")
            return
    torch, torchaudio = (str(version) for version in versions.values())
    if torch.split(".")[:2] != torchaudio.split(".")[:2]:
        yield Finding("torch", "FAIL", f"torch {torch} and torchaudio {torchaudio} are no pair; {REPAIR_PAIR}")
    else:
        yield Finding("torch", "ok", f"torch {torch} and torchaudio {torchaudio} load together")


def check_packages() -> Iterator[Finding]:
    """Every package that pyproject.toml asks for is there, in a version it accepts."""
    from packaging.requirements import Requirement

    if installed_version("wavlm_lightning") is None:
        yield Finding(
            "packages", "warn", "wavlm_lightning itself is not installed here, only found: run `make install`"
        )
        return
    requirements = [Requirement(line) for line in metadata.requires("wavlm_lightning") or []]
    wrong = 0
    for requirement in requirements:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = installed_version(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            wrong += 1
            state = "is missing" if found is None else f"is {found}"
            fix = f"`pip install -c constraints.txt '{requirement}'`"
            yield Finding(
                requirement.name, "FAIL", f"{state}, {requirement.specifier or 'any version'} is needed: {fix}"
            )
    if not wrong:
        yield Finding("packages", "ok", "every required package is there in a version that fits")


def check_lightning() -> Iterator[Finding]:
    """Lightning is a version without known holes; only its metadata is read, since two versions are malicious."""
    for name in ("lightning", "pytorch-lightning"):
        found = installed_version(name)
        if found is None:
            if name == "lightning":
                yield Finding(name, "FAIL", "not installed: `pip install -c constraints.txt lightning`")
            continue
        if found in ("2.6.2", "2.6.3"):
            yield Finding(
                name,
                "FAIL",
                f"{found} was a malicious upload: uninstall it, change the passwords and tokens that this machine "
                "holds, then `pip install -c constraints.txt lightning`",
            )
        elif _numbers(found) < (2, 6, 6):
            yield Finding(
                name,
                "FAIL",
                f"{found} can run code hidden in a checkpoint (CVE-2026-58659); 2.6.6 or later is needed: "
                f"`pip install -c constraints.txt {name}`",
            )
        else:
            yield Finding(name, "ok", found)


def check_corpus_extra() -> Iterator[Finding]:
    """The synthesiser behind the mini corpus is there; it is an extra because it is GPL."""
    try:
        library = Path(import_module("espeakng_loader").get_library_path())
    except ImportError:
        fix = "`wavlm demo` and the mini corpus need it: `pip install -c constraints.txt -e '.[corpus]'`"
        yield Finding("corpus extra", "warn", f"espeakng-loader is not installed; {fix} (GPL-3.0-or-later)")
        return
    if library.is_file():
        yield Finding("corpus extra", "ok", f"espeak-ng at {library}")
    else:
        fix = "`pip install --force-reinstall -c constraints.txt espeakng-loader`"
        yield Finding("corpus extra", "warn", f"espeakng-loader is there but its library {library} is not: {fix}")


def check_audio() -> Iterator[Finding]:
    """Soundfile loads its library, and that library reads the formats that corpora come in."""
    try:
        formats = import_module("soundfile").available_formats()
    except (ImportError, OSError) as error:
        fix = "`pip install --force-reinstall -c constraints.txt soundfile`, or install libsndfile with your system"
        yield Finding("audio files", "FAIL", f"soundfile does not load ({first_line(error)}): {fix}")
        return
    if "FLAC" not in formats:
        yield Finding("audio files", "FAIL", "libsndfile reads no FLAC, which shards are made of; install 1.1 or later")
    elif "MP3" not in formats:
        yield Finding(
            "audio files", "warn", "libsndfile reads no MP3; install libsndfile 1.1 or later to prepare mp3 files"
        )
    else:
        yield Finding("audio files", "ok", "wav, flac, ogg and mp3 can be read")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".")[:3] if part.isdigit())
