"""What a speech recogniser makes of a few utterances while it trains, on the screen at each validation."""

from __future__ import annotations

import textwrap

import lightning.pytorch as pl

from wavlm_lightning.reports.tables import metric_title
from wavlm_lightning.system.progress import say
from wavlm_lightning.tasks import Task

SENTENCES = 2  # at each validation
WIDTH = 110  # characters of a sentence


class ShowTranscripts(pl.Callback):
    """Prints the error rate of each validation of a fit, and the texts of a few utterances beside what the head makes of them.

    They are the same utterances each time, and come from the outputs that were scored: nothing runs twice. Only heads that
    write words (`Task.transcripts`) have such lines.
    """

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        fitting = trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.fast_dev_run
        if not fitting or not trainer.is_global_zero or not isinstance(pl_module, Task):
            return
        for label, head in pl_module.heads().items():
            if head.transcripts:
                say("\n".join(lines(trainer, label, head)))


def lines(trainer: pl.Trainer, label: str, head: Task) -> list[str]:
    """The lines of a head after a validation."""
    name = "/".join(filter(None, [label, "valid", head.metric]))
    value = head.unit(head.metric).text(float(trainer.callback_metrics[name]))
    found = [f"{label or head.name}, update {trainer.global_step}: {metric_title(head.metric)} {value} on valid"]
    width = max(map(len, head.transcript_names))
    for one in head.transcripts[:SENTENCES]:
        for what, text in zip(head.transcript_names, (one.spoken, one.heard or "(nothing)"), strict=True):
            found.append(f"  {what:{width}}  {textwrap.shorten(text, WIDTH, placeholder=' ...')}")
    return found
