import builtins
import importlib
import json
from importlib import metadata
from types import SimpleNamespace

import pytest

from wavlm_lightning.cli import doctor
from wavlm_lightning.system import hardware
from wavlm_lightning.workflows import doctor as checks


@pytest.fixture
def versions(monkeypatch):
    """Pretends that packages have other versions; None stands for a package that is not installed."""
    faked = {}
    real = metadata.version

    def version(name):
        if name in faked:
            if faked[name] is None:
                raise metadata.PackageNotFoundError(name)
            return faked[name]
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    return faked


@pytest.fixture
def modules(monkeypatch):
    """Pretends that importing a module gives this object, or raises it."""
    faked = {}

    def import_module(name):
        if isinstance(faked.get(name), Exception):
            raise faked[name]
        return faked[name] if name in faked else importlib.import_module(name)

    monkeypatch.setattr(checks, "import_module", import_module)
    return faked


def only(check):
    findings = checks.examine((check,))
    assert len(findings) == 1, findings
    return findings[0]


def test_it_runs_here_and_prints_one_line_a_finding(capsys):
    code = doctor.main([])
    lines = capsys.readouterr().out.strip().splitlines()
    assert all(line.split()[0] in ("ok", "warn", "FAIL") for line in lines[:-2])
    assert code == any(line.startswith("FAIL") for line in lines)


def test_json_has_the_same_findings(capsys):
    code = doctor.main(["--json"])
    content = json.loads(capsys.readouterr().out)
    assert content["ok"] is (code == 0)
    assert {"python", "torch", "cache", "disk"} <= {finding["check"] for finding in content["findings"]}


def test_only_a_failure_changes_the_exit_status(monkeypatch, capsys):
    def warns():
        yield checks.Finding("a", "warn", "look")

    def fails():
        yield checks.Finding("b", "FAIL", "repair")

    monkeypatch.setattr(checks, "CHECKS", (warns,))
    assert doctor.main([]) == 0
    monkeypatch.setattr(checks, "CHECKS", (warns, fails))
    assert doctor.main([]) == 1
    assert "1 failed, 1 to look at" in capsys.readouterr().out


def test_a_check_that_breaks_stops_no_other():
    def check_first():
        yield checks.Finding("begun", "ok", "")
        raise ZeroDivisionError("the sky fell\nsecond line")

    findings = checks.examine((check_first, checks.check_disk))
    assert findings[0].check == "first" and findings[0].message == "could not be checked: the sky fell"
    assert findings[1].check == "disk"


def test_with_nothing_importable_every_check_still_answers(monkeypatch, versions, modules):
    for name in ("torch", "torchaudio", "lightning", "pytorch-lightning", "wandb", "wavlm_lightning", "soundfile"):
        versions[name] = None
    for name in ("torch", "torchaudio", "soundfile", "espeakng_loader"):
        modules[name] = ImportError(f"No module named {name!r}")
    monkeypatch.setattr(checks.platform, "python_version", lambda: "3.9.1")
    findings = {finding.check: finding for finding in checks.examine()}
    assert findings["python"].status == findings["torch"].status == findings["audio files"].status == "FAIL"
    assert findings["lightning"].status == "FAIL"
    assert {"memory", "disk", "cache"} <= set(findings)


@pytest.mark.parametrize(
    ("module", "error"),
    [
        (
            "torchaudio",
            RuntimeError("Detected that PyTorch and TorchAudio were compiled with different CUDA versions."),
        ),
        ("torchaudio", OSError("libc10_cuda.so: cannot open shared object file")),
        ("torch", ImportError("libcudart.so.13: cannot open shared object file")),
    ],
)
def test_a_pair_that_does_not_load_is_explained(modules, module, error):
    modules[module] = error
    finding = only(checks.check_torch)
    assert (finding.check, finding.status) == (module, "FAIL")
    for words in ("constraints.txt", "make install", str(error)[:40], type(error).__name__):
        assert words in finding.message


def test_two_releases_are_no_pair_even_if_they_load(versions):
    versions["torchaudio"] = "2.10.0"
    finding = only(checks.check_torch)
    assert finding.status == "FAIL" and "2.10.0" in finding.message


def test_packages_are_held_against_the_metadata(versions, monkeypatch):
    monkeypatch.setattr(metadata, "requires", lambda name: ["torch==2.11.*", "nothere>=1", "dev-only; extra == 'dev'"])
    versions |= {"wavlm_lightning": "0.1.0", "torch": "2.15.0", "nothere": None}
    findings = {finding.check: finding for finding in checks.examine((checks.check_packages,))}
    assert set(findings) == {"torch", "nothere"}
    assert "is 2.15.0, ==2.11.* is needed" in findings["torch"].message
    assert "is missing" in findings["nothere"].message
    versions |= {"torch": "2.11.0+cu130", "nothere": "1.2"}
    assert only(checks.check_packages).status == "ok"


@pytest.mark.parametrize(
    ("version", "status", "words"),
    [("2.6.6", "ok", ""), ("2.7.0", "ok", ""), ("2.6.5", "FAIL", "CVE-2026-58659"), ("2.6.3", "FAIL", "malicious"),
     ("2.5", "FAIL", "2.6.6 or later")],
)  # fmt: skip
def test_unsafe_lightning_is_refused_without_importing_it(versions, version, status, words, monkeypatch):
    real = builtins.__import__

    def guarded(name, *arguments, **keywords):
        assert name.split(".")[0] not in ("lightning", "pytorch_lightning")
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", guarded)
    versions |= {"lightning": version, "pytorch-lightning": None}
    finding = only(checks.check_lightning)
    assert finding.status == status and words in finding.message


def test_the_corpus_extra(modules, tmp_path):
    modules["espeakng_loader"] = ImportError("no")
    finding = only(checks.check_corpus_extra)
    assert finding.status == "warn" and "[corpus]" in finding.message and "GPL" in finding.message
    modules["espeakng_loader"] = SimpleNamespace(get_library_path=lambda: str(tmp_path / "gone.so"))
    assert "gone.so is missing" in only(checks.check_corpus_extra).message
    (tmp_path / "gone.so").touch()
    assert only(checks.check_corpus_extra).status == "ok"


@pytest.mark.parametrize(
    ("soundfile", "status", "words"),
    [
        (OSError("sndfile library not found"), "FAIL", "libsndfile"),
        (SimpleNamespace(available_formats=lambda: {"WAV": ""}), "FAIL", "FLAC"),
        (SimpleNamespace(available_formats=lambda: {"FLAC": ""}), "warn", "MP3"),
        (SimpleNamespace(available_formats=lambda: {"FLAC": "", "MP3": ""}), "ok", "mp3"),
    ],
)
def test_audio_formats(modules, soundfile, status, words):
    modules["soundfile"] = soundfile
    finding = only(checks.check_audio)
    assert finding.status == status and words in finding.message


def fake_torch(available=False, built="13.0", bf16=True):
    cuda = SimpleNamespace(
        is_available=lambda: available, device_count=lambda: 1, get_device_name=lambda index: "Card",
        is_bf16_supported=lambda including_emulation: bf16,
    )  # fmt: skip
    return SimpleNamespace(cuda=cuda, version=SimpleNamespace(cuda=built), __version__="2.11.0")


@pytest.mark.parametrize(
    ("torch", "driver", "hidden", "status", "words"),
    [
        (fake_torch(), False, None, "ok", "none"),
        (fake_torch(built=None), True, None, "warn", "built without CUDA"),
        (fake_torch(), True, "", "warn", "CUDA_VISIBLE_DEVICES hides"),
        (fake_torch(), True, None, "warn", "driver"),
        (fake_torch(available=True), True, None, "ok", "Card; bf16"),
        (fake_torch(available=True, bf16=False), True, None, "warn", "16-mixed"),
    ],
)
def test_devices(modules, monkeypatch, torch, driver, hidden, status, words):
    modules["torch"] = torch
    monkeypatch.setattr(checks.shutil, "which", lambda name: "/usr/bin/nvidia-smi" if driver else None)
    monkeypatch.setattr(hardware, "_cpuinfo", lambda: "flags\t\t: avx512_bf16 sse\n")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    if not driver and checks.Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has an NVIDIA driver")
    gpu, cpu = checks.examine((checks.check_device,))
    assert (gpu.check, gpu.status) == ("gpu", status) and words in gpu.message
    assert cpu.message == "yes (avx512_bf16)"


@pytest.mark.parametrize(
    ("facts", "status", "words"),
    [
        (
            "model name : Old Xeon\nflags : avx512f sse\n",
            "warn",
            "Old Xeon has no bf16 instructions (avx512_bf16, amx_bf16)",
        ),
        ("flags : amx_bf16 sse\n", "ok", "yes (amx_bf16)"),
        ("", "ok", "unknown"),
    ],
)
def test_a_processor_on_which_bf16_costs_time(modules, monkeypatch, facts, status, words):
    modules["torch"] = fake_torch()
    monkeypatch.setattr(hardware, "_cpuinfo", lambda: facts)
    cpu = checks.examine((checks.check_device,))[1]
    assert cpu.status == status and words in cpu.message
    assert (hardware.slow_bf16("bf16-mixed") is None) == (status == "ok") and hardware.slow_bf16("32-true") is None


def test_an_unwritable_cache_names_the_variable(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("WAVLM_CACHE", str(tmp_path / "file"))
    finding = only(checks.check_cache)
    assert finding.status == "FAIL" and "set WAVLM_CACHE" in finding.message
    monkeypatch.delenv("WAVLM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new"))
    finding = only(checks.check_cache)
    assert finding.status == "ok" and str(tmp_path / "new" / "wavlm_lightning") in finding.message
    assert not (tmp_path / "new").exists()


def test_wandb_without_any_network(monkeypatch, versions, tmp_path):
    versions["wandb"] = "0.31.0"
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert "offline" in only(checks.check_wandb).message
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password x\n")
    assert "logged in" in only(checks.check_wandb).message
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert only(checks.check_wandb).message == "WANDB_MODE=offline"


def test_more_threads_than_cores_and_a_full_disk(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    finding = only(checks.check_cores)
    assert finding.status == "warn" and "OMP_NUM_THREADS=" in finding.message
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
    assert only(checks.check_disk).status == "FAIL"
