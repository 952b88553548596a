"""The Lightning data module of downstream tasks: batches from audio, or from a cache of the frozen upstream's features."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from wavlm_lightning.audio import SAMPLE_RATE, too_short
from wavlm_lightning.augment.transforms import WaveformTransform
from wavlm_lightning.data.batch import TaskBatch
from wavlm_lightning.data.corpus import Corpus, Split
from wavlm_lightning.data.loading.batching import BatchPlan
from wavlm_lightning.data.loading.mixture import Mixture, Source
from wavlm_lightning.data.loading.resume import ResumableData
from wavlm_lightning.data.loading.shard_order import Passes, starts_among
from wavlm_lightning.data.noise import open_transforms
from wavlm_lightning.data.subset import Subset, open_splits
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.hardware import capped
from wavlm_lightning.system.paths import cache_directory
from wavlm_lightning.system.progress import progress_bar
from wavlm_lightning.tasks.augmentation import Augmentation, check_transforms
from wavlm_lightning.tasks.contract import Needs, Served, join
from wavlm_lightning.tasks.joint.shared_batches import check_alike, common_level
from wavlm_lightning.tasks.pseudo_labels import PseudoLabelled, counts_of, is_pseudo, refuse_pseudo
from wavlm_lightning.tasks.utterances import LabelledUtterances, PartlyCached, named
from wavlm_lightning.tasks.windows import LONGEST_WHOLE, WINDOW_SECONDS
from wavlm_lightning.upstreams.cache import FeatureCache


def _key(name: str) -> str:
    """The option that holds the transforms of `train`, `valid` or `test`."""
    return "data.transforms" if name == "train" else "data.eval_transforms"


def _so_much(samples: np.ndarray, numbers: np.ndarray, seconds: float) -> np.ndarray:
    """Those of the utterances `numbers` that a fixed random order brings first, up to so much audio; one at least."""
    if (there := samples[numbers].sum() / SAMPLE_RATE) < seconds:
        raise UserError(
            f"data.train_seconds {seconds}: the training split has {there:.0f} s; set less, or null for all"
        )
    drawn = numbers[np.random.default_rng(0).permutation(len(numbers))]
    count = int((samples[drawn].cumsum() <= seconds * SAMPLE_RATE).sum())
    return np.sort(drawn[: max(1, count)])


class TaskData(ResumableData):
    """A corpus with train, valid and test splits, for any task, or for several heads at a time (`ManyHeads`).

    A split may join several of the corpus' splits, separated by `+`.

    Args:
        corpus: a corpus folder.
        batch_size: utterances in a training batch; null for no such limit.
        batch_seconds: audio in a training batch, padding included; null for no such limit.
        eval_batch_seconds: audio in a batch of validation and test.
        max_seconds: crop longer training utterances at random; null trains on whole ones. Not for tasks whose target is all
            that was said, such as ASR.
        max_frames: the same in frames of the upstream.
        min_seconds: leave utterances that are no longer than this out of training, as s3prl does for SV.
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
        seed: of order, crops and training transforms; null takes `seed_everything` of the command line, else 1337.
        transforms: what training waveforms go through after the crop, in order, each drawn anew every time an utterance
            is read: noise, rooms, changes of speed, see `wavlm_lightning.augment.transforms`. Not with `cache`.
        eval_transforms: the same for validation and test, where an utterance always gets the same draw.
        train_seconds: train on so much audio, whole utterances drawn once, the same for every seed; less is within more. Null
            trains on all.
        pseudo_corpus: a corpus of `wavlm pseudo-label`, or several, with weights among them if they have some: all of their
            utterances are trained on beside those of `corpus`, in whose validation and test no pseudo-label may be.
        pseudo_share: their share of the audio that is trained on, between 0 and 1; an epoch is as long as all corpora together,
            and goes through each in turn, so that the smaller part comes more often.
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
        seed: int | None = None,
        transforms: list[WaveformTransform] | None = None,
        eval_transforms: list[WaveformTransform] | None = None,
        train_seconds: float | None = None,
        pseudo_corpus: str | list[str | Source] | None = None,
        pseudo_share: float = 0.8,
    ) -> None:
        super().__init__()
        self.path = Path(corpus)
        self.batch_size, self.batch_seconds, self.eval_batch_seconds = batch_size, batch_seconds, eval_batch_seconds
        self.max_seconds, self.min_seconds, self.balance = max_seconds, min_seconds, balance
        if max_seconds is not None and max_frames is not None:
            raise UserError("data.max_seconds and data.max_frames both crop; give one of them")
        if train_seconds is not None and train_seconds <= 0:
            raise UserError(
                f"data.train_seconds {train_seconds}: must be above 0; give seconds of audio, or null for all"
            )
        self.train_seconds = train_seconds
        self.max_frames, self.factor = max_frames, 10 ** (gain_db / 20)  # the gain of an amplitude, not of a power
        self.splits = {"train": train_split, "valid": valid_split, "test": test_split}
        self.cache_directory: Path | None = None
        if cache is not None:
            self.cache_directory = cache_directory() / "features" if cache == "auto" else Path(cache)
        self.cache_gib, self.num_workers, self.seed = cache_gib, num_workers, 1337 if seed is None else seed
        self.cache: FeatureCache | None = None
        self.transforms: dict[str, Sequence[WaveformTransform]] = {"train": transforms or ()}
        self.transforms |= dict.fromkeys(("valid", "test"), eval_transforms or ())
        self.weights: dict[str, np.ndarray] = {}  # of the utterances of a split that are drawn with replacement
        self.described: list[Any] = []  # the training transforms, and the hashes of the corpora that they read
        self.changed: list[Any] = []  # the same of the transforms of validation and test
        self.needs: tuple[Needs, ...] = ()
        self.pseudo = None if pseudo_corpus is None else PseudoLabelled(pseudo_corpus, pseudo_share)
        if self.pseudo is not None and (
            other := next((k for k, v in {"balance": balance, "cache": cache}.items() if v), None)
        ):
            raise UserError(
                f"data.{other} and data.pseudo_corpus do not go together: a mixture has its own shares, and is trained on audio; "
                f"set data.{other}: null"
            )

    @property
    def corpus(self) -> Corpus:
        """The corpus, with the label inventories that training transforms extend."""
        corpus = Corpus.open(self.path)
        inventories = corpus.inventories
        for transform in self.transforms["train"]:
            inventories = transform.inventories(inventories)
        if inventories is not corpus.inventories:
            corpus.body["inventories"] = inventories
        return corpus

    def setup(self, stage: str) -> None:
        """Open the splits of a stage and, with a cache, compute the features that it lacks."""
        assert self.trainer is not None, "Lightning calls `setup` of a data module that has a trainer"
        join(self.trainer, partial(self.serve, stage))

    def serve(self, stage: str, needs: tuple[Needs, ...]) -> Served:
        """Prepare a stage (`fit`, `validate`, `test` or `predict`) for tasks that need this; the first answers for all.

        Raises:
            UserError: the tasks cannot share batches, or the corpus lacks what they need.
        """
        self.needs = needs
        check_alike(needs, self.batch_requirements)
        used = {"fit": ("train", "valid"), "validate": ("valid",), "test": ("test",), "predict": ("test",)}[stage]
        self.opened = self.open_stage(used)
        labelled: dict[str, Any] = {}
        if "train" in self.opened:
            labelled = counts_of(self.corpus, self.opened["train"])
            self.opened["train"] = self._with_pseudo(self.opened["train"])
        self._check_lengths()
        self._check_keys()
        self._check_crops()
        for name, split in self.opened.items():
            self._open_transforms(name)
            self._check_audio(name, split)
        if self.cache_directory is not None:
            common_level(needs)  # refuses tasks that no cache serves
        self._check_labels(stage == "fit")
        drawn = [name for name in self.opened if self.balance is not None and self._as_in_training(name)]
        self.weights = {name: self._weights(self.opened[name]) for name in drawn}
        refuse_pseudo(self.corpus, {name: split for name, split in self.opened.items() if name != "train"})
        if self.pseudo is not None and stage == "fit":
            self.pseudo.refuse_judged(self._judged())
        if self.cache_directory is not None:
            self._fill_cache()
        loaders = {"train": self.train_dataloader, "valid": self.val_dataloader, "test": self.test_dataloader}
        training = partial(self._training, stage == "fit")
        pseudo = {} if self.pseudo is None or "train" not in self.opened else self.pseudo.counts
        if is_pseudo(self.corpus):
            pseudo, labelled = labelled, {}
        return Served(
            self.corpus,
            self.opened,
            self.splits,
            lambda name: loaders[name](),
            self.path,
            training,
            self._whole,
            labelled,
            pseudo,
            self.factor,
            self.changed,
        )

    def _with_pseudo(self, train: Split) -> Split:
        """The training split, joined with the pseudo-labelled corpora."""
        return train if self.pseudo is None else self.pseudo.join(self.corpus, train, self.min_seconds)

    def _judged(self) -> dict[str, Split]:
        """The splits by which a model is chosen and tested; one that the corpus does not have cannot test anything."""
        corpus, names = self.corpus, {name: self.splits[name] for name in ("valid", "test")}
        return {
            name: open_splits(corpus, split) for name, split in names.items() if {*split.split("+")} <= {*corpus.splits}
        }

    def _check_lengths(self) -> None:
        """Refuse utterances without a single frame, by name; today's recipes and `wavlm data check` do the same."""
        shortest = max(task.upstream.shortest for task in self.needs)
        for name, split in self.opened.items():
            short = np.flatnonzero(split.samples < shortest)
            if len(short):
                shard, place = split.locate(int(short[0]))
                remedy = f"set data.min_seconds: {shortest / SAMPLE_RATE:g}, or " if name == "train" else ""
                found = too_short(int(split.samples[short[0]]), shortest)
                raise UserError(
                    f"{shard.path}: utterance {shard.keys[place]!r} of split {split.name} is {found}, as are "
                    f"{len(short) - 1} more; {remedy}prepare the corpus again, which leaves them out with --on-error skip"
                )

    def _check_keys(self) -> None:
        """Refuse to judge by joined splits that share keys: the results of one utterance would replace those of another."""
        for name, split in self.opened.items():
            if name == "train" or "+" not in split.name:
                continue
            if twice := [key for key, count in Counter(split.keys).items() if count > 1]:
                raise UserError(
                    f"split {split.name}: the keys {', '.join(twice[:3])}{', ...' if len(twice) > 3 else ''} are in both splits "
                    f"({len(twice)} of them), and results go by keys; name one split at a time, or prepare the corpus again with "
                    "other keys"
                )

    def _check_crops(self) -> None:
        """Refuse crops of what is transcribed: a part of the audio would be trained with all of its words."""
        option = "data.max_seconds" if self.max_frames is None else "data.max_frames"
        value = self.max_seconds if self.max_frames is None else self.max_frames
        for name, split in self.opened.items():
            longest = self._longest(name)
            crops = 0 if longest is None else int((split.samples > longest).sum())
            for task in self.needs if crops else ():
                if task.transcribes and not task.framewise:
                    raise UserError(
                        f"{option} {value}: crops {crops} of {len(split)} utterances of split {split.name}, and the targets of "
                        f"{task.name} are all that was said in them; leave it out (data.batch_seconds bounds memory), or cut the "
                        "corpus at pauses"
                    )

    def _check_labels(self, fitting: bool) -> None:
        """Refuse wrong labels before hours of features: of every utterance with a cache, else of the first of each shard."""
        corpus, whole = self.corpus, self.cache_directory is not None
        for task in self.needs:
            if task.check is None:
                continue
            for split in self.opened.values():
                places = ((shard, place) for shard in split.shards for place in range(shard.utterances if whole else 1))
                task.check(corpus, self.splits, fitting, ((named(*at), at[0].meta(at[1])) for at in places))

    def _open_transforms(self, name: str) -> None:
        """Check that the transforms of a split fit the tasks and the cache, and open what they read."""
        key = _key(name)
        if self.transforms[name] and self.cache_directory is not None:
            raise UserError(
                f"{key}: a cache holds the features of {name} as they are in the corpus, not of what the transforms make of "
                "them; set data.cache: null"
            )
        check_transforms(self.transforms[name], self.needs, key)
        described = open_transforms(self.transforms[name])
        if name == "train":
            self.described = described
        else:
            self.changed = described

    def _check_audio(self, name: str, split: Split) -> None:
        """Check that a split has the further audio that tasks need."""
        for task in self.needs:
            for member in task.extra_audio:
                split.check_audio(member)
            for member in task.target_audio:
                if member in split.audio_members or len(task.target_audio) > 1:
                    split.check_audio(member, aligned=True)
                elif not self.transforms[name] and not task.reconstructs:
                    raise UserError(
                        f"{task.name}: the utterances of split {split.name} have no audio {member!r}; write it with the "
                        f"corpus (`wavlm prepare folder --help`), or set {_key(name)}, whose input is then the target"
                    )

    def batch_requirements(self, task: Needs) -> dict[str, Any]:
        """Settings that must agree for tasks to share batches, by the name that an error message gives them.

        A subclass that consults further settings of the task adds them.
        """
        split = task.selection_split(self.splits["valid"], self.splits["test"])
        return {"the split to validate on": split, "resampling in validation": self._resamples(task)}

    def open_stage(self, used: tuple[str, ...]) -> dict[str, Split]:
        """The splits that a stage uses, `used`: some of `train`, `valid` and `test`."""
        corpus, task = self.corpus, self.needs[0]
        names = {**self.splits, "valid": task.selection_split(self.splits["valid"], self.splits["test"])}
        return {name: self.training_split() if name == "train" else open_splits(corpus, names[name]) for name in used}

    def training_split(self) -> Split:
        """The utterances of `corpus` that are trained on: no task is needed to know them."""
        opened = open_splits(self.corpus, self.splits["train"])
        if not self.min_seconds and self.train_seconds is None:
            return opened
        chosen, why = np.flatnonzero(opened.samples > self.min_seconds * SAMPLE_RATE), []
        if self.min_seconds:
            why.append(f"data.min_seconds={self.min_seconds}")
        if self.train_seconds is not None:
            chosen = _so_much(opened.samples, chosen, self.train_seconds)
            why.append(f"data.train_seconds={self.train_seconds}")
        return Subset.of(opened, chosen, f"with {' and '.join(why)}")

    def _crop(self) -> float | None:
        return self.max_seconds if self.max_frames is None else self.max_frames / self.needs[0].upstream.frame_rate

    def _resamples(self, task: Needs) -> bool:
        """Whether validation draws with replacement, as s3prl does for KS."""
        return task.resamples and self.balance is not None

    def _as_in_training(self, name: str) -> bool:
        """Whether a split is drawn and cropped as training is: s3prl crops what it resamples in validation, too."""
        return name == "train" or (name == "valid" and self._resamples(self.needs[0]))

    def _fill_cache(self) -> None:
        trainer, directory, upstream = self.trainer, self.cache_directory, self.needs[0].upstream
        assert directory is not None
        level = common_level(self.needs)
        precision, context = str(trainer.precision), trainer.precision_plugin.forward_context
        self.cache = FeatureCache(directory, upstream, level, self.cache_gib, self.factor, precision, context)
        for name, split in self.opened.items():
            longest = self._longest(name)
            if longest is None and name != "train" and split.samples.max() > LONGEST_WHOLE * SAMPLE_RATE:
                raise UserError(
                    f"data.cache: split {split.name} has a recording of {split.samples.max() / SAMPLE_RATE:.0f} s, and a cache "
                    f"holds recordings of at most {LONGEST_WHOLE:g} s whole; set data.cache: null, which scores it in windows"
                )
            need, missing = self.cache.check_budget(split.shards, longest)
            self._announce(split, longest, need, missing)
            # Each rank computes its share of the shards, and all read the whole cache after the barrier.
            ours, began = split.shards[trainer.global_rank :: trainer.world_size], time.monotonic()
            total, hidden = sum(self.cache.absent(shard, longest) for shard in ours), trainer.global_rank > 0
            with progress_bar(
                total=total, desc=f"cache {name}", unit="utt", leave=False, disable=hidden or not total
            ) as bar:
                for shard in ours:
                    self.cache.fill(shard, trainer.strategy.root_device, longest, bar=bar)
            if missing:
                rank_zero_info(f"cache: {split.name}: computed in {time.monotonic() - began:.0f} s")
        trainer.strategy.barrier("feature cache")

    def _longest(self, name: str) -> int | None:
        """Samples of the longest utterance of a split that is not cropped; None if the split is never cropped."""
        seconds = self._crop()
        return round(seconds * SAMPLE_RATE) if seconds is not None and self._as_in_training(name) else None

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
            return replace(batch, inputs=batch.inputs.complete(self.needs[0].upstream))

    def _augmentation(self, name: str) -> Augmentation | None:
        transforms = self.transforms[name]
        if not transforms:
            return None
        return Augmentation(
            self.opened[name], transforms, self.seed if name == "train" else None, self.factor, _key(name)
        )

    def _training(self, fitting: bool) -> Split:
        return self.opened["train"] if fitting else self._with_pseudo(self.open_stage(("train",))["train"])

    def _whole(self, split: Split) -> DataLoader:
        longest, most = float(split.samples.max()) / SAMPLE_RATE, None
        seconds = max(self.eval_batch_seconds, longest)
        if longest > LONGEST_WHOLE:  # alone in their batch, as in `_loader`
            seconds = most = LONGEST_WHOLE
        trainer = self.trainer
        assert trainer is not None
        plan = BatchPlan(
            split.samples,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            train=False,
            max_seconds=most,
            batch_seconds=seconds,
            alone=None if most is None else split.samples > most * SAMPLE_RATE,
        )
        utterances = LabelledUtterances(split, self.needs, None, self.seed, None, self.factor, None)
        workers = capped(self.num_workers, "data.num_workers")
        return DataLoader(utterances, batch_size=None, sampler=plan, num_workers=workers)

    def _loader(self, name: str, train: bool) -> DataLoader:
        split, trainer, augmentation = self.opened[name], self.trainer, self._augmentation(name)
        max_seconds = self._crop() if self._as_in_training(name) else None
        samples, cropped = split.samples, max_seconds
        if augmentation is not None:
            # The plan counts the seconds that transforms make of an utterance; its crop comes before them.
            crops = samples if max_seconds is None else np.minimum(samples, round(max_seconds * SAMPLE_RATE))
            samples, cropped = augmentation.longest(crops), None
        limits: dict[str, Any] = {"batch_size": self.batch_size, "batch_seconds": self.batch_seconds}
        if not train:
            # Whole utterances, so a batch must hold at least the longest one.
            longest = float(samples.max()) / SAMPLE_RATE
            limits = {"batch_seconds": max(self.eval_batch_seconds, longest)}
            if longest > LONGEST_WHOLE and cropped is None:
                # Heard in windows, so each is alone in its batch and does not make room for others beside it.
                limits, cropped = {"batch_seconds": LONGEST_WHOLE}, LONGEST_WHOLE
                limits["alone"] = samples > LONGEST_WHOLE * SAMPLE_RATE
                self._note_long(split)
        plan = BatchPlan(
            samples,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            train=train,
            max_seconds=cropped,
            multiple=trainer.accumulate_grad_batches,
            passes=self._passes(split, max_seconds) if train else None,
            seed=self.seed,
            weights=self.weights.get(name),
            **limits,
        )
        if train:
            self.resume(plan)
        utterances = LabelledUtterances(
            split, self.needs, max_seconds, self.seed, self.cache, self.factor, augmentation, evaluated=not train
        )
        pin, workers = torch.cuda.is_available(), capped(self.num_workers, "data.num_workers")
        return DataLoader(utterances, batch_size=None, sampler=plan, num_workers=workers, pin_memory=pin)

    def _passes(self, split: Split, max_seconds: float | None) -> Passes | None:
        """The order of a mixture of true labels and pseudo-labels; None without any."""
        if self.pseudo is None:
            return None
        assert isinstance(split, Subset), "`PseudoLabelled.join` chooses utterances"
        heard = split.samples if max_seconds is None else np.minimum(split.samples, round(max_seconds * SAMPLE_RATE))
        starts = starts_among(Split(split.name, split.shards).starts, split.numbers)
        return Mixture(starts, heard, self.pseudo.bounds, self.pseudo.weights, seed=self.seed)

    def _note_long(self, split: Split) -> None:
        number = int((split.samples > LONGEST_WHOLE * SAMPLE_RATE).sum())
        rank_zero_info(
            f"{split.name}: {number} of {len(split)} recordings are longer than {LONGEST_WHOLE:g} s and scored in windows of "
            f"{WINDOW_SECONDS:g} s, as `wavlm predict` does"
        )

    def layout(self) -> dict[str, Any]:
        """Corpus and the arguments that shape training batches; a resumed run must have the same."""
        batch = [self.batch_size, self.batch_seconds, self.max_seconds, self.max_frames, self.min_seconds, self.balance]
        batch += [1 if self.trainer is None else self.trainer.accumulate_grad_batches]
        batch += [self.splits["train"], self.seed]
        layout: dict[str, Any] = {"corpus": self.corpus.sha256, "batch": batch}
        # Only then, so that older checkpoints can still be resumed.
        if self.transforms["train"]:
            layout["transforms"] = self.described
        if self.train_seconds is not None:
            layout["train_seconds"] = self.train_seconds
        if self.pseudo is not None:
            layout["pseudo"] = self.pseudo.layout
        return layout

    def _weights(self, split: Split) -> np.ndarray:
        """Of each utterance, so that all values of the field `balance` have the same total weight."""
        field, metas = str(self.balance), split.metas()
        without = [number for number, meta in enumerate(metas) if meta.get(field) is None]
        if len(without) == len(metas):
            raise UserError(
                f"data.balance {field}: no utterance of split {split.name} has this field; they have "
                f"{', '.join(sorted({name for meta in metas for name in meta}))}"
            )
        if without:
            shard, first = split.locate(without[0])
            raise UserError(
                f"data.balance {field}: {len(without)} of {len(metas)} utterances of split {split.name} have no such field, the "
                f"first of them {shard.keys[first]!r}; write it for all, or set data.balance: null"
            )
        _, place, counts = np.unique([str(meta[field]) for meta in metas], return_inverse=True, return_counts=True)
        return 1.0 / counts[place]

    def train_dataloader(self) -> DataLoader:
        return self._loader("train", train=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader("valid", train=False)

    def test_dataloader(self) -> DataLoader:
        return self._loader("test", train=False)

    def predict_dataloader(self) -> DataLoader:
        return self._loader("test", train=False)
