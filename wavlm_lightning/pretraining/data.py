"""The data module of pre-training: one corpus or a mixture of several, labels, noise, and batches of equal audio."""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from wavlm_lightning.audio import SAMPLE_RATE, SHORTEST
from wavlm_lightning.codebooks import LabelSet
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.loading.batching import BatchPlan
from wavlm_lightning.data.loading.growing import GrowingPlan, GrowingSizes, Growth
from wavlm_lightning.data.loading.mixture import Mixture, Source, folders_of, sources_of
from wavlm_lightning.data.loading.resume import ResumableData, batches_taken
from wavlm_lightning.data.loading.shard_order import WINDOW, Passes, starts_among
from wavlm_lightning.data.split import Split
from wavlm_lightning.data.subset import join_splits
from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.pretraining.contract import PretrainingServed
from wavlm_lightning.pretraining.crops import Crops
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.hardware import capped


def _with_labels(numbers: np.ndarray, labels: dict[str, LabelSet], split: str) -> np.ndarray:
    """The utterances that have labels in all sets: those without alignment have none in a codebook of phones."""
    kept = numbers
    for each in labels.values():
        if each.has_labels is not None:
            kept = kept[each.has_labels[kept]]
    if len(kept) < len(numbers):
        said = f"data.labels {', '.join(labels)}: {len(numbers) - len(kept)} of {len(numbers)} utterances of split {split!r}"
        if not len(kept):
            raise UserError(f"{said} have no labels; align some of them, and run `wavlm codebook apply` again")
        rank_zero_info(f"{said} have no alignment, and are left out")
    return kept


@dataclass(frozen=True)
class Part:
    """An opened split of all sources."""

    split: Split  # source after source
    labels: dict[str, LabelSet]
    numbers: np.ndarray  # ascending numbers of the utterances that are long enough, int64
    bounds: list[int]  # number of the first shard of each source, and the number of all shards


class PretrainingData(ResumableData):
    """Crops of a labelled corpus, in batches of equal audio.

    Args:
        corpus: a corpus folder or URL, or several with their shares of the audio that is trained on, as in
            `[{path: data/librilight, weight: 0.7}, {path: "data/voxpopuli-{00..22}", weight: 0.3}]`; without weights
            every utterance of all of them comes once per epoch.
        labels: name of its labels (made by `wavlm codebook apply --name`), or several names, of which each objective reads
            one (the first by default); null for objectives without labels.
        train_split: split to train on; every source must have it.
        valid_split: split to validate on, of the sources that have it; no validation if null.
        batch_seconds: audio per batch and process; 87.5 s in HuBERT and WavLM Base.
        max_seconds: longest crop; 15.625 s in HuBERT and WavLM.
        min_seconds: shorter utterances are left out, and a fit prints their number; 2 s in HuBERT and WavLM.
        noise_corpus: a corpus of noise for utterance mixing.
        noise_split: split of the noise corpus.
        noise_clips: noise clips per crop of a batch, rounded up. A crop that is mixed with noise takes one of them at
            random. With the published settings that is 2 crops of 100, so most of one clip per crop would be decoded in
            vain. Raise it towards 1 if mixing uses noise more often.
        shuffle_shards: shards whose utterances are shuffled together; fewer need less cache for a remote corpus. A corpus
            with at most this many shards is shuffled as a whole.
        num_workers: processes that read audio; 0 reads in the main process.
        seed: of order, crops and noise; null takes `seed_everything` of the command line, else 0.
        batch_growth: batches begin with less audio and grow to `batch_seconds`; null for batches of one size.
        crop_growth: crops begin shorter and grow to `max_seconds`, with as many more of them in a batch; null for one length.
            The validation split keeps `batch_seconds` and `max_seconds`.
    """

    def __init__(
        self,
        corpus: str | list[str | Source],
        labels: str | list[str] | None = None,
        train_split: str = "train",
        valid_split: str | None = "valid",
        batch_seconds: float = 87.5,
        max_seconds: float = 15.625,
        min_seconds: float = 2.0,
        noise_corpus: str | None = None,
        noise_split: str = "train",
        noise_clips: float = 0.125,
        shuffle_shards: int = WINDOW,
        num_workers: int = 0,
        seed: int | None = None,
        batch_growth: Growth | None = None,
        crop_growth: Growth | None = None,
    ) -> None:
        super().__init__()
        self.sources, self.noise_path, self.noise_split = sources_of(corpus), noise_corpus, noise_split
        self.labels = [labels] if isinstance(labels, str) else list(labels or [])
        self.train_split, self.valid_split = train_split, valid_split
        self.batch_seconds, self.max_seconds, self.min_seconds = batch_seconds, max_seconds, min_seconds
        if max_seconds * SAMPLE_RATE < SHORTEST:
            raise UserError(
                f"data.max_seconds is {max_seconds:g}: the longest crop must have a frame, {SHORTEST / SAMPLE_RATE:g} s; "
                "published: 15.625"
            )
        if shuffle_shards < 1:
            raise UserError(f"data.shuffle_shards must be 1 or more, not {shuffle_shards}")
        if not 0 < noise_clips <= 1:
            raise UserError(f"data.noise_clips must be above 0 and at most 1, not {noise_clips}")
        self.noise_clips = noise_clips
        self.shuffle_shards, self.num_workers, self.seed = shuffle_shards, num_workers, seed or 0
        self.sizes = GrowingSizes(batch_seconds, max_seconds, batch_growth, crop_growth)
        if crop_growth and self.weights:
            raise UserError(
                "data.crop_growth: the weights of data.corpus are shares of cropped audio, which change with the crops; "
                "remove crop_growth or the weights"
            )
        self.grid = WavLMConfig()
        self._parts: dict[str, Part] = {}

    def setup(self, stage: str) -> None:
        """Open corpora and labels.

        Raises:
            UserError: one is missing, they do not belong together, or all utterances are too short.
        """
        self.corpora = [[Corpus.open(folder) for folder in folders_of(source.path)] for source in self.sources]
        noise = Corpus.open(self.noise_path) if self.noise_path else None
        self.noise = noise.split(self.noise_split) if noise else None
        self.noise_layout = [noise.sha256, self.noise_split, self.noise_clips] if noise else None
        for name in filter(None, (self.train_split, self.valid_split)):
            self._parts[name] = self._part(name, everywhere=name == self.train_split)
        if stage == "fit" and (self.trainer is None or self.trainer.global_rank == 0):
            self._note_short(self._parts[self.train_split].split)

    def _note_short(self, split: Split) -> None:
        """Print how much of the training split `min_seconds` leaves out."""
        short = split.samples < self.min_seconds * SAMPLE_RATE
        if short.any():
            share = 100 * split.samples[short].sum() / split.samples.sum()
            print(
                f"note: data.min_seconds {self.min_seconds:g} leaves out {short.sum()} of {len(short)} utterances of split "
                f"{split.name!r}, {share:.1f} % of its audio",
                file=sys.stderr,
            )

    def serve_pretraining(self) -> PretrainingServed:
        """What the model must know of the opened data."""
        codebooks = {name: labels.codebook() for name, labels in self.label_sets.items()}
        return PretrainingServed(codebooks, self.has_noise, self.grid)

    def _part(self, name: str, everywhere: bool) -> Part:
        """Open a split of the corpora that have it; with `everywhere`, all must."""
        used = [[corpus for corpus in group if everywhere or name in corpus.splits] for group in self.corpora]
        flat = list(itertools.chain(*used)) or self.corpora[0][:1]  # whose `split` raises the error
        split = join_splits(name, [corpus.split(name) for corpus in flat])
        numbers = np.flatnonzero(split.samples >= max(self.min_seconds * SAMPLE_RATE, SHORTEST))
        if not len(numbers):
            where = ", ".join(source.path for source in self.sources)
            raise UserError(f"{where}: split {name!r} has no utterance of {self.min_seconds} s; lower min_seconds")
        labels = {each: LabelSet.join([LabelSet.open(corpus, each, name) for corpus in flat]) for each in self.labels}
        numbers = _with_labels(numbers, labels, name)
        shards = [sum(len(corpus.split(name).shards) for corpus in group) for group in used]
        return Part(split, labels, numbers, [0, *itertools.accumulate(shards)])

    @property
    def label_sets(self) -> dict[str, LabelSet]:
        """Label sets of the training split, by name."""
        return self._parts[self.train_split].labels

    @property
    def has_noise(self) -> bool:
        """Whether batches contain noise clips."""
        return self.noise_path is not None

    @property
    def weights(self) -> list[float]:
        """Weights of the sources; empty for one source, or without weights."""
        weights = [source.weight for source in self.sources if source.weight is not None]
        return weights if len(weights) > 1 else []

    def _passes(self, part: Part, samples: np.ndarray) -> Passes:
        starts = starts_among(part.split.starts, part.numbers)
        if not self.weights:
            return Passes(starts, self.shuffle_shards, self.seed)
        cropped = np.minimum(samples, round(self.max_seconds * SAMPLE_RATE))
        return Mixture(starts, cropped, part.bounds, self.weights, self.shuffle_shards, self.seed)

    def _loader(self, name: str, train: bool) -> DataLoader:
        part, trainer = self._parts[name], self.trainer
        samples = part.split.samples[part.numbers]
        settings: dict[str, Any] = {
            "rank": trainer.global_rank if trainer else 0,
            "world_size": trainer.world_size if trainer else 1,
            "train": train,
            "multiple": trainer.accumulate_grad_batches if trainer else 1,
            "passes": self._passes(part, samples) if train else None,
            "seed": self.seed,
        }
        if train and self.sizes.grown:
            plan: BatchPlan = GrowingPlan(samples, self.sizes, **settings)
            if trainer:
                plan.taken = batches_taken(plan, trainer.limit_train_batches)
        else:
            plan = BatchPlan(samples, batch_seconds=self.batch_seconds, max_seconds=self.max_seconds, **settings)
        noise = self.noise if train else None
        crops = Crops(
            part.split,
            part.labels,
            part.numbers,
            self.max_seconds,
            self.grid,
            noise,
            self.noise_clips,
            self.seed,
            random=train,
        )
        if train:
            self.resume(plan)
        workers = capped(self.num_workers, "data.num_workers")
        return DataLoader(
            crops,
            batch_size=None,
            sampler=plan,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=4 if workers else None,
        )

    def train_dataloader(self) -> DataLoader:
        return self._loader(self.train_split, train=True)

    def val_dataloader(self) -> DataLoader | list:
        return self._loader(self.valid_split, train=False) if self.valid_split else []

    def layout(self) -> dict[str, Any]:
        """Corpus, codebook and the arguments that decide on batches; a resumed run must have the same."""
        hashes = [[corpus.sha256 for corpus in group] for group in self.corpora]
        alone = len(hashes) == 1 and len(hashes[0]) == 1
        layout: dict[str, Any] = {
            "corpus": hashes[0][0] if alone else hashlib.sha256(json.dumps(hashes).encode()).hexdigest(),
            "codebooks": [[name, labels.codebook_sha256] for name, labels in self.label_sets.items()],
            "batch": [self.batch_seconds, self.max_seconds, self.min_seconds, self.seed],
        }
        # Entries appear only if they change batches: small corpora do not depend on `shuffle_shards`, and checkpoints
        # written before an option existed can still be resumed.
        if self.train_split != "train":
            layout["train_split"] = self.train_split
        if soft := {name: labels.soft.about() for name, labels in self.label_sets.items() if labels.soft}:
            layout["soft_labels"] = soft
        if any(labels.has_labels is not None for labels in self.label_sets.values()):
            # Of another corpus, the same codebook may have labelled more utterances since.
            numbers = np.ascontiguousarray(self._parts[self.train_split].numbers, dtype="<i8")
            layout["labelled_utterances"] = hashlib.sha256(numbers.tobytes()).hexdigest()
        if self.sizes.grown:
            # What tells the update of a batch.
            trainer = self.trainer
            layout["growth"] = [
                *self.sizes.layout(),
                [trainer.accumulate_grad_batches, trainer.limit_train_batches] if trainer else [1, 1.0],
            ]
        if self.noise_layout:
            layout["noise"] = self.noise_layout
        if self.weights:
            layout["weights"] = self.weights
        if self.weights or len(self._parts[self.train_split].split.shards) > self.shuffle_shards:
            layout["shuffle_shards"] = self.shuffle_shards
        return layout
