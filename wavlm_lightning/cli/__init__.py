"""The `wavlm` command: it finds the module of a verb and imports only that, so that help is instant.

A module `cli/NAME.py` has `build_parser()` and `main(argv)`: it parses, calls one function of `workflows/NAME` and prints.
`VERBS` lists all verbs. Tests: `tests/cli`, and `tests/workflows` for each verb.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

VERBS = {  # verb -> help; its module has the verb's name, unless `MODULES` says otherwise
    "superb": "the benchmark: any encoder on SUPERB's ten tasks and those beyond, one table",
    "demo": "all steps in minutes: corpus, codebook, pre-training, three tasks, report",
    "prepare": "make a corpus: `prepare mini`, `prepare folder DIR`, `prepare librispeech DIR`",
    "data": "contents and integrity of a corpus: `data info`, `data check`",
    "codebook": "tokenisers: `codebook fit`, `codebook phones`, `codebook apply`, `codebook score`",
    "align": "times of phones, letters and words: `align RUN CORPUS --name NAME`, `align --from textgrid PATH CORPUS`",
    "recipe": "all stages of a pre-training, from corpus to encoder: `recipe wavlm_base --corpus DIR --out DIR`",
    "plan": "cost of a pre-training: memory, updates, GPU-hours of every stage",
    "bench": "speed of inference and training on this machine",
    "fit": "train: an encoder or a head (LightningCLI; -c FILE)",
    "validate": "score a checkpoint on the validation split: `validate RUN`",
    "test": "score a checkpoint on the test split and write its result card: `test RUN`",
    "predict": "a trained head on audio files: `predict RUN FILE...`",
    "convert": "recordings in another voice (kNN-VC): `convert VOCODER FILE... --voice FOLDER --out DIR`",
    "score": "errors of two files, or of a tested run, with intervals: `score asr REFERENCE HYPOTHESIS`, `score RUN`",
    "units": "phones in layers and labels, without training: ABX, PNMI, boundaries: `units ENCODER --data CORPUS`",
    "lm": "an n-gram language model for ASR: `lm TEXT... --out lm.arpa`, its weights for a head: `lm tune RUN`",
    "pseudo-label": "transcripts of a trained recogniser as a corpus for a student: `pseudo-label RUN CORPUS --out CORPUS2`",
    "average": "the mean of the weights of a run's last checkpoints: `average RUN --out DIR`",
    "export": "an encoder or a trained head to a Hugging Face directory, ONNX or torch.export",
    "sweep": "many values of any options, best first: a W&B sweep file, run here: `sweep FILE --output DIR`",
    "report": "results, layers, curves and cost of any runs on one page: `report RUNS... -o DIR`",
    "new": "a file of your own to start from: `new task NAME`, `new upstream`, `new objective`, `new corpus`",
    "doctor": "what is wrong with this installation, in plain words",
}
MODULES = {
    "validate": "fit",
    "test": "fit",
    "--completion": "completion",
    "align": "targets.align",
    "codebook": "targets.codebook",
    "lm": "targets.lm",
    "units": "targets.units",
    "pseudo-label": "targets.pseudo_label",
}
PASSES_VERB = {"fit", "validate", "test", "predict"}  # LightningCLI parses the verb as its subcommand

CONTINUES = {"fit", "demo", "prepare", "align", "codebook", "recipe", "superb", "sweep", "units", "pseudo-label"}
"""Verbs that take up what an interrupted call has left."""


def usage() -> str:
    """The help text of all verbs."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {text}" for verb, text in VERBS.items()]
    return (
        "wavlm: pre-train WavLM on your own speech, and score the encoder the same day\n\n"
        "usage: wavlm VERB [options]\n\n" + "\n".join(lines) + "\n\n"
        "`wavlm VERB --help` says more. Start with `wavlm demo`, or `wavlm doctor` if something is odd.\n"
        "`wavlm --completion bash` (or zsh) prints completion for a shell."
    )


def main(argv: list[str] | None = None) -> int:
    """Run a verb with the given arguments (by default those of the process), and return the exit status.

    0 if all went well, 2 after an error that the user can correct, 1 after any other (both printed as one sentence; the
    latter with the path of a log that holds the traceback), 130 if interrupted.
    """
    if argv is None:  # this process is the command
        argv = sys.argv[1:]
        if Path(__file__).parents[2] != Path.cwd():
            os.environ["PYTHONSAFEPATH"] = "1"  # processes that it starts take no library from the working directory
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if argv[0] in ("-V", "--version"):
        from wavlm_lightning import __version__

        print(__version__)
        return 0
    verb = argv[0]
    if verb not in VERBS | MODULES:
        from wavlm_lightning.system.name_hints import nearest

        print(f"wavlm: no verb {verb!r}{nearest(verb, VERBS) or '; `wavlm --help` lists the verbs'}", file=sys.stderr)
        return 2
    from wavlm_lightning.system.errors import UserError
    from wavlm_lightning.system.reading import check_arguments

    try:
        check_arguments(argv)
        module = module_of(verb)
        return int(module.main(argv if verb in PASSES_VERB else argv[1:]) or 0)
    except UserError as error:
        return _refused(verb, error)
    except BrokenPipeError:  # `wavlm plan ... | head`: the reader has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print(f"wavlm {verb}: interrupted; {_how_to_go_on(argv)}", file=sys.stderr)
        return 130
    except Exception as error:
        from wavlm_lightning.encoder import CheckpointError
        from wavlm_lightning.system.last_words import last_words

        if isinstance(error, CheckpointError):  # of the package `encoder`, which imports nothing of ours
            return _refused(verb, error)
        print(f"wavlm {verb}: {last_words(error, argv)}", file=sys.stderr)
        return 1


def module_of(verb: str) -> ModuleType:
    """The module of a verb, imported."""
    return importlib.import_module(f"wavlm_lightning.cli.{MODULES.get(verb, verb)}")


def _how_to_go_on(argv: list[str]) -> str:
    """What continues an interrupted command; of those that keep nothing on the way, that it begins again.

    Example:
        >>> _how_to_go_on(["fit", "-c", "ks.yaml"])
        'the same command with `--ckpt_path last` continues where it stopped, once the run has a checkpoint'
    """
    verb = argv[0]
    if verb == "fit" and not any(word.split("=")[0] == "--ckpt_path" for word in argv):
        return "the same command with `--ckpt_path last` continues where it stopped, once the run has a checkpoint"
    keeps = verb in CONTINUES or (verb == "predict" and any(word.split("=")[0] == "--out" for word in argv))
    return f"the same command {'continues where it stopped' if keeps else 'begins again'}"


def _refused(verb: str, error: Exception) -> int:
    """Print an error that the user can correct."""
    from wavlm_lightning.system.errors import one_line
    from wavlm_lightning.system.last_words import shows_traceback

    if shows_traceback():
        traceback.print_exception(error)
    print(f"wavlm {verb}: {one_line(str(error))}", file=sys.stderr)
    return 2
