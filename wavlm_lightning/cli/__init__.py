"""The `wavlm` command: it finds the module of a verb and imports only that, so that help is instant.

A module `cli/NAME.py` has `build_parser()` and `main(argv)`: it parses, calls one function of `workflows/NAME` and prints.
`VERBS` lists all verbs. Tests: `tests/cli`, and `tests/workflows` for each verb.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

VERBS: dict[str, tuple[str, str]] = {  # verb -> module, help
    "superb": ("wavlm_lightning.cli.superb", "the benchmark: any encoder on any of ten tasks, one table"),
    "demo": ("wavlm_lightning.cli.demo", "all steps in minutes: corpus, codebook, pre-training, three tasks, report"),
    "prepare": (
        "wavlm_lightning.cli.prepare",
        "make a corpus: `prepare mini`, `prepare folder DIR`, `prepare librispeech DIR`",
    ),
    "data": ("wavlm_lightning.cli.data", "contents and integrity of a corpus: `data info`, `data check`"),
    "codebook": ("wavlm_lightning.cli.codebook", "tokenisers: `codebook fit`, `codebook apply`, `codebook score`"),
    "recipe": (
        "wavlm_lightning.cli.recipe",
        "all stages of a pre-training, from corpus to encoder: `recipe wavlm_base --corpus DIR --out DIR`",
    ),
    "plan": ("wavlm_lightning.cli.plan", "cost of a pre-training: memory, updates, GPU-hours of every stage"),
    "bench": ("wavlm_lightning.cli.bench", "speed of inference and training on this machine"),
    "fit": ("wavlm_lightning.cli.fit", "train: an encoder or a head (LightningCLI; -c FILE)"),
    "validate": ("wavlm_lightning.cli.fit", "score a checkpoint on the validation split"),
    "test": ("wavlm_lightning.cli.fit", "score a checkpoint on the test split and write its result card"),
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
        "a file of your own to start from: `new task NAME`, `new upstream`, `new objective`, `new corpus`",
    ),
    "doctor": ("wavlm_lightning.cli.doctor", "what is wrong with this installation, in plain words"),
}
PASSES_VERB = {"fit", "validate", "test", "predict"}
"""Verbs that get their own name as the first argument: LightningCLI parses it as its subcommand."""


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
        Exit status: 0 if all went well, 2 after a `UserError` (printed as one sentence), 130 if interrupted.
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
        from wavlm_lightning.system.name_hints import nearest

        print(f"wavlm: no verb {verb!r}{nearest(verb, VERBS) or '; `wavlm --help` lists the verbs'}", file=sys.stderr)
        return 2
    # The console command does not put the working directory on the path, where a user's own classes are.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    from wavlm_lightning.system.errors import UserError

    try:
        module = importlib.import_module(VERBS[verb][0] if verb in VERBS else "wavlm_lightning.cli.completion")
        return int(module.main(argv if verb in PASSES_VERB else argv[1:]) or 0)
    except UserError as error:
        print(f"wavlm {verb}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `wavlm plan ... | head`: the reader has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print(f"wavlm {verb}: interrupted; the same command continues where it stopped", file=sys.stderr)
        return 130
