"""Make `runs.tar.xz` and `expected.json` with the code of commit 7963883; see README.md beside this file.

Usage: PYTHONPATH=CHECKOUT_OF_7963883 python make_runs.py EMPTY_FOLDER
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import sys
import tarfile
from pathlib import Path
from unittest import mock

import numpy as np
import soundfile
import torch
import yaml

from wavlm_lightning.cli import main
from wavlm_lightning.data.recordings import CorpusPlan, Recording
from wavlm_lightning.data.writing import write_corpus
from wavlm_lightning.pretraining import WavLMPretraining
from wavlm_lightning.tasks import Task

HERE = Path(__file__).resolve().parent
WORDS = ["down", "go", "stop", "up"]
SPEAKERS = ["s0", "s1", "s2"]
ENCODER = {
    "conv_channels": [4] * 7,
    "dim": 8,
    "ffn_dim": 8,
    "layers": 2,
    "heads": 2,
    "pos_conv_kernel": 4,
    "pos_conv_groups": 2,
    "num_buckets": 8,
    "max_distance": 10,
}
PRETRAIN = {
    "recipe": {"hours": 0.01, "gpu": "cpu", "codebook": {"clusters": 4, "restarts": 1}},
    "checkpoint_every": 2,
    "model": {
        "class_path": "wavlm_lightning.pretraining.WavLMPretraining",
        "init_args": {
            "encoder": "tiny",
            "encoder_overrides": ENCODER,
            "objectives": [
                {"class_path": "wavlm_lightning.pretraining.MaskedPrediction", "init_args": {"final_dim": 8}},
                {"class_path": "wavlm_lightning.pretraining.FeaturePenalty"},
            ],
            "masking": {"span": 4},
        },
    },
    "data": {
        "class_path": "wavlm_lightning.pretraining.PretrainingData",
        "init_args": {
            "corpus": "corpora/words",
            "labels": "mfcc100",
            "batch_seconds": 2.0,
            "max_seconds": 0.4,
            "min_seconds": 0.2,
        },
    },
    "trainer": {
        "default_root_dir": "pretrain",
        "accelerator": "cpu",
        "max_steps": 6,
        "val_check_interval": 2,
        "check_val_every_n_epoch": None,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
    },
}


def head_config(task: str, folder: str) -> dict[str, object]:
    """The configuration of a head on the encoder of `pretrain`."""
    return {
        "model": {
            "class_path": f"wavlm_lightning.tasks.{task}",
            "init_args": {
                "upstream": {
                    "class_path": "wavlm_lightning.upstreams.WavLMUpstream",
                    "init_args": {"source": "pretrain", "label": "old"},
                },
                "learning_rate": 0.01,
                "hidden": 16,
            },
        },
        "data": {
            "class_path": "wavlm_lightning.tasks.TaskData",
            "init_args": {"corpus": "corpora/words", "batch_size": 4, "cache": "cache"},
        },
        "trainer": {**PRETRAIN["trainer"], "default_root_dir": folder},
    }


def write_audio(folder: Path) -> None:
    """Pulse trains of 0.3 to 0.5 s, whose period is that of the word; FLAC and gzip make almost nothing of them."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    splits: dict[str, list[Recording]] = {"train": [], "valid": [], "test": []}
    for split, count in (("train", 12), ("valid", 4), ("test", 4)):
        for number in range(count):
            word, speaker = WORDS[number % len(WORDS)], SPEAKERS[number % len(SPEAKERS)]
            samples = int(generator.integers(4_800, 8_000))
            waveform = np.zeros(samples, dtype=np.int16)
            period = 40 + 30 * WORDS.index(word)
            waveform[::period] = 8192 + 4096 * SPEAKERS.index(speaker)
            waveform[int(generator.integers(1, period)) :: 2 * period] = -8192
            path = folder / f"{split}{number}.wav"
            soundfile.write(path, waveform, 16_000)
            phones = [[phone] for phone in sorted(set(word))]
            meta = {"keyword": word, "speaker": speaker, "phones": phones, "text": word}
            splits[split].append(Recording(path, path.stem, meta))
    labels = {"keywords": WORDS, "speakers": SPEAKERS, "phones": sorted(set("".join(WORDS)))}
    # `mini` lets `wavlm superb` take the configurations for the mini corpus.
    write_corpus(CorpusPlan("words", "CC0", splits, labels, source={"recipe": "mini"}), Path("corpora/words"), 1)
    shutil.copytree("corpora/words", "corpora/ks")


def wavlm(*words: object, status: int = 0) -> None:
    """Run a command and write it down."""
    print("$ wavlm", *words, flush=True)
    with (HERE / "commands.txt").open("a") as file:
        file.write(f"wavlm {' '.join(map(str, words))}\n")
    assert main([str(word) for word in words]) == status


@contextlib.contextmanager
def terminated(kind: type, step: int):
    """Send this process SIGTERM after an update, as a cluster does; the run ends after the next one and can be resumed."""
    before = kind.on_train_batch_end

    def stop(self, *arguments):
        if self.trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return before(self, *arguments)

    with mock.patch.object(kind, "on_train_batch_end", stop):
        yield


def sums(path: Path) -> dict[str, list[float]]:
    """Sum and sum of magnitudes of every weight of a checkpoint."""
    state = torch.load(path, weights_only=True)["state_dict"]
    return {
        name: [float(value.double().sum()), float(value.double().abs().sum())]
        for name, value in state.items()
        if value.is_floating_point()
    }


def interrupted_and_whole(folder: str, kind: type, command: list[object]) -> dict[str, object]:
    """A run that is stopped after four of six updates, and the weights of the same run without the stop."""
    whole = f"whole-{folder}"
    wavlm("fit", *command, "--trainer.default_root_dir", whole)
    with terminated(kind, 3), contextlib.suppress(SystemExit, KeyboardInterrupt):
        status = main([str(word) for word in ("fit", *command, "--trainer.default_root_dir", folder)])
        assert status != 0
    stopped = torch.load(Path(folder, "checkpoints", "last.ckpt"), weights_only=True)["global_step"]
    assert stopped == 4, stopped
    return {"last": sums(Path(whole, "checkpoints", "last.ckpt"))}


def make() -> dict[str, object]:
    """Everything, in the working directory."""
    expected: dict[str, object] = {}
    write_audio(Path("audio"))
    wavlm("codebook", "fit", "corpora/words", "--clusters", 4, "--restarts", 1, "--out", "codebook")
    wavlm("codebook", "apply", "codebook", "corpora/words", "--name", "mfcc100")
    for name, content in {
        "pretrain": PRETRAIN,
        "ks": head_config("KeywordSpotting", "ks"),
        "sid": head_config("SpeakerIdentification", "sid"),
        "pr": head_config("PhonemeRecognition", "pr"),
    }.items():
        Path(f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    expected["pretrain"] = interrupted_and_whole("pretrain", WavLMPretraining, ["-c", "pretrain.yaml"])
    os.utime("pretrain/checkpoints/last.ckpt", (1_700_000_000,) * 2)  # tar keeps whole seconds; `superb` compares times
    wavlm("export", "pretrain", "encoder")

    expected["ks"] = interrupted_and_whole("ks", Task, ["-c", "ks.yaml"])
    expected["pr"] = interrupted_and_whole("pr", Task, ["-c", "pr.yaml"])
    joint = ["-c", "ks.yaml", "--model.learning_rate", "[1e-2,1e-3]", "--also", "sid.yaml"]
    wavlm("fit", *joint, "--trainer.default_root_dir", "joint", "--trainer.max_steps", 4)

    wavlm("fit", "-c", "ks.yaml", "--trainer.default_root_dir", "tested")
    wavlm("test", "-c", "ks.yaml", "--trainer.default_root_dir", "tested", "--ckpt_path", "best")
    wavlm("export", "tested", "exported-head")
    with tarfile.open("corpora/words/test-000000.tar") as shard:
        names = [name for name in shard.getnames() if name.endswith(".flac")]
        shard.extractall("recordings", members=[shard.getmember(name) for name in names], filter="data")
    for head in ("tested", "exported-head"):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            assert main(["predict", head, "recordings", "--json", "--device", "cpu"]) == 0
        expected[f"predictions of {head}"] = [json.loads(line) for line in said.getvalue().splitlines()]
    cut = ["--trainer.accelerator", "cpu"]
    Path("sweep.yaml").write_text(
        yaml.safe_dump(
            {
                "program": "wavlm",
                "method": "grid",
                "metric": {"name": "valid/loss", "goal": "minimize"},
                "parameters": {"model.learning_rate": {"values": [1e-2, 1e-3]}},
                "command": ["${env}", "${program}", "fit", "-c", "ks.yaml", "${args}"],
            }
        )
    )
    wavlm("sweep", "sweep.yaml", "--output", "sweep", "--test", "--trials", 1, "--jobs", 1, "--", *cut)
    superb = ["superb", "old=pretrain", "fbank", "--data", "corpora", "--tasks", "ks", "--steps", 2, "--jobs", 1]
    wavlm(*superb, "--output", "superb")
    recipe = PRETRAIN | {"trainer": {**PRETRAIN["trainer"], "max_steps": 2}}
    Path("road.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    wavlm("recipe", "road.yaml", "--corpus", "corpora/words", "--out", "recipe")
    wavlm("demo", "--out", "demo", "--size", "tiny", "--steps", 4, "--head-steps", 2)
    return expected


def keep(path: Path) -> bool:
    """Whether a file goes into the archive, which must be small: few weights that no test reads, no audio twice."""
    top = path.parts[0]
    if top.startswith("whole-") or top == "audio" or path.suffix == ".lock":
        return False
    if top == "demo":  # its encoder and corpora have the usual sizes
        return path.suffix in {".json", ".yaml", ".csv", ".txt"} and path.parts[:3] != ("demo", "corpus", "pretrain")
    if top == "superb" or path.parts[:2] == ("corpora", "ks"):
        return path.suffix not in {".ckpt", ".safetensors", ".tar"}
    return top != "recipe" or path.name != "best.ckpt"


if __name__ == "__main__":
    os.environ["WANDB_MODE"] = "disabled"
    torch.set_num_threads(1)
    (HERE / "commands.txt").unlink(missing_ok=True)
    os.chdir(sys.argv[1])
    values = make()
    (HERE / "expected.json").write_text(json.dumps(values))
    with tarfile.open(HERE / "runs.tar.xz", "w:xz", preset=9) as archive:
        for path in sorted(path for path in Path().rglob("*") if path.is_file() and keep(path)):
            archive.add(path)
    print((HERE / "runs.tar.xz").stat().st_size, "bytes")
