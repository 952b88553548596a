"""A configuration's model, data and trainer for a notebook: parsed as `wavlm fit` parses it, and not run."""

from __future__ import annotations

from wavlm_lightning.workflows.fit.command_line import WavLMCLI, command_line
from wavlm_lightning.workflows.fit.quiet import quiet
from wavlm_lightning.workflows.fit.readable_errors import readable_errors


def open_run(*options: str) -> WavLMCLI:
    """Parse what would follow `wavlm fit`, and build it; the run folder, its checkpoints and curves are the same.

    Args:
        options: of the command line, one word each.

    Returns:
        What has `.model`, `.datamodule` and `.trainer`.

    Raises:
        UserError: options that do not parse, in one sentence.

    Example:
        >>> run = open_run("-c", "configs/superb/mini/ks.yaml", "--trainer.max_steps", "100")
        >>> run.trainer.fit(run.model, run.datamodule)
    """
    with quiet(), readable_errors():
        return command_line(options, run=False)
