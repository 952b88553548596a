"""The Lightning data module of downstream tasks: batches from audio, or from a cache of the frozen upstream's features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.batch import TaskBatch
from wavlm_lightning.data.corpus import Corpus, Split
from wavlm_lightning.data.loading.batching import BatchPlan
from wavlm_lightning.data.loading.resume import ResumableData
from wavlm_lightning.data.subset import Subset, open_splits
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.paths import cache_directory
from wavlm_lightning.tasks.base import Task
from wavlm_lightning.tasks.joint.shared_batches import check_alike, common_level, tasks_of
from wavlm_lightning.tasks.utterances import LabelledUtterances, PartlyCached
from wavlm_lightning.upstreams.cache import FeatureCache


class TaskData(ResumableData):
    """A corpus with train, valid and test splits, for any task, or for several heads at a time (`ManyHeads`).

    A split may join several of the corpus' splits, separated by `+`.

    Args:
        corpus: a corpus folder.
        batch_size: utterances in a training batch; null for no such limit.
        batch_seconds: audio in a training batch, padding included; null for no such limit.
        eval_batch_seconds: audio in a batch of validation and test.
        max_seconds: crop longer training utterances at random; null trains on whole ones.
        max_frames: the same in frames of the upstream.
        min_seconds: leave shorter utterances out of training.
        gain_db: on every waveform; SUPERB's KS and QbE apply -3 dB (SV too, but before trimming, so its recipe does it).
        train_split: name of the split.
        valid_split: name of the split.
        test_split: name of the split.
        balance: name of a metadata field: utterances are drawn with replacement so that its values are equally
            frequent in training (SUPERB's KS).
        cache: folder for the frozen upstream's features, or `auto` for the user's cache folder; null runs the upstream
            at every step. Utterances that are cropped are not cached; the upstream runs over their crops in every epoch.
        cache_gib: largest cache of a split.
        num_workers: processes that read audio; 0 reads in the main process.
        seed: of order and crops.
    """

    def __init__(
        self,
        corpus: str,
        batch_size: int | None = 32,
        batch_seconds: float | None = None,
        eval_batch_seconds: float = 60.0,
        max_seconds: float | None = None,
        max_frames: int | None = None,
        min_seconds: float = 0.0,
        gain_db: float = 0.0,
        train_split: str = "train",
        valid_split: str = "valid",
        test_split: str = "test",
        balance: str | None = None,
        cache: str | None = None,
        cache_gib: float = 20.0,
        num_workers: int = 0,
        seed: int = 1337,
    ) -> None:
        super().__init__()
        self.path = Path(corpus)
        self.batch_size, self.batch_seconds, self.eval_batch_seconds = batch_size, batch_seconds, eval_batch_seconds
        self.max_seconds, self.min_seconds, self.balance = max_seconds, min_seconds, balance
        if max_seconds is not None and max_frames is not None:
            raise UserError("data.max_seconds and data.max_frames both crop; give one of them")
        self.max_frames, self.factor = max_frames, 10 ** (gain_db / 20)  # the gain of an amplitude, not of a power
        self.splits = {"train": train_split, "valid": valid_split, "test": test_split}
        self.cache_directory: Path | None = None
        if cache is not None:
            self.cache_directory = cache_directory() / "features" if cache == "auto" else Path(cache)
        self.cache_gib, self.num_workers, self.seed = cache_gib, num_workers, seed
        self.cache: FeatureCache | None = None

    @property
    def corpus(self) -> Corpus:
        return Corpus.open(self.path)

    def _tasks(self) -> list[Task]:
        assert self.trainer is not None, "TaskData reads the task from its trainer"
        return tasks_of(self.trainer.lightning_module)

    def _task(self) -> Task:
        """The first task. It answers for all where they must agree: the upstream and `batch_requirements`."""
        return self._tasks()[0]

    def setup(self, stage: str) -> None:
        """Open the splits of a stage and, with a cache, compute the features that it lacks."""
        check_alike(self._tasks(), self.batch_requirements)
        used = {"fit": ("train", "valid"), "validate": ("valid",), "test": ("test",), "predict": ("test",)}[stage]
        self.opened = self.open_stage(used)
        if self.cache_directory is not None:
            self._fill_cache()

    def batch_requirements(self, task: Task) -> dict[str, Any]:
        """Settings that must agree for tasks to share batches, by the name that an error message gives them.

        A subclass that consults further settings of the task adds them.
        """
        split = task.selection_split(self.splits["valid"], self.splits["test"])
        return {"the split to validate on": split, "resampling in validation": self._resamples(task)}

    def open_stage(self, used: tuple[str, ...]) -> dict[str, Split]:
        """The splits that a stage uses, `used`: some of `train`, `valid` and `test`."""
        corpus, task = self.corpus, self._task()
        names = {**self.splits, "valid": task.selection_split(self.splits["valid"], self.splits["test"])}
        opened = {name: open_splits(corpus, names[name]) for name in used}
        if self.min_seconds and "train" in opened:
            enough = np.flatnonzero(opened["train"].samples > self.min_seconds * SAMPLE_RATE)
            opened["train"] = Subset.of(opened["train"], enough, f"with data.min_seconds={self.min_seconds}")
        return opened

    def _crop(self) -> float | None:
        return self.max_seconds if self.max_frames is None else self.max_frames / self._task().upstream.frame_rate

    def _resamples(self, task: Task) -> bool:
        """Whether validation draws with replacement, as s3prl does for KS."""
        return task.protocol == "superb" and self.balance is not None

    def _fill_cache(self) -> None:
        trainer, directory, upstream = self.trainer, self.cache_directory, self._task().upstream
        assert directory is not None
        level = common_level(self._tasks())
        precision, context = str(trainer.precision), trainer.precision_plugin.forward_context
        self.cache = FeatureCache(directory, upstream, level, self.cache_gib, self.factor, precision, context)
        for name, split in self.opened.items():
            longest = self._longest(name)
            need, missing = self.cache.check_budget(split.shards, longest)
            self._announce(split, longest, need, missing)
            # Each rank computes its share of the shards, and all read the whole cache after the barrier.
            for shard in split.shards[trainer.global_rank :: trainer.world_size]:
                self.cache.fill(shard, trainer.strategy.root_device, longest)
        trainer.strategy.barrier("feature cache")

    def _longest(self, name: str) -> int | None:
        """Samples of the longest utterance of a split that is not cropped; None if the split is never cropped."""
        seconds = self._crop()
        cropped = name == "train" or (name == "valid" and self._resamples(self._task()))
        return round(seconds * SAMPLE_RATE) if seconds is not None and cropped else None

    def _announce(self, split: Split, longest: int | None, need: float, missing: float) -> None:
        assert self.cache is not None
        if missing:
            rank_zero_info(
                f"cache: {split.name}: {need:.2g} GiB of features ({self.cache.level} level) in {self.cache.directory}, "
                f"of which {missing:.2g} GiB are computed now"
            )
        longer = 0 if longest is None else int((split.samples > longest).sum())
        if longer:
            rank_zero_info(
                f"cache: {split.name}: {longer} of {len(split)} utterances are longer than data.max_seconds or max_frames and "
                "cropped at random, so they are not cached and the upstream runs over them at every step"
            )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        # The crops that a cache cannot hold pass through the upstream here, where they are already on the device.
        if not (isinstance(batch, TaskBatch) and isinstance(batch.inputs, PartlyCached)):
            return batch
        assert self.trainer is not None
        with self.trainer.precision_plugin.forward_context():
            return replace(batch, inputs=batch.inputs.complete(self._task().upstream))

    def _loader(self, name: str, train: bool) -> DataLoader:
        split, trainer = self.opened[name], self.trainer
        limits: dict[str, Any] = {"batch_size": self.batch_size, "batch_seconds": self.batch_seconds}
        if not train:
            # Whole utterances, so a batch must hold at least the longest one.
            longest = float(split.samples.max()) / SAMPLE_RATE
            limits = {"batch_seconds": max(self.eval_batch_seconds, longest)}
        # s3prl crops what it resamples in validation as it does in training.
        resampled = name == "valid" and self._resamples(self._task())
        if self.balance is not None and (train or resampled):
            limits["weights"] = self._weights(split, self.balance)
        max_seconds = self._crop() if train or resampled else None
        plan = BatchPlan(
            split.samples,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            train=train,
            max_seconds=max_seconds,
            multiple=trainer.accumulate_grad_batches,
            seed=self.seed,
            **limits,
        )
        if train:
            self.resume(plan)
        utterances = LabelledUtterances(split, self._tasks(), max_seconds, self.seed, self.cache, self.factor)
        pin = torch.cuda.is_available()
        return DataLoader(utterances, batch_size=None, sampler=plan, num_workers=self.num_workers, pin_memory=pin)

    def layout(self) -> dict[str, Any]:
        """Corpus and the arguments that shape training batches; a resumed run must have the same."""
        batch = [self.batch_size, self.batch_seconds, self.max_seconds, self.max_frames, self.min_seconds, self.balance]
        batch += [1 if self.trainer is None else self.trainer.accumulate_grad_batches]
        batch += [self.splits["train"], self.seed]
        return {"corpus": self.corpus.sha256, "batch": batch}

    @staticmethod
    def _weights(split: Split, field: str) -> np.ndarray:
        values = [str(meta.get(field)) for meta in split.metas()]
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        return 1.0 / counts[place]  # each value of the field gets the same total weight

    def train_dataloader(self) -> DataLoader:
        return self._loader("train", train=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader("valid", train=False)

    def test_dataloader(self) -> DataLoader:
        return self._loader("test", train=False)

    def predict_dataloader(self) -> DataLoader:
        return self._loader("test", train=False)
