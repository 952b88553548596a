"""`wavlm score RUN RUN ...`: several quality predictors (MOS) joined by stacking, fitted on validation, scored on the test.

Different encoders err on different recordings, so the best figures of the VoiceMOS challenge are those of fusions (Yang et al.,
arXiv 2204.04855, whose rule is not published). Here it is ridge regression on the predictions of the heads. Tests:
`tests/workflows/test_quality_fusion.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import lightning.pytorch as pl
import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wavlm_lightning.metrics.rating_agreement import levels
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import QualityPrediction, TaskData
from wavlm_lightning.workflows.fit.messages import quiet
from wavlm_lightning.workflows.predict.head import open_head
from wavlm_lightning.workflows.predict.run_data import data_of_run

MEAN, STACKED = "mean", "stacked"
PENALTIES = np.logspace(-3, 4, 29)  # of the ridge; cross-validation leaves one utterance out at a time


class Predicted(NamedTuple):
    """A split with the predictions of the heads."""

    keys: tuple[str, ...]
    scores: np.ndarray  # (utterances, heads)
    rated: np.ndarray  # (utterances,)
    systems: np.ndarray  # names, (utterances,)


@dataclass(frozen=True)
class Fusion:
    """A stack of predictors and its figures.

    Attributes:
        measures: a run, `mean` (of the predictions) or `stacked` -> the measures of the test, as `levels` names them.
        weights: of each run in the stack: points of the stack for one point of the run.
        intercept: points.
        penalty: that the cross-validation chose.
        fitted_on: name of the validation split.
        tested_on: name of the test split.
        utterances: of the test.
        systems: of the test.
        scores: key of an utterance of the test -> its stacked score.
    """

    measures: Mapping[str, Mapping[str, float]]
    weights: Mapping[str, float]
    intercept: float
    penalty: float
    fitted_on: str
    tested_on: str
    utterances: int
    systems: int
    scores: Mapping[str, float] = field(default_factory=dict, repr=False)


def fuse(
    runs: Sequence[str | Path], corpus: str | Path | None = None, split: str | None = None, device: str | None = None
) -> Fusion:
    """Stack the quality heads of several runs: fitted on their validation split, scored on the test.

    Args:
        runs: run folders of `wavlm fit` with MOS heads of any upstreams, trained on the same corpus.
        corpus: where the corpus is now, if not where the runs say.
        split: to score; the test split of the runs by default.
        device: see `choose_device`.

    Raises:
        UserError: fewer than two runs, one without a quality head, or runs of different corpora.

    Example:
        >>> fuse(["runs/base", "runs/large"]).measures["stacked"]["system_srcc"]
        0.958
    """
    folders = list(dict.fromkeys(map(Path, runs)))
    if len(folders) < 2:
        raise UserError("a fusion takes at least two different runs; name more run folders of MOS heads")
    fitted, tested, names = [], [], set[tuple[str, str]]()
    for run in folders:
        head = open_head(run, device)
        if not isinstance(head.task, QualityPrediction):
            raise UserError(
                f"{run}: holds a head for {head.task.name}; a fusion takes heads that predict quality (MOS)"
            )
        data = data_of_run(run, None if corpus is None else Path(corpus))
        here = data.splits["valid"], split or data.splits["test"]
        names.add(here)
        # A data module each: one serves a single stage.
        fitted.append(_predict(head.task, data, here[0], device))
        again = data_of_run(run, None if corpus is None else Path(corpus))
        tested.append(_predict(head.task, again, here[1], device))
    if len(names) > 1:
        raise UserError(f"the runs name different splits ({sorted(names)}); fuse runs of the same validation and test")
    ((valid, test),) = names
    _check_apart(valid, test)
    return _stacked([str(run) for run in folders], _joined(fitted, folders), _joined(tested, folders), valid, test)


def _check_apart(valid: str, test: str) -> None:
    if both := sorted({*valid.split("+")} & {*test.split("+")}):
        raise UserError(f"split {both[0]} would both fit and score the fusion; choose another --split")


def _stacked(labels: list[str], fitted: Predicted, tested: Predicted, valid: str, test: str) -> Fusion:
    model = make_pipeline(StandardScaler(), RidgeCV(PENALTIES)).fit(fitted.scores, fitted.rated)
    scaler, ridge = model[0], model[1]
    weights = ridge.coef_ / scaler.scale_
    answers = {label: tested.scores[:, column] for column, label in enumerate(labels)}
    answers |= {MEAN: tested.scores.mean(1), STACKED: model.predict(tested.scores)}
    return Fusion(
        measures={name: levels(scores, tested.rated, tested.systems) for name, scores in answers.items()},
        weights=dict(zip(labels, weights.tolist(), strict=True)),
        intercept=float(ridge.intercept_ - weights @ scaler.mean_),
        penalty=float(ridge.alpha_),
        fitted_on=valid,
        tested_on=test,
        utterances=len(tested.keys),
        systems=len(set(tested.systems.tolist())),
        scores=dict(zip(tested.keys, answers[STACKED].tolist(), strict=True)),
    )


def _joined(parts: Sequence[Predicted], runs: Sequence[Path]) -> Predicted:
    """One split of all heads; `UserError` unless all of them heard the same ratings."""
    first = parts[0]
    for part, run in zip(parts, runs, strict=True):
        if part.keys != first.keys or not np.array_equal(part.rated, first.rated):
            raise UserError(
                f"{run}: its corpus has other ratings than that of {runs[0]}; give one corpus with --corpus"
            )
    return first._replace(scores=np.concatenate([part.scores for part in parts], 1))


def _predict(task: QualityPrediction, data: TaskData, split: str, device: str | None) -> Predicted:
    """What a head says of a split, in the order of the split."""
    data.splits = {**data.splits, "test": split}  # what a prediction reads
    with quiet():
        trainer = pl.Trainer(
            accelerator="cpu" if device == "cpu" else "auto",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        batches = trainer.predict(task, data)
    said: dict[str, float] = {}
    for batch in batches or []:
        said.update(zip(batch["keys"], batch["outputs"][:, 0].float().tolist(), strict=True))
    opened = data.opened["test"]
    keys, metas = tuple(opened.keys), opened.metas()
    scores = np.array([said[key] for key in keys])[:, None]
    if not np.isfinite(scores).all():
        raise UserError(f"{task.name}: the head predicts scores that are not finite on split {split}; train it again")
    rated = np.array([float(meta["rating"]) for meta in metas])
    return Predicted(keys, scores, rated, np.array([meta["system"] for meta in metas]))
