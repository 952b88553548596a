"""`wavlm fit`, `wavlm validate` and `wavlm test`: train and score with LightningCLI, which parses the options."""

from __future__ import annotations


def main(argv: list[str]) -> int:
    """Run the subcommand that `argv` begins with."""
    from wavlm_lightning.workflows.fit.command_line import run_subcommand

    run_subcommand(argv)
    return 0
