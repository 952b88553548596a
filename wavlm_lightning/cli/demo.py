"""`wavlm demo`: from nothing to a pre-trained encoder, scored and reported; every stage is a command of its own."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavlm_lightning.cli.demo_heads import TASKS, UPSTREAMS, all_heads
from wavlm_lightning.cli.head_runs import run_heads
from wavlm_lightning.errors import UserError

LABELS = "mfcc100"
CLUSTERS = {"tiny": 30, "mini": 100, "pretrain": 100}
# glibc gives freed large tensors back to the system at once; keeping them spares a page fault a page and step.
MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}


@dataclass(frozen=True)
class Stage:
    """A step of the road.

    Attributes:
        name: what messages and the report call it.
        run: does it; may be called again after an interruption.
    """

    name: str
    run: Callable[[], None]


class Ledger:
    """Which stages are done and how long they took, in `stages.json`.

    Args:
        path: the file.
        settings: of this demo; a ledger with others is refused.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.body: dict[str, Any] = {"settings": settings, "seconds": {}, "done": []}
        if path.is_file():
            self.body = json.loads(path.read_text())
            if self.body["settings"] != settings:
                raise UserError(
                    f"{path.parent} holds a demo with other settings ({self.body['settings']}); "
                    "choose another --out, or remove that folder"
                )

    def run(self, stage: Stage, number: int, of: int) -> None:
        """Run a stage unless it is done; time counts even if it is interrupted."""
        if stage.name in self.body["done"]:
            print(f"[{number}/{of}] {stage.name}: done before, in {self.body['seconds'][stage.name]:.0f} s")
            return
        print(f"[{number}/{of}] {stage.name}", flush=True)
        begin = time.perf_counter()
        try:
            stage.run()
            self.body["done"].append(stage.name)
        finally:
            seconds = self.body["seconds"].get(stage.name, 0.0) + time.perf_counter() - begin
            self.body["seconds"][stage.name] = round(seconds, 1)
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text(json.dumps(self.body, indent=1))
            temporary.rename(self.path)


class Demo:
    """The stages and what they share.

    Args:
        out: folder for everything.
        size: of the mini corpus.
        steps: updates of pre-training; the config's number by default.
        head_steps: updates of each head; the configs' numbers by default.
        seed: of corpus and pre-training.
    """

    def __init__(self, out: Path, size: str, steps: int | None, head_steps: int | None, seed: int) -> None:
        self.out, self.size, self.steps, self.head_steps, self.seed = out, size, steps, head_steps, seed
        self.corpus = out / "corpus"
        self.ledger = Ledger(
            out / "stages.json", {"size": size, "steps": steps, "head_steps": head_steps, "seed": seed}
        )

    def stages(self) -> list[Stage]:
        """All of them, in order."""
        return [
            Stage("corpus", self.make_corpus),
            Stage("codebook", self.make_codebook),
            Stage("pre-training", self.pretrain),
            Stage("heads", self.fit_heads),
        ]

    def run(self) -> Path:
        """Run what is not done, then write the report.

        Returns:
            The HTML page.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        stages = self.stages()
        for number, stage in enumerate(stages, start=1):
            self.ledger.run(stage, number, len(stages) + 1)
        print(f"[{len(stages) + 1}/{len(stages) + 1}] report", flush=True)
        return self.report()

    def make_corpus(self) -> None:
        """The synthetic corpora that the demo needs."""
        wavlm(
            "prepare",
            "mini",
            "--size",
            self.size,
            "--seed",
            self.seed,
            "--out",
            self.corpus,
            "--datasets",
            "pretrain",
            *TASKS,
        )

    def make_codebook(self) -> None:
        """K-means over MFCC, and a label for every 10 ms."""
        pretrain, codebook = self.corpus / "pretrain", self.out / "codebook"
        if not (codebook / "codebook.json").is_file():
            options = ("--clusters", CLUSTERS[self.size], "--level-normalised", "--restarts", 5)
            wavlm("codebook", "fit", pretrain, *options, "--out", codebook)
        wavlm("codebook", "apply", codebook, pretrain, "--name", LABELS)

    def pretrain(self) -> None:
        """Masked prediction with utterance mixing, from where it stopped."""
        folder = self.out / "pretrain"
        arguments: list[Any] = ["-c", "configs/pretrain/tiny.yaml", "--data.corpus", self.corpus / "pretrain"]
        arguments += ["--trainer.default_root_dir", folder, "--model.seed", self.seed, "--data.seed", self.seed]
        arguments += ["--trainer.precision", precision()]
        if self.steps is not None:
            every = max(1, min(300, self.steps // 4))
            arguments += ["--trainer.max_steps", self.steps, "--trainer.val_check_interval", every]
        if (folder / "checkpoints" / "last.ckpt").is_file():
            arguments += ["--ckpt_path", "last"]
        wavlm("fit", *arguments)

    def fit_heads(self) -> None:
        """Three tasks on three frozen upstreams."""
        from wavlm_lightning.progress import progress_bar

        heads = [head.run() for head in all_heads(self.out, self.head_steps)]
        with progress_bar(total=len(heads), desc="heads", unit="head") as bar:
            bar.refresh()
            run_heads(heads, bar.update)

    def report(self) -> Path:
        """The page, from what the stages left."""
        from wavlm_lightning.reports.cards import ResultCard
        from wavlm_lightning.reports.demo_report import write_demo_report

        cards = [ResultCard.read(head.folder) for head in all_heads(self.out)]
        curves = sorted((self.out / "pretrain" / "curves").glob("version_*/metrics.csv"), key=_version)
        paths = write_demo_report(self.out, cards, curves, self.summary(), self.next_commands())
        for card in sorted(
            cards, key=lambda c: (TASKS.index(c.task.lower()), list(UPSTREAMS).index(c.upstream["label"]))
        ):
            print(
                f"  {card.task:<4} {card.upstream['label']:<15} {card.headline:<9} {card.value:5.1f} {card.main['unit']}"
            )
        return paths.html

    def summary(self) -> Any:
        """Facts for the report."""
        import torch

        from wavlm_lightning.codebooks import Codebook
        from wavlm_lightning.codebooks.quality import label_quality
        from wavlm_lightning.data.corpus import Corpus
        from wavlm_lightning.reports.demo_text import DemoSummary

        corpus = Corpus.open(self.corpus / "pretrain")
        train = corpus.split("train")
        quality = label_quality(corpus, LABELS, "train")
        state = torch.load(self.out / "pretrain" / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
        weights = sum(v.numel() for k, v in state["state_dict"].items() if k.startswith(("encoder.", "objectives.")))
        return DemoSummary(
            corpus=f"{corpus.name}, {corpus.body['source'].get('synthesiser', 'synthetic speech')}",
            minutes=train.seconds / 60,
            speakers=len({meta["speaker"] for meta in train.metas()}),
            clusters=Codebook.load(self.out / "codebook").size,
            pnmi=quality.pnmi if quality else None,
            purity=quality.phone_purity if quality else None,
            unigram=quality.unigram if quality else None,
            parameters=weights,
            steps=state["global_step"],
            audio_seconds=state["global_step"] * 20.0,
            stages=self.ledger.body["seconds"],
            machine={
                "machine": f"{processor()}, {torch.get_num_threads()} threads",
                "precision": precision(),
                "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
            },
        )

    def next_commands(self) -> list[tuple[str, str]]:
        """How to go on."""
        encoder = self.out / "encoder"
        return [
            ("Give the encoder to anybody who uses transformers", f"wavlm export {self.out / 'pretrain'} {encoder}"),
            ("Prepare your own recordings", "wavlm prepare folder RECORDINGS --out data/mine"),
            (
                "Tokenise them",
                "wavlm codebook fit data/mine --clusters 100 --out data/codebook\n"
                f"wavlm codebook apply data/codebook data/mine --name {LABELS}",
            ),
            (
                "Pre-train on them",
                "wavlm fit -c configs/pretrain/tiny.yaml --data.corpus data/mine --trainer.default_root_dir runs/mine",
            ),
            (
                "Train a head on what you pre-trained",
                "wavlm fit -c configs/superb/ks.yaml --model.upstream.source runs/mine "
                "--trainer.default_root_dir runs/mine-ks\n"
                "wavlm test -c configs/superb/ks.yaml --model.upstream.source runs/mine "
                "--trainer.default_root_dir runs/mine-ks --ckpt_path best",
            ),
        ]


def main(argv: list[str]) -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        prog="wavlm demo",
        description="Make the mini corpus, pre-train a tiny WavLM, train and test three heads on three upstreams, report. "
        "A second call finds finished stages; an interrupted one goes on where it stopped.",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--size", default="mini", choices=("tiny", "mini", "pretrain"), help="of the mini corpus")
    parser.add_argument(
        "--steps", type=int, help="updates of pre-training (default: those of configs/pretrain/tiny.yaml)"
    )
    parser.add_argument("--head-steps", type=int, help="updates of each head (default: those of configs/superb)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    begin = time.perf_counter()
    page = Demo(arguments.out, arguments.size, arguments.steps, arguments.head_steps, arguments.seed).run()
    print(f"done in {time.perf_counter() - begin:.0f} s: open {page}")
    return 0


def wavlm(*arguments: Any) -> None:
    """Run a `wavlm` command as its own process, as a user would; its bars are shown.

    Raises:
        UserError: it failed.
    """
    words = [str(argument) for argument in arguments]
    print(f"  $ wavlm {shlex.join(words)}", flush=True)
    process = subprocess.Popen([sys.executable, "-m", "wavlm_lightning", *words], env={**MEMORY, **os.environ})
    try:
        status = process.wait()
    except BaseException:
        # The terminal's Ctrl-C has reached the child too: give it time to write its checkpoint.
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        raise
    if status:
        raise UserError(
            f"`wavlm {shlex.join(words)}` ended with status {status}; the same demo command goes on from here"
        )


def precision() -> str:
    """bf16 where the hardware has it, else fp32 (which takes about 1.7 times as long on a CPU)."""
    import torch

    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    capability = torch.backends.cpu.get_cpu_capability()
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    has_bf16 = "AVX512" in capability and any(name in flags for name in ("avx512_bf16", "amx_bf16"))
    return "bf16-mixed" if has_bf16 else "32-true"


def processor() -> str:
    """Name of the CPU."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(path: Path) -> int:
    return int(path.parent.name.removeprefix("version_"))
