"""ER: emotion recognition (SUPERB; IEMOCAP), and its cross-validation folds."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torchmetrics import Metric, MetricCollection

from wavlm_lightning.augment.transforms import WaveformTransform
from wavlm_lightning.data.corpus import Split
from wavlm_lightning.data.subset import Subset, open_splits
from wavlm_lightning.metrics.class_recall import UnweightedAccuracy
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Direction
from wavlm_lightning.tasks.classification import UtteranceClassification
from wavlm_lightning.tasks.contract import Needs
from wavlm_lightning.tasks.data import TaskData


class EmotionRecognition(UtteranceClassification):
    """Four classes; accuracy. One run is one fold (`FoldData`); SUPERB reports the mean of five.

    `accuracy` is the weighted accuracy (WA) of the literature, over all utterances of the fold; `unweighted_accuracy` (UA) is
    the mean recall of the classes. The mean over folds is not the accuracy of all folds pooled, because folds differ in size.

    `protocol: superb` validates on a random fifth of the training utterances, so the speakers of both are the same;
    `fixed` validates on the next fold's speakers and trains on the remaining three folds.
    Reads `emotion` of each utterance and the corpus' `emotions`. See `UtteranceClassification` for the arguments;
    source: s3prl `downstream/emotion`.
    """

    name = "ER"
    inventory = "emotions"
    field = "emotion"
    others: ClassVar[dict[str, Direction]] = {"unweighted_accuracy": "higher"}

    def build_metric(self) -> Metric:
        """Weighted and unweighted accuracy."""
        return MetricCollection(
            {"accuracy": super().build_metric(), "unweighted_accuracy": UnweightedAccuracy(self.classes)},
            compute_groups=False,
        )


class FoldData(TaskData):
    """Cross-validation: the splits of a corpus are folds, and one of them is the test set.

    Args:
        corpus: a corpus folder whose splits are the folds.
        fold: number of the fold to test on, from 1.
        batch_size: utterances in a training batch; null for no such limit.
        batch_seconds: audio in a training batch, padding included; null for no such limit.
        eval_batch_seconds: audio in a batch of validation and test.
        cache: see `TaskData`.
        cache_gib: largest cache of a split.
        num_workers: processes that read audio; 0 reads in the main process.
        seed: of order and training transforms; null takes `seed_everything` of the command line, else 1337.
        transforms: of training waveforms, see `TaskData`.
        eval_transforms: of the waveforms of validation and test.
    """

    def __init__(
        self,
        corpus: str,
        fold: int = 1,
        batch_size: int | None = 4,
        batch_seconds: float | None = None,
        eval_batch_seconds: float = 60.0,
        cache: str | None = None,
        cache_gib: float = 20.0,
        num_workers: int = 0,
        seed: int | None = None,
        transforms: list[WaveformTransform] | None = None,
        eval_transforms: list[WaveformTransform] | None = None,
    ) -> None:
        reading: dict[str, Any] = {"cache": cache, "cache_gib": cache_gib, "num_workers": num_workers, "seed": seed}
        reading |= {"transforms": transforms, "eval_transforms": eval_transforms}
        super().__init__(corpus, batch_size, batch_seconds, eval_batch_seconds, **reading)
        self.fold = fold
        # Placeholders until `open_stage` reads the names of the folds.
        self.splits = {"train": "all but the test fold", "valid": "a fifth of train", "test": f"fold {fold}"}

    def batch_requirements(self, task: Needs) -> dict[str, Any]:
        return {**super().batch_requirements(task), "the protocol of the folds": task.protocol}

    def open_stage(self, used: tuple[str, ...]) -> dict[str, Split]:
        """The test fold, and the others divided into training and validation."""
        corpus, task = self.corpus, self.needs[0]
        folds = corpus.splits
        if "train" in folds:
            raise UserError(
                f"{self.path}: its splits {', '.join(folds)} are no folds: all but the tested one would be trained on, also the "
                "test split; use TaskData, or prepare a corpus whose splits are folds"
            )
        if not 1 <= self.fold <= len(folds) or len(folds) < 3:
            raise UserError(
                f"data.fold={self.fold}: {self.path} has {len(folds)} folds ({', '.join(folds)}); data.fold counts "
                "them from 1, and at least 3 are needed"
            )
        test, following = folds[self.fold - 1], folds[self.fold % len(folds)]
        others = [name for name in folds if name != test]
        if task.protocol == "fixed":
            train = "+".join(name for name in others if name != following)
            self.splits = {"train": train, "valid": following, "test": test}
            return {name: open_splits(corpus, self.splits[name]) for name in used}
        self.splits = {"train": "+".join(others), "valid": "a random fifth of train", "test": test}
        pool = open_splits(corpus, self.splits["train"])
        # As torch's random_split under manual_seed(0), which s3prl uses.
        order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(0)).numpy()
        held = int(0.8 * len(pool))
        parts: dict[str, Split] = {
            "train": Subset.of(pool, np.sort(order[:held]), "to train on"),
            "valid": Subset.of(pool, np.sort(order[held:]), "to validate on"),
            "test": open_splits(corpus, test),
        }
        return {name: parts[name] for name in used}

    def layout(self) -> dict[str, object]:
        return {**super().layout(), "fold": self.fold}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        trained, judged = state_dict.get("layout", {}), ("validate", "test")
        # A prediction is no figure, and the folds of another corpus are other speakers.
        if (
            self.trainer is not None
            and self.trainer.state.fn in judged
            and trained.get("corpus") == self.corpus.sha256
            and trained.get("fold", self.fold) != self.fold
        ):
            raise UserError(
                f"data.fold={self.fold}: the run left fold {trained.get('fold')} out and was trained on this one; set data.fold: "
                f"{trained.get('fold')}, or train a run for this fold"
            )
