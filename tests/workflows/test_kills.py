"""SIGKILL at each opening for writing and each renaming of a command: no half file under a true name, and nothing is lost.

`WAVLM_KILLS=40 pytest -m slow tests/workflows/test_kills.py` kills at that many moments of each verb (3 by default).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = int(os.environ.get("WAVLM_KILLS", "3"))
# The audit events come before the system call; `@N` of them is the moment of the kill, -1 only counts.
RUN = """
import json, os, signal, sys
sys.path.insert(0, {root!r})
from wavlm_lightning.cli import main
seen, at, folder = 0, int(sys.argv[1]), sys.argv[2]
def watch(event, arguments):
    global seen
    writes = event == "open" and isinstance(arguments[0], str) and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
    if (writes or event == "os.rename") and str(arguments[0]).startswith(folder):
        seen += 1
        if seen == at:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
status = main(sys.argv[3:])
print("events", seen, file=sys.stderr)
sys.exit(status)
"""
# What differs between two undisturbed runs: times, versions of the curves, logs.
VARYING = (
    "card.json",
    "log.txt",
    "config.yaml",
    "README.md",
    "codebook.json",
    "report.html",
    "report.md",
    "metrics.csv",
)


def run(at: int, folder: Path, words: list[str]) -> tuple[int, int]:
    """Exit status and number of events of a command, killed at event `at`."""
    code = RUN.format(root=str(Path(__file__).parents[2]))
    done = subprocess.run(
        [sys.executable, "-c", code, str(at), str(folder), *words], capture_output=True, text=True, timeout=280
    )
    events = [line.split()[1] for line in done.stderr.splitlines() if line.startswith("events ")]
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-2000:]
    return done.returncode, int(events[-1]) if events else 0


def content(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and "checkpoints" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name not in VARYING}


def check_whole(folder: Path) -> None:
    """Every file with a true name can be read to its end."""
    import numpy as np
    import torch
    import yaml
    from safetensors import safe_open

    for path in folder.rglob("*"):
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".yaml":
            assert yaml.safe_load(path.read_text())
        elif path.suffix == ".safetensors":
            with safe_open(path, "np") as file:
                assert file.keys()
        elif path.suffix == ".npy":
            np.load(path)
        elif path.suffix == ".ckpt" and path.is_file():
            torch.load(path, weights_only=True)
        elif path.suffix in (".csv", ".jsonl", ".md"):
            assert not (content := path.read_bytes()) or content.endswith(b"\n")  # empty: killed before the first row


def verbs(tiny: Path, made: Path, out: Path) -> dict[str, list[str]]:
    head = ["-c", "configs/superb/mini/ks.yaml", "--model.upstream", "Fbank", "--data.corpus", str(tiny / "ks")]
    head += [
        "--data.cache",
        "null",
        "--trainer.accelerator",
        "cpu",
        "--threads",
        "1",
        "--trainer.val_check_interval",
        "2",
    ]
    head += ["--trainer.max_steps", "4", "--checkpoint_every", "2", "--trainer.default_root_dir", str(out)]
    return {
        "permute": ["data", "permute", str(tiny / "sv"), "--out", str(out)],
        "prepare": ["prepare", "mini", "--size", "tiny", "--datasets", "sv", "--out", str(out), "--workers", "1"],
        "fit": ["fit", *head],
        "export": ["export", str(made / "encoder.pt"), str(out)],
        "predict": ["predict", str(made / "ks"), str(made / "a.wav"), "--out", str(out)],
    }


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """A head, an encoder and a recording."""
    import numpy as np
    import soundfile

    from wavlm_lightning.encoder import WavLM, WavLMConfig

    folder = tmp_path_factory.mktemp("made")
    assert run(-1, folder, verbs(tiny, folder, folder / "ks")["fit"])[0] == 0
    WavLM(WavLMConfig.tiny()).save_pretrained(folder / "encoder.pt")
    soundfile.write(folder / "a.wav", np.sin(np.arange(16000) / 9) / 3, 16000)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["permute", "prepare", "fit", "export", "predict"])
def test_nothing_is_lost(verb, tiny, made, tmp_path):
    whole = tmp_path / "whole" / "out"
    whole.parent.mkdir()
    status, events = run(-1, whole.parent, verbs(tiny, made, whole)[verb])
    assert status == 0 and events
    expected = content(whole)
    for at in sorted({1 + round(step * (events - 1) / max(KILLS - 1, 1)) for step in range(KILLS)}):
        out = tmp_path / str(at) / "out"
        out.parent.mkdir()
        words = verbs(tiny, made, out)[verb]
        status, _ = run(at, out.parent, words)
        assert status == -signal.SIGKILL
        check_whole(out)
        if verb == "fit" and list(out.glob("checkpoints/*.ckpt")):
            has_last = (out / "checkpoints" / "last.ckpt").exists()
            words = [*words, "--ckpt_path", "last" if has_last else "best"]
        status, _ = run(-1, out.parent, words)
        assert status == 0
        check_whole(out)
        again = content(out)
        assert set(again) == set(expected), f"killed at {at} of {events}"
        assert [name for name in expected if again[name] != expected[name]] == []
        if verb == "fit":
            import torch

            for name in ("best.ckpt", "last.ckpt"):
                a, b = (torch.load(each / "checkpoints" / name, weights_only=True) for each in (whole, out))
                assert a["global_step"] == b["global_step"]
                assert all(torch.equal(a["state_dict"][key], b["state_dict"][key]) for key in a["state_dict"])
