"""`wavlm fit`, `wavlm validate` and `wavlm test`: train and score with LightningCLI, which parses the options."""

from __future__ import annotations

import os
import sys

from wavlm_lightning.system.command import INSIDE


def main(argv: list[str]) -> int:
    """Run the subcommand that `argv` begins with."""
    from wavlm_lightning.workflows.fit.command_line import run_subcommand

    run = run_subcommand(argv)
    if INSIDE not in os.environ:
        from wavlm_lightning.workflows.fit.closing import closing_lines, result_lines

        for line in result_lines(run):
            print(line)
        for line in closing_lines(run):
            print(line, file=sys.stderr)
    return 0
