"""The last lines of `wavlm fit` and `wavlm test`: where the run is, its figure in its unit, the card, and the next command.

Figures of a test are results and go to standard output; where to find things and what comes next goes to standard error.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from wavlm_lightning.reports.cards import CARD_NAME, DECIMALS, ResultCard, metric_text, scale
from wavlm_lightning.reports.tables import metric_title
from wavlm_lightning.system.command import as_called
from wavlm_lightning.system.run_folder import BEST, LAST, checkpoint
from wavlm_lightning.tasks import Task
from wavlm_lightning.workflows.fit.command_line import WavLMCLI

MOST = 4  # heads whose figures are named


def result_lines(run: WavLMCLI) -> list[str]:
    """The headlines of a test, with the path of the card, a line for each head; in the first process only."""
    if not _has_ended(run) or run.subcommand != "test" or not isinstance(run.model, Task):
        return []
    paths = [folder / CARD_NAME for folder in _tested(run)]
    cards = {path: ResultCard.read(path) for path in paths if path.is_file()}
    return [line for path, card in cards.items() for line in (result_line(card, path), *error_lines(card))]


def error_lines(card: ResultCard) -> list[str]:
    """Kinds of errors behind the error rates of a transcription, one line for each decoding, and the figures of each condition.

    Of a translation the signatures of its scores; of answers that are audio the figures of the unprocessed recordings and of an
    oracle, and how many utterances have none. None for other tasks.

    Example:
        >>> error_lines(ResultCard.read(Path("runs/asr")))
        ['  WER 12.34 %: 20 substitutions, 1 deletions, 3 insertions in 195 words, pooled; normaliser spoken_text']
    """
    found = card.details.get("errors")
    found = found if isinstance(found, dict) else {}
    signatures = card.details.get("signatures")
    signed = signatures.items() if isinstance(signatures, dict) else ()
    lines = [f"  {metric_title(name)} by sacrebleu: {signature}" for name, signature in signed]
    for name, counts in found.items():
        if name not in card.metrics or not isinstance(counts, dict):
            continue
        kinds = ("substitutions", "deletions", "insertions")
        unit = next((unit for unit in counts if unit not in kinds), "units")
        said = ", ".join(f"{counts.get(kind, 0):,} {kind}" for kind in kinds)
        lines.append(
            f"  {metric_title(name)} {metric_text(card.metrics[name])}: {said} in {counts.get(unit, 0):,} {unit}, pooled; "
            f"normaliser {found.get('normaliser', 'none')}"
        )
    answers = card.details.get("answers")
    if isinstance(answers, dict) and answers.get("cut"):
        lines.append(f"  {answers['cut']:,} of {answers['all']:,} answers were cut at the limit of their length")
    for row in ("unprocessed", "oracle"):
        if said := _in_units(card, card.details.get(row)):
            lines.append(f"  {row}: {said}")
    left_out = card.details.get("left_out")
    if isinstance(left_out, dict) and left_out:
        said = ", ".join(f"{metric_title(name)} of {count:,.0f}" for name, count in left_out.items())
        lines.append(f"  without a figure, and not in the mean: {said}")
    conditions = card.details.get("conditions")
    for condition, counts in conditions.items() if isinstance(conditions, dict) else ():
        lines.append(f"  {condition}: {_in_units(card, counts)} of {counts['utterances']:,} utterances")
    model = card.details.get("language_model")
    if isinstance(model, dict) and lines:
        searched = model.get("searched") or {}
        tuned = f"searched on {searched['split']} of {searched['run']}" if searched else "given"
        tuned += ", for another head" if searched.get("other_head") else ""
        weights = ", ".join(f"{name} {model[name]:g}" for name in ("weight", "word_score", "silence") if name in model)
        lines.append(f"  language model {model['model']}: {weights}, {tuned}")
    return lines


def _in_units(card: ResultCard, values: Any) -> str:
    """Those of a mapping that are metrics of a card, in its units; empty if there are none."""
    return ", ".join(
        f"{metric_title(name)} {metric_text({**card.metrics[name], 'value': scale(card.metrics[name]) * value})}"
        for name, value in (values.items() if isinstance(values, dict) else ())
        if name in card.metrics
    )


def result_line(card: ResultCard, path: Path) -> str:
    """The headlines of a card in their units, the main one with its interval where the card has one.

    Example:
        >>> path = Path("runs/ks/card.json")
        >>> result_line(ResultCard.read(path), path)
        'KS: accuracy 58.10 % (95 %: 54.20 to 61.90), in runs/ks/card.json'
    """
    figures = []
    for name in card.shown:
        metric = card.metrics[name]
        interval: Any = card.interval if name == card.headline else card.intervals.get(name)
        sure = ""
        if isinstance(interval, Mapping) and {"low", "high", "level"} <= interval.keys():
            low, high = (f"{interval[end]:.{metric.get('decimals', DECIMALS)}f}" for end in ("low", "high"))
            sure = f" ({100 * interval['level']:g} %: {low} to {high})"
        figures.append(f"{metric_title(name)} {metric_text(metric)}{sure}")
    return f"{card.task}: {', '.join(figures)}, in {path}"


def closing_lines(run: WavLMCLI) -> list[str]:
    """Where a finished `fit` is, what it reached, and the next command; in the first process only."""
    if not _has_ended(run):
        return []
    if run.subcommand == "fit" and (checkpoint(run.folder, LAST).exists() or checkpoint(run.folder, BEST).exists()):
        return [f"run: {run.folder}, {_trained(run)}", f"next: {next_command(run.model, run.folder)}"]
    if result_lines(run) and run.further:
        folders = _tested(run)
        return [f"next: {as_called('report', *folders, '-o', folders[0] / 'report')}"]
    if result_lines(run):
        return [f"next: {as_called('report', run.folder, '-o', run.folder / 'report')}"]
    return []


def _tested(run: WavLMCLI) -> list[Path]:
    """The folders of the cards of a test, one for each head."""
    return [run.folder / label / run.further for label in run.model.heads()]


def _has_ended(run: WavLMCLI) -> bool:
    return run.trainer.is_global_zero and not run.trainer.fast_dev_run and not run.trainer.interrupted


def next_command(model: pl.LightningModule, folder: Path) -> str:
    """What follows the training of a head or of an encoder, to be pasted into a shell."""
    if isinstance(model, Task):
        return as_called("test", folder)
    return as_called("superb", folder, "--data", "mini", "--output", folder.with_name(f"{folder.name}-superb"))


def _trained(run: WavLMCLI) -> str:
    """The best values on validation, and the updates."""
    updates = f"{run.trainer.global_step:,} updates"
    scores = _best_scores(run.trainer)
    if isinstance(run.model, Task):
        heads = run.model.heads()
        found = []
        for label, head in heads.items():
            monitor = "/".join(filter(None, [label, head.monitor[0]]))
            if monitor in scores:
                found.append(f"{f'{label} ' if label else ''}{head.unit(head.metric).text(scores[monitor])}")
        titles = {metric_title(head.metric) for head in heads.values()}
        more = f" and {len(found) - MOST} more" if len(found) > MOST else ""
        figures = f"best {' and '.join(sorted(titles))} on validation: {', '.join(found[:MOST])}{more}" if found else ""
    else:
        words = [f"best {name} {score:.3f}" for name, score in scores.items()]
        if (accuracy := run.trainer.callback_metrics.get("valid/masked_accuracy")) is not None:
            words.append(f"last valid/masked_accuracy {100 * float(accuracy):.1f} %")
        figures = ", ".join(words)
    return ", ".join(filter(None, [updates, figures]))


def _best_scores(trainer: pl.Trainer) -> dict[str, float]:
    """Monitored value -> the best one that a checkpoint was kept for."""
    found: dict[str, float] = {}
    for callback in trainer.checkpoint_callbacks:
        name, score = getattr(callback, "monitor", None), getattr(callback, "best_model_score", None)
        if name is not None and name != "step" and score is not None:
            found[name] = float(score)
    return found
