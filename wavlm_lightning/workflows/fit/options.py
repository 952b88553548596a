"""Reads the options of a `wavlm fit` without building anything, so that sweeps and recipes find mistakes at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wavlm_lightning.system.plugins import make_importable
from wavlm_lightning.system.shipped_configs import resolve_config
from wavlm_lightning.workflows.fit.command_line import WavLMCLI
from wavlm_lightning.workflows.fit.joint_heads import added_up, take_lists
from wavlm_lightning.workflows.fit.messages import quiet, readable_errors


class _Parsed(Exception):
    """Carries the parsed options out of the constructor, which would go on and build the run."""

    def __init__(self, config: Any) -> None:
        self.config = config


class _OptionsOnly(WavLMCLI):
    def _parse_ckpt_path(self) -> None:  # the first hook after parsing, before the seed is set
        raise _Parsed(self.config)


def parsed(options: Sequence[str]) -> Any:
    """See `workflows.fit.read_options`; listed rates and seeds are left out of it."""
    with quiet(), readable_errors():
        arguments = [resolve_config(argument) for argument in ("fit", *options)]
        make_importable(arguments)
        rest, lists = take_lists(added_up(arguments))
        try:
            _OptionsOnly(rest, lists, run=True)
        except _Parsed as done:
            return done.config["fit"]
    raise AssertionError("LightningCLI no longer calls `_parse_ckpt_path` after parsing")
