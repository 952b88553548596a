"""SIGKILL at each change of a command's folder: no half file under a true name, no leftover, and nothing is lost.

`WAVLM_KILLS=40 pytest -m slow tests/workflows/test_kills.py` kills at that many moments of each verb (1 by default).
`wavlm score` writes nothing. `tests/kills/sitecustomize.py` pulls the plug.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from ranks import FORKS

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("WAVLM_KILLS", "1"))
LONGEST = (
    "recipe",
    "demo",
    "sweep",
    "superb",
)  # a minute a kill, because every stage is a command: a third of the moments
LONG = (*LONGEST, "units", "align", "pseudo-label", "codebook score")
# What differs between two undisturbed runs: times, paths, versions of the curves, logs.
VARYING = (
    *("card.json", "log.txt", "config.yaml", "README.md", "codebook.json", "report.html", "report.md", "metrics.csv"),
    *("run.json", "journal.jsonl", "trials.csv", "recipe.json", "stages.json", "report.csv"),
)
KS = [
    *("-c", "configs/superb/mini/ks.yaml", "--model.upstream", "Fbank", "--data.cache", "null", "--threads", "1"),
    *("--trainer.accelerator", "cpu", "--trainer.val_check_interval", "2", "--trainer.max_steps", "4"),
]
PR = [
    *("-c", "configs/superb/mini/pr.yaml", "--model.upstream", "Fbank", "--data.cache", "null", "--threads", "1"),
    *("--trainer.accelerator", "cpu", "--trainer.val_check_interval", "4", "--trainer.max_steps", "4"),
    *("--model.pauses", "true"),
]


def _command(folder: str, at: int, counts: str, log: str, words: list[str]) -> None:
    os.setsid()
    with Path(log).open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    plug = str(ROOT / "tests" / "kills")
    os.environ["WAVLM_KILL"] = f"{folder}:{at}:{counts}"
    os.environ["PYTHONPATH"] = os.pathsep.join([plug, str(ROOT), os.environ.get("PYTHONPATH", "")])
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path.insert(0, plug)
    sys.modules.pop("sitecustomize", None)
    import sitecustomize  # noqa: F401 - what a process that is started afresh imports by itself

    from wavlm_lightning.cli import main

    sys.exit(main(words))


def run(at: int, folder: Path, words: list[str]) -> tuple[int, int]:
    """Exit status and number of changes of `folder` by a command, which is killed before change `at` (-1: never)."""
    with tempfile.TemporaryDirectory() as counts:
        log = Path(counts) / "log"
        process = FORKS.Process(target=_command, args=(str(folder), at, counts, str(log), words))
        process.start()
        process.join(280)
        status = process.exitcode
        assert status in (0, 2, -signal.SIGKILL), (status, log.read_text()[-2000:])
        for number in map(int, (Path(counts) / "processes").read_text().split()):
            wait_for_end(number)
        changes = Path(counts) / "changes"
        return int(status), changes.stat().st_size if changes.exists() else 0


def wait_for_end(process: int) -> None:
    """Wait until a process has ended, be it that nobody has asked for its status yet."""
    end = time.monotonic() + 60
    state = Path(f"/proc/{process}/stat")
    while time.monotonic() < end:
        try:
            if state.read_text().rpartition(")")[2].split()[0] in "ZX":
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(0.05)
    raise AssertionError(f"process {process} does not end")


def content(folder: Path) -> dict[str, bytes]:
    """The files of a folder without those that vary; of result cards the metrics."""
    from safetensors.numpy import load_file

    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "card.json":
            found[name] = json.dumps(json.loads(path.read_text())["metrics"], sort_keys=True).encode()
        elif path.suffix == ".safetensors":  # the order in its header differs from call to call
            tensors = sorted(load_file(path).items())
            found[name] = b"".join(key.encode() + value.tobytes() for key, value in tensors)
        elif path.is_file() and path.suffix != ".ckpt":
            found[name] = b"" if path.name in VARYING or "version_" in name else path.read_bytes()
    return {name: each for name, each in found.items() if "version_" not in name}


def check_whole(folder: Path) -> None:
    """Every file with a true name can be read to its end."""
    import numpy as np
    import torch
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
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>")
        elif path.suffix in (".csv", ".jsonl", ".md"):
            assert not (text := path.read_bytes()) or text.endswith(b"\n")  # empty: killed before the first row


def check_equal(folder: Path, whole: Path, where: str) -> None:
    """Two folders hold the same files with the same content; checkpoints the same weights."""
    import torch

    again, expected = content(folder), content(whole)
    assert set(again) == set(expected), where
    assert [name for name in expected if again[name] != expected[name]] == [], where
    for path in whole.rglob("checkpoints/*.ckpt"):
        a, b = (torch.load(each, weights_only=True) for each in (path, folder / path.relative_to(whole)))
        assert a["global_step"] == b["global_step"], where
        assert all(torch.equal(a["state_dict"][key], b["state_dict"][key]) for key in a["state_dict"]), where


@dataclass(frozen=True)
class Verb:
    """A command whose results go to a folder."""

    words: Callable[[Path, Path, Path], list[str]]  # of tiny corpora, what `made` has made, and the folder
    prepare: Callable[[Path, Path], object] | None = (
        None  # what the folder holds before: of tiny corpora and the folder
    )


def _copied(tiny: Path, out: Path) -> None:
    shutil.copytree(tiny / "pretrain", out, ignore=shutil.ignore_patterns("labels"))


def _to_align(tiny: Path, out: Path) -> None:
    shutil.copytree(tiny / "pr", out)


def _with_corpus(tiny: Path, out: Path) -> None:
    shutil.copytree(tiny / "pretrain", out.parent / "corpus", ignore=shutil.ignore_patterns("labels"))


VERBS = {
    "permute": Verb(lambda tiny, made, out: ["data", "permute", str(tiny / "sv"), "--out", str(out)]),
    "prepare": Verb(
        lambda tiny, made, out: [
            *("prepare", "mini", "--size", "tiny", "--datasets", "sv", "--out", str(out), "--workers", "1"),
        ]
    ),
    "fit": Verb(
        lambda tiny, made, out: [
            *("fit", *KS, "--data.corpus", str(tiny / "ks"), "--checkpoint_every", "2"),
            *("--trainer.default_root_dir", str(out)),
        ]
    ),
    "export": Verb(lambda tiny, made, out: ["export", str(made / "encoder.pt"), str(out)]),
    "export head": Verb(lambda tiny, made, out: ["export", str(made / "on-encoder"), str(out)]),
    "predict": Verb(lambda tiny, made, out: ["predict", str(made / "ks"), str(made / "a.wav"), "--out", str(out)]),
    "codebook fit": Verb(
        lambda tiny, made, out: [
            *("codebook", "fit", str(tiny / "pretrain"), "--clusters", "8", "--restarts", "1", "--jobs", "1"),
            *("--out", str(out)),
        ]
    ),
    "codebook apply": Verb(
        lambda tiny, made, out: ["codebook", "apply", str(tiny / "codebook"), str(out), "--name", "km", "--jobs", "1"],
        _copied,
    ),
    "codebook phones": Verb(lambda tiny, made, out: ["codebook", "phones", str(tiny / "pretrain"), "--out", str(out)]),
    "codebook score": Verb(
        lambda tiny, made, out: [
            *("codebook", "score", str(tiny / "pretrain"), "--encoder", str(made / "encoder.pt"), "--layers", "1", "2"),
            *("--clusters", "8", "--restarts", "1", "--jobs", "1", "--out", str(out)),
        ]
    ),
    "units": Verb(
        lambda tiny, made, out: [
            *("units", "fbank", "mfcc", "--labels", "mfcc100", "--data", str(tiny / "pretrain"), "--out", str(out)),
            *("--unit", "phone", "--context", "any"),  # the tiny corpus has no triphone twice
        ]
    ),
    "align": Verb(lambda tiny, made, out: ["align", str(made / "pr"), str(out), "--name", "forced"], _to_align),
    "pseudo-label": Verb(
        lambda tiny, made, out: ["pseudo-label", str(made / "pr"), str(tiny / "pretrain"), "--out", str(out)]
    ),
    "average": Verb(lambda tiny, made, out: ["average", str(made / "ks"), "--out", str(out)]),
    "report": Verb(lambda tiny, made, out: ["report", str(made / "ks"), "--output", str(out)]),
    "superb": Verb(
        lambda tiny, made, out: [
            *("superb", "fbank", "--data", str(tiny), "--tasks", "ks", "--steps", "2", "--jobs", "1"),
            *("--output", str(out)),
        ]
    ),
    "sweep": Verb(
        lambda tiny, made, out: [
            *("sweep", str(made / "sweep.yaml"), "--jobs", "1", "--output", str(out), "--"),
            *(*KS[2:], "--data.corpus", str(tiny / "ks")),
        ]
    ),
    "recipe": Verb(
        lambda tiny, made, out: [
            *("recipe", str(made / "recipe.yaml"), "--corpus", str(out.parent / "corpus"), "--jobs", "1"),
            *("--out", str(out)),
        ],
        _with_corpus,
    ),
    "demo": Verb(
        lambda tiny, made, out: [
            *("demo", "--size", "tiny", "--steps", "2", "--head-steps", "2", "--out", str(out)),
        ]
    ),
}


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """Heads, a recogniser that answers, an encoder, a recording, a sweep and a recipe."""
    import numpy as np
    import soundfile
    import torch

    from wavlm_lightning.encoder import WavLM, WavLMConfig

    folder = tmp_path_factory.mktemp("made")
    WavLM(WavLMConfig.tiny()).save_pretrained(folder / "encoder.pt")
    head = [*KS, "--data.corpus", str(tiny / "ks"), "--checkpoint_every", "1", "--keep_checkpoints", "3"]
    encoder = ["--model.upstream", "WavLMUpstream", "--model.upstream.source", str(folder / "encoder.pt")]
    for name, options in (("ks", []), ("on-encoder", encoder)):
        words = [*head, *options, "--trainer.default_root_dir", str(folder / name)]
        for verb, further in (("fit", []), ("test", ["--ckpt_path", "best"])):
            dropped = {"--checkpoint_every", "1", "--keep_checkpoints", "3"} if verb == "test" else set()
            kept = head_words(words, dropped)
            assert run(-1, folder, [verb, *kept, *further])[0] == 0
    words = [*PR, "--data.corpus", str(tiny / "pr"), "--trainer.default_root_dir", str(folder / "pr")]
    assert run(-1, folder, ["fit", *words])[0] == 0
    best = folder / "pr" / "checkpoints" / "best.ckpt"
    state = torch.load(best, weights_only=True)
    silent = [0, 1, 2, state["task"]["labels"].index("SIL")]
    state["state_dict"]["classifier.bias"][silent] -= 20.0  # after four updates it would answer with nothing
    torch.save(state, best)
    soundfile.write(folder / "a.wav", np.sin(np.arange(16000) / 9) / 3, 16000)
    sweep = {
        "program": "wavlm",
        "method": "grid",
        "metric": {"name": "valid/loss", "goal": "minimize"},
        "parameters": {"model.learning_rate": {"values": [1e-2, 1e-5]}},
        "command": ["${env}", "${program}", "fit", "-c", "configs/superb/mini/ks.yaml", "${args}"],
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    small = {"conv_channels": [16] * 7, "dim": 32, "ffn_dim": 32, "layers": 2, "heads": 2, "pos_conv_groups": 2}
    objectives = [{"class_path": "wavlm_lightning.pretraining.MaskedPrediction"}]
    recipe = {
        "recipe": {"hours": 0.02, "codebook": {"clusters": 8, "restarts": 1}},
        "model": {
            "class_path": "wavlm_lightning.pretraining.WavLMPretraining",
            "init_args": {"encoder": "tiny", "encoder_overrides": small, "objectives": objectives},
        },
        "data": {
            "class_path": "wavlm_lightning.pretraining.PretrainingData",
            "init_args": {"corpus": "nowhere", "labels": None, "batch_seconds": 10.0, "max_seconds": 2.5},
        },
        "trainer": {"accelerator": "cpu", "max_steps": 3, "val_check_interval": 2, "check_val_every_n_epoch": None},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def head_words(words: list[str], dropped: set[str]) -> list[str]:
    """Options without those that `wavlm test` does not have, and their values."""
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in dropped and word.startswith("--"):
            skip = True
        else:
            kept.append(word)
    return kept


@pytest.mark.parametrize("verb", ["permute", "codebook apply"])
def test_nothing_is_lost_by_a_kill_or_two(verb, tiny, tmp_path):
    check_verb(verb, tiny, tmp_path, tmp_path, 2)


@pytest.mark.slow
@pytest.mark.parametrize("verb", [pytest.param(verb, marks=pytest.mark.long if verb in LONG else ()) for verb in VERBS])
def test_nothing_is_lost(verb, tiny, made, tmp_path):
    check_verb(verb, tiny, made, tmp_path, max(1, KILLS // 3) if verb in LONGEST else KILLS)


def check_verb(verb: str, tiny: Path, made: Path, tmp_path: Path, kills: int) -> None:
    """Kill a command at that many moments, begin it again, and compare with an undisturbed one."""
    chosen = VERBS[verb]

    def begin(name: str) -> tuple[Path, list[str]]:
        out = tmp_path / name / "out"
        out.parent.mkdir()
        if chosen.prepare is not None:
            chosen.prepare(tiny, out)
        return out, chosen.words(tiny, made, out)

    whole, words = begin("whole")
    status, events = run(-1, whole.parent, words)
    assert status == 0 and events
    moments = {1 + round(step * (events - 1) / (kills - 1)) for step in range(kills)} if kills > 1 else {events // 2}
    for at in sorted(moments):
        out, words = begin(str(at))
        killed, _ = run(at, out.parent, words)
        assert killed == -signal.SIGKILL
        check_whole(out)
        if verb == "fit" and list(out.glob("checkpoints/*.ckpt")):
            has_last = (out / "checkpoints" / "last.ckpt").exists()
            words = [*words, "--ckpt_path", "last" if has_last else "best"]
        done = verb == "average" and (out / "checkpoints" / "best.ckpt").exists()  # it then refuses to overwrite it
        status, _ = run(-1, out.parent, words)
        assert status == (2 if done else 0)
        check_whole(out)
        check_equal(out.parent, whole.parent, f"{verb}: killed at {at} of {events}")
