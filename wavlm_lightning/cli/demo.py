"""`wavlm demo`: from nothing to a pre-trained encoder, scored and reported; every stage is a command of its own."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from wavlm_lightning.system.command import wavlm
from wavlm_lightning.system.ledger import Ledger, Stage
from wavlm_lightning.workflows.demo.heads import TASKS, UPSTREAMS, all_heads
from wavlm_lightning.workflows.fit.head_runs import run_heads

LABELS = "mfcc100"
CLUSTERS = {"tiny": 30, "mini": 100, "pretrain": 100}


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
            out / "stages.json", {"size": size, "steps": steps, "head_steps": head_steps, "seed": seed}, "demo"
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
        from wavlm_lightning.workflows.demo.summary import precision

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
        from wavlm_lightning.system.progress import progress_bar

        heads = [head.run() for head in all_heads(self.out, self.head_steps)]
        with progress_bar(total=len(heads), desc="heads", unit="head") as bar:
            bar.refresh()
            run_heads(heads, lambda _: bar.update())

    def report(self) -> Path:
        """The page, from what the stages left."""
        from wavlm_lightning.reports.cards import ResultCard
        from wavlm_lightning.reports.demo_report import write_demo_report
        from wavlm_lightning.workflows.demo.summary import demo_summary, next_commands

        cards = [ResultCard.read(head.folder) for head in all_heads(self.out)]
        curves = sorted((self.out / "pretrain" / "curves").glob("version_*/metrics.csv"), key=_version)
        summary = demo_summary(self.out, LABELS, self.ledger.body["seconds"])
        paths = write_demo_report(self.out, cards, curves, summary, next_commands(self.out, LABELS))
        for card in sorted(
            cards, key=lambda c: (TASKS.index(c.task.lower()), list(UPSTREAMS).index(c.upstream["label"]))
        ):
            print(
                f"  {card.task:<4} {card.upstream['label']:<15} {card.headline:<9} {card.value:5.1f} {card.main['unit']}"
            )
        return paths.html


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
    parser.add_argument("--head-steps", type=int, help="updates of each head (default: those of configs/superb/mini)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    begin = time.perf_counter()
    page = Demo(arguments.out, arguments.size, arguments.steps, arguments.head_steps, arguments.seed).run()
    print(f"done in {time.perf_counter() - begin:.0f} s: open {page}")
    return 0


def _version(path: Path) -> int:
    return int(path.parent.name.removeprefix("version_"))
