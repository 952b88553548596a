"""The `wavlm` command: a thin dispatcher, so that help is instant and a verb imports only what it needs."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from pathlib import Path

VERBS: dict[str, tuple[str, str]] = {
    "superb": ("wavlm_lightning.cli.superb", "the benchmark: any encoder on any of ten tasks, one table"),
    "demo": (
        "wavlm_lightning.cli.demo",
        "the whole road in minutes: corpus, codebook, pre-training, three tasks, report",
    ),
    "prepare": (
        "wavlm_lightning.cli.prepare",
        "make a corpus: `prepare mini`, `prepare folder DIR`, `prepare librispeech DIR`",
    ),
    "data": ("wavlm_lightning.cli.data", "what is in a corpus, and is it whole: `data info`, `data check`"),
    "codebook": ("wavlm_lightning.cli.codebook", "tokenisers: `codebook fit`, `codebook apply`, `codebook score`"),
    "recipe": (
        "wavlm_lightning.cli.recipe",
        "all stages of a pre-training, from corpus to encoder: `recipe wavlm_base --corpus DIR --out DIR`",
    ),
    "plan": ("wavlm_lightning.cli.plan", "what a pre-training will cost: memory, updates, GPU-hours of every stage"),
    "bench": ("wavlm_lightning.cli.bench", "how fast this machine encodes and trains"),
    "fit": ("wavlm_lightning.workflows.fit.command_line", "train: an encoder or a head (LightningCLI; -c FILE)"),
    "validate": ("wavlm_lightning.workflows.fit.command_line", "score a checkpoint on the validation split"),
    "test": (
        "wavlm_lightning.workflows.fit.command_line",
        "score a checkpoint on the test split and write its result card",
    ),
    "predict": ("wavlm_lightning.cli.predict", "a trained head on audio files: `predict RUN FILE...`"),
    "export": (
        "wavlm_lightning.cli.export",
        "an encoder or a trained head to a Hugging Face directory, ONNX or torch.export",
    ),
    "sweep": (
        "wavlm_lightning.cli.sweep",
        "many values of any options, best first: a W&B sweep file, run here: `sweep FILE --output DIR`",
    ),
    "report": (
        "wavlm_lightning.cli.report",
        "results, layers, curves and cost of any runs on one page: `report RUNS... -o DIR`",
    ),
    "new": (
        "wavlm_lightning.cli.new",
        "a file of your own to begin with: `new task NAME`, `new upstream`, `new objective`, `new corpus`",
    ),
    "doctor": ("wavlm_lightning.cli.doctor", "what is wrong with this installation, in plain words"),
}
PASSES_VERB = {"fit", "validate", "test", "predict"}
"""LightningCLI wants to see its own subcommand."""


def usage() -> str:
    """The help text."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {text}" for verb, (_, text) in VERBS.items()]
    return (
        "wavlm: pre-train WavLM on your own speech, and score the encoder the same day\n\n"
        "usage: wavlm VERB [options]\n\n" + "\n".join(lines) + "\n\n"
        "`wavlm VERB --help` says more. Start with `wavlm demo`, or `wavlm doctor` if something is odd.\n"
        "`wavlm --completion bash` (or zsh) prints completion for a shell."
    )


def main(argv: list[str] | None = None) -> int:
    """Run a verb.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        Exit status: 0 done, 2 a mistake of the user's (said in one sentence), 130 interrupted.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if argv[0] in ("-V", "--version"):
        from wavlm_lightning import __version__

        print(__version__)
        return 0
    verb = argv[0]
    if verb not in VERBS and verb != "--completion":
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean `wavlm {near[0]}`?" if near else "`wavlm --help` lists the verbs"
        print(f"wavlm: no verb {verb!r}; {hint}", file=sys.stderr)
        return 2
    # A head of one's own lives in the working directory: its dotted path must import from the console command too.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    from wavlm_lightning.system.errors import UserError

    try:
        module = importlib.import_module(VERBS[verb][0] if verb in VERBS else "wavlm_lightning.cli.completion")
        return int(module.main(argv if verb in PASSES_VERB else argv[1:]) or 0)
    except UserError as error:
        print(f"wavlm {verb}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `wavlm plan ... | head`: whoever read has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print(f"wavlm {verb}: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
