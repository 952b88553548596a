"""Combine result cards: the mean over the folds of a cross-validation, and the learning rate that validated best."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from wavlm_lightning.reports.cards import CorpusReference, MetricValue, ResultCard, Selection
from wavlm_lightning.system.errors import UserError


def recovered_share(labelled_only: float, student: float, oracle: float) -> float | None:
    """How much of what true labels would bring pseudo-labels bring: 0 is the teacher's error rate, 1 that of the oracle.

    Args:
        labelled_only: error rate of training on the true labels alone.
        student: on these and pseudo-labels.
        oracle: on these and the true labels of the same utterances.

    Returns:
        The share; None if the true labels bring nothing, so that there is nothing to recover.

    Example:
        >>> recovered_share(20.0, 14.0, 10.0)
        0.6
    """
    return None if labelled_only <= oracle else (labelled_only - student) / (labelled_only - oracle)


def fold_names(splits: Sequence[str]) -> list[str]:
    """Names of folds, by their splits; a number behind those of a corpus for each fold, which are all called the same."""
    if len(set(splits)) == len(splits):
        return list(splits)
    return [f"{split} {number}" for number, split in enumerate(splits, start=1)]


def joined_hash(hashes: Sequence[str]) -> str:
    """The hash of the data of several folds, from those of each; empty if one is not known."""
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest() if all(hashes) else ""


def combine_folds(cards: Sequence[ResultCard]) -> ResultCard:
    """Average every metric over folds, and add the spread of the headlines (SUPERB's figure for ER is this mean).

    The cards differ only in the tested split. In the result `details["folds"]` holds the headline of each fold, and the
    metric `HEADLINE_spread` is the sample standard deviation over folds; a single card is returned without them. What an older
    fold lacks is left out.
    """
    first = cards[0]
    if len(cards) == 1:
        return replace(first, details=dict(first.details))
    metrics: dict[str, MetricValue] = {
        name: {**value, "value": statistics.fmean(card.metrics[name]["value"] for card in cards)}
        for name, value in first.metrics.items()
        if all(name in card.metrics for card in cards)
    }
    headlines = [name for name in first.headlines if name in metrics]
    for name in headlines or [first.headline]:
        spread: MetricValue = {**first.metrics[name], "better": "lower"}
        spread["value"] = statistics.stdev(card.metrics[name]["value"] for card in cards)
        spread.pop("chance", None)
        metrics[f"{name}_spread"] = spread
    weights = [card.layer_weights for card in cards]
    even = len({len(some) for some in weights}) == 1
    names = fold_names([card.corpus["split"] for card in cards])
    selection: Selection | None = first.selection and {**first.selection, "value": validation(cards)}
    corpus: CorpusReference = {
        "name": first.corpus["name"],
        "path": first.corpus["path"],
        "split": ", ".join(card.corpus["split"] for card in cards),
        "utterances": sum(card.corpus["utterances"] for card in cards),
        "seconds": round(sum(card.corpus["seconds"] for card in cards), 2),
    }
    if digest := joined_hash([card.corpus.get("sha256", "") for card in cards]):
        corpus["sha256"] = digest
    return replace(
        first,
        metrics=metrics,
        headlines=headlines,
        corpus=corpus,
        selection=selection,
        layer_weights=[statistics.fmean(each) for each in zip(*weights, strict=True)] if even else first.layer_weights,
        runtime_seconds=round(sum(card.runtime_seconds for card in cards), 2),
        training_seconds=round(sum(card.training_seconds for card in cards), 2),
        created=max(card.created for card in cards),
        interval=None,  # that of the mean comes from the utterances of all folds
        intervals={},
        details={"folds": {name: card.value for name, card in zip(names, cards, strict=True)}},
    )


def validation(cards: Sequence[ResultCard]) -> float:
    """Mean validation value of the best checkpoints, as a fraction; NaN if nothing was validated."""
    values = [card.selection["value"] for card in cards if card.selection is not None]
    return statistics.fmean(values) if values else float("nan")


def best_rate(cards: Mapping[float | None, Sequence[ResultCard]]) -> float | None:
    """Choose the learning rate with the best mean on validation over the folds; test figures are not used.

    A UserError says if no rate has a finite validation value.
    """
    if len(cards) == 1:
        return next(iter(cards))
    first = next(iter(cards.values()))[0]
    # The metric that selects the checkpoint may differ from the headline, in direction as well.
    falling = first.selection is not None and first.selection.get("mode") == "min"
    values = {rate: validation(some) for rate, some in cards.items()}
    finite = {rate: value for rate, value in values.items() if math.isfinite(value)}
    if not finite:
        raise UserError(f"no learning rate of {first.task} has a finite validation value; try lower ones with --search")
    return (min if falling else max)(finite, key=lambda rate: finite[rate])
