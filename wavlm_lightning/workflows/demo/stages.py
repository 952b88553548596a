"""Stages of the demo: synthetic corpus, codebook, pre-training and heads, each a `wavlm` command; then the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wavlm_lightning.system.command import wavlm
from wavlm_lightning.system.files import check_output, own_folder
from wavlm_lightning.system.ledger import Ledger, Stage
from wavlm_lightning.system.run_folder import LAST, checkpoint, read_run_config
from wavlm_lightning.workflows.demo.heads import TASKS, UPSTREAMS, all_heads
from wavlm_lightning.workflows.fit.head_runs import run_heads

LABELS = "mfcc100"
CLUSTERS = {"tiny": 30, "mini": 100, "pretrain": 100}
NOTES = (
    "Held-out utterances of pre-training are of speakers that it never heard.",
    "PR and KS are tested on speakers that neither pre-training nor the heads have heard.",
    "SID is a closed set: train and test share their speakers, as they must, but pre-training heard none of them.",
    "Every upstream is frozen; only a small head is trained on it.",
    "Both the speech and the encoder are small on purpose. These figures show that every step works; they say nothing about "
    "WavLM Base, and must not be compared with published SUPERB scores.",
)


def run_demo(
    out: Path, size: str = "mini", steps: int | None = None, head_steps: int | None = None, seed: int = 0
) -> Path:
    """Make the corpus, pre-train a tiny WavLM, train and test three heads on three upstreams, and write the report.

    Finished stages are skipped; an interrupted one continues where it stopped.

    Args:
        out: folder for everything.
        size: of the mini corpus: `tiny`, `mini` or `pretrain`.
        steps: updates of pre-training; those of configs/pretrain/tiny.yaml by default.
        head_steps: updates of each head; those of configs/superb/mini by default.
        seed: of corpus and pre-training.

    Returns:
        The path of the report (HTML).

    Raises:
        UserError: a stage failed, `out` holds a demo with other settings, or a demo runs there already.
    """
    check_output(out)
    demo = _Demo(out, size, steps, head_steps, seed)
    stages = [
        Stage("corpus", demo.make_corpus),
        Stage("codebook", demo.make_codebook),
        Stage("pre-training", demo.pretrain),
        Stage("heads", demo.fit_heads),
    ]
    settings = {"size": size, "steps": steps, "head_steps": head_steps, "seed": seed}
    with own_folder(out, "demo"):
        ledger = Ledger(out / "stages.json", settings, "demo")
        for number, stage in enumerate(stages, start=1):
            ledger.run(stage, number, len(stages) + 1)
        print(f"[{len(stages) + 1}/{len(stages) + 1}] report", flush=True)
        return demo.report()


class _Demo:
    def __init__(self, out: Path, size: str, steps: int | None, head_steps: int | None, seed: int) -> None:
        self.out, self.size, self.steps, self.head_steps, self.seed = out, size, steps, head_steps, seed
        self.corpus = out / "corpus"

    def make_corpus(self) -> None:
        options = ("--size", self.size, "--seed", self.seed, "--out", self.corpus)
        wavlm("prepare", "mini", *options, "--datasets", "pretrain", *TASKS)

    def make_codebook(self) -> None:
        pretrain, codebook = self.corpus / "pretrain", self.out / "codebook"
        if not (codebook / "codebook.json").is_file():
            options = ("--clusters", CLUSTERS[self.size], "--level-normalised", "--restarts", 5)
            wavlm("codebook", "fit", pretrain, *options, "--out", codebook)
        wavlm("codebook", "apply", codebook, pretrain, "--name", LABELS)  # a label for every 10 ms

    def pretrain(self) -> None:
        folder = self.out / "pretrain"
        arguments: list[Any] = ["-c", "configs/pretrain/tiny.yaml", "--data.corpus", self.corpus / "pretrain"]
        arguments += ["--trainer.default_root_dir", folder, "--model.seed", self.seed, "--data.seed", self.seed]
        if self.steps is not None:
            every = max(1, min(300, self.steps // 4))
            arguments += ["--trainer.max_steps", self.steps, "--trainer.val_check_interval", every]
        if checkpoint(folder, LAST).is_file():
            # With the threads and the precision it began with: fit takes the former from the run folder.
            precision = read_run_config(folder)["trainer"]["precision"]
            wavlm("fit", *arguments, "--trainer.precision", precision, "--ckpt_path", "last")
        else:
            wavlm("fit", *arguments, *fastest_options())

    def fit_heads(self) -> None:
        from wavlm_lightning.system.progress import progress_bar

        heads = [head.run() for head in all_heads(self.out, self.head_steps)]
        with progress_bar(total=len(heads), desc="heads", unit="head") as bar:
            bar.refresh()
            run_heads(heads, lambda _: bar.update())

    def report(self) -> Path:
        from wavlm_lightning.reports.cards import ResultCard
        from wavlm_lightning.workflows.report import write_report

        cards = [ResultCard.read(head.folder) for head in all_heads(self.out)]
        order = list(UPSTREAMS)
        for card in sorted(cards, key=lambda c: (TASKS.index(c.task.lower()), order.index(c.upstream["label"]))):
            for name in card.shown:
                value, unit = card.metrics[name]["value"], card.metrics[name]["unit"]
                print(f"  {card.task:<4} {card.upstream['label']:<15} {name:<9} {value:5.1f} {unit}")
        page, _ = write_report([self.out], self.out, setup=machine(), commands=next_commands(self.out), notes=NOTES)
        return page


def fastest_options() -> list[str]:
    """Options of `wavlm fit` for the precision, and on a CPU the threads, that train fastest on this machine now.

    On a CPU a few training steps are timed, which takes about ten seconds.
    """
    import torch

    from wavlm_lightning.training.trial import faster_precision, fastest_threads, threads_are_set

    if torch.cuda.is_available():
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return ["--trainer.precision", "bf16-mixed" if bf16 else "32-true"]
    threads: list[str] = []
    if not threads_are_set():
        torch.set_num_threads(fastest_threads())
        threads = ["--threads", str(torch.get_num_threads())]
    return [*threads, "--trainer.precision", faster_precision()]


def machine() -> list[tuple[str, str]]:
    """Processor, threads and device of this machine, as the report shows them."""
    import torch

    from wavlm_lightning.system.hardware import processor_name

    return [
        ("machine", f"{processor_name()}, {torch.get_num_threads()} threads"),
        ("device", torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"),
    ]


def next_commands(out: Path) -> list[tuple[str, str]]:
    """(purpose, command) pairs: what to do after the demo, with its encoder or with recordings of one's own."""
    head = "-c configs/superb/mini/ks.yaml --model.upstream.source runs/mine --trainer.default_root_dir runs/mine-ks"
    return [
        ("Export the encoder for transformers", f"wavlm export {out / 'pretrain'} {out / 'encoder'}"),
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
        ("Train a head on the encoder you pre-trained", f"wavlm fit {head}\nwavlm test runs/mine-ks"),
    ]
