"""`wavlm fit`, `validate` and `test`: training and scoring of encoders and heads in run folders, from Python.

In reading order: `command_line` (LightningCLI and what it adds to a trainer), `ownership` (the lock of a run folder, and whether
a run goes on or begins there), `run_source` (`wavlm test RUN`), `loggers`, `joint_heads` (lists of learning rates, `--also`),
`head_runs` (many runs in parallel processes), `closing` (the last lines on the screen), `messages` and `parser_errors` (errors in
one sentence), `options` and `early_checks` (what is wrong before anything is computed). The package imports nothing heavy before
one of the functions is called.
It is the one workflow that the others may import. Tests: `tests/workflows/test_training_command.py`, `test_also.py`,
`test_many_runs.py`, `test_ownership.py`, `test_parser_errors.py`, `test_run_source.py`, `test_loggers.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch import Callback

    from wavlm_lightning.workflows.fit.command_line import WavLMCLI


def fit(*options: str, callbacks: Sequence[Callback] = ()) -> WavLMCLI:
    """Train an encoder or a head, as `wavlm fit` does.

    Args:
        options: of the command line, one word each.
        callbacks: further callbacks of the trainer.

    Returns:
        The finished run: `.model`, `.datamodule`, `.trainer` and `.folder`, its run folder.

    Raises:
        UserError: options that do not parse, or an error that the user can fix, in one sentence.

    Example:
        >>> run = fit("-c", "configs/superb/mini/ks.yaml", "--trainer.max_steps", "100")
    """
    from wavlm_lightning.workflows.fit.command_line import run_subcommand

    return run_subcommand(["fit", *options], callbacks)


def validate(*options: str) -> WavLMCLI:
    """Score a checkpoint on the validation split, as `wavlm validate` does: `validate(RUN)`, or all options of `fit`."""
    from wavlm_lightning.workflows.fit.command_line import run_subcommand

    return run_subcommand(["validate", *options])


def test(*options: str) -> WavLMCLI:
    """Score a checkpoint on the test split and write `card.json` to the run folder, as `wavlm test` does.

    Example:
        >>> run = test("runs/ks", "--trainer.accelerator", "cpu")
    """
    from wavlm_lightning.workflows.fit.command_line import run_subcommand

    return run_subcommand(["test", *options])


def read_options(*options: str) -> Any:
    """The parsed options of a `wavlm fit` command, a jsonargparse Namespace; nothing is built, read or written.

    Raises:
        UserError: an option or a value that does not exist, in one sentence.
    """
    from wavlm_lightning.workflows.fit.options import parsed

    return parsed(options)


def open_run(*options: str) -> WavLMCLI:
    """Build the model, data and trainer of a `wavlm fit` command without running it, for a notebook; see `fit`.

    Example:
        >>> run = open_run("-c", "configs/superb/mini/ks.yaml", "--trainer.max_steps", "100")
        >>> run.trainer.fit(run.model, run.datamodule)
    """
    from wavlm_lightning.workflows.fit.command_line import command_line
    from wavlm_lightning.workflows.fit.messages import quiet, readable_errors

    with quiet(), readable_errors():
        return command_line(options, run=False)
