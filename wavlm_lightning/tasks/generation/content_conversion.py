"""VC-content: any speaker in the voices of the training split, by an autoencoder whose content prior knows units (C-DSVAE)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from wavlm_lightning.data.batch import TaskBatch, Waveforms
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.conversion.content_vae import ContentVae
from wavlm_lightning.tasks.components.conversion.mel_scale import spread
from wavlm_lightning.tasks.components.conversion.units import FrameUnits
from wavlm_lightning.tasks.generation.any_to_one import MelConversion, frame_difference
from wavlm_lightning.upstreams import Upstream

UNIT_SECONDS = 600.0  # of the training split, from which units are learned


class ContentConversion(MelConversion):
    """Content of the source, voice of the target, both from log-mel frames; see `ContentVae`.

    The units are k-means of a layer of the frozen encoder, learned from the training split when a run begins: "WavLM units". The
    voice of a target is the mean over its recordings in the training split, so that `target_speaker` must be one of its
    speakers; `wavlm predict` converts to `target`. The loss is the mean absolute difference of scaled log-mel frames, and the
    two divergences.

    Args:
        upstream: where the units come from; frozen.
        learning_rate: of Adam.
        units: number of units; 50 in C-DSVAE's demo.
        layer: hidden state of the units, from 0 (the input of the first transformer layer) or, backwards, from -1.
        content_from: what the decoder reads when speech is converted: the `posterior` of the source's own frames, or the
            `prior`, which knows its units alone, and so nothing of its voice.
        hidden: channels and cells; ours, as are the next two.
        content_dim: dimensions of the content of a frame.
        voice_dim: dimensions of the voice.
        content_weight: of the content's divergence, nats a frame and bin, in the loss.
        voice_weight: of the voice's divergence, nats an utterance and bin.
        target: speaker of the training split to whom recordings without `target_speaker` are converted.
        settings: see `ConversionTask` and `Task`: content, quality, seed.
    """

    name: ClassVar[str] = "VC-content"
    weighted_sum: FrameUnits
    voices: Tensor
    learned: Tensor

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float = 1e-3,
        units: int = 50,
        layer: int = -1,
        content_from: Literal["posterior", "prior"] = "posterior",
        hidden: int = 256,
        content_dim: int = 64,
        voice_dim: int = 64,
        content_weight: float = 1.0,
        voice_weight: float = 0.1,
        target: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(upstream, learning_rate, **settings)
        if not upstream.frozen:
            raise UserError(
                f"{self.name}: units of an encoder that is trained would move; set model.upstream.frozen: true"
            )
        if settings.get("normalize"):
            raise UserError(f"{self.name}: units are of one layer as it is; remove model.normalize")
        self.weighted_sum = FrameUnits(layer, units, upstream)
        if min(content_weight, voice_weight) < 0:
            raise UserError("model.content_weight and model.voice_weight must be 0 or more")
        self.number_of_units, self.content_from = units, content_from
        self.hidden, self.content_dim, self.voice_dim = hidden, content_dim, voice_dim
        self.content_weight, self.voice_weight, self.target = content_weight, voice_weight, target
        self._wanted: list[str | None] | None = None

    def read_labels(self, corpus: Corpus) -> list[str]:
        """The speakers of the inventory, sorted."""
        found = corpus.inventories.get("speakers", [])
        names = [name for part in found.values() for name in part] if isinstance(found, dict) else found
        return sorted({str(name) for name in names})

    def check_labels(self, labels: list[str]) -> None:
        if not labels:
            raise UserError(f"{self.name}: the corpus has no inventory of speakers, whose voices are to be learned")

    def build_head(self, dim: int) -> None:
        super().build_head(dim)
        self.network = ContentVae(self.number_of_units, self.hidden, self.content_dim, self.voice_dim)
        self.register_buffer("voices", torch.zeros(len(self.labels), self.voice_dim))
        self.register_buffer("learned", torch.zeros(len(self.labels), dtype=torch.bool))  # which of them are

    # What is learned before the first update, and before each validation.

    def on_fit_start(self) -> None:
        super().on_fit_start()
        assert self.data is not None
        split, frames = self.data.opened["train"], list[np.ndarray]()
        if strangers := {str(name) for name in self.recorded}.difference(self.labels):
            raise UserError(
                f"{self.name}: speaker {min(strangers)!r} of split {split.name!r} is not in the corpus' speakers"
            )
        if self.weighted_sum.fitted:
            return  # means of another training have other numbers than those that the network of the checkpoint has learned
        for waveform in spread(split, UNIT_SECONDS, self.data.factor):
            heard = waveform[None].to(self.device)
            layers = self.upstream(heard, torch.tensor([heard.shape[1]], device=self.device))
            frames.append(layers.hidden[self.weighted_sum.layer, 0].float().cpu().numpy())
        self.weighted_sum.fit(np.concatenate(frames), self.seed)
        # k-means in several processes may round differently.
        self.weighted_sum.means.copy_(self.trainer.strategy.broadcast(self.weighted_sum.means))

    @torch.no_grad()
    def learn_voices(self) -> None:
        """The voice of each speaker of the training split: the mean over its first recordings."""
        assert self.data is not None
        self.learned.zero_()  # those of a run that this one starts from were heard with other weights
        for name in self.recorded:
            found = []
            for recording in self.recordings_of(name):
                mel = self.mel.of(recording[None].to(self.device))
                found.append(self.network.voice_of(mel, torch.tensor([mel.shape[1]], device=self.device)).mean[0])
            place = self.labels.index(name)
            self.voices[place], self.learned[place] = torch.stack(found).mean(0), True

    def on_validation_start(self) -> None:
        super().on_validation_start()
        if self.trainer.state.fn == "fit":
            self.learn_voices()

    def on_train_end(self) -> None:
        super().on_train_end()
        self.learn_voices()

    # Whose voice is wanted.

    @contextlib.contextmanager
    def _converting(self, names: Sequence[str | None]) -> Iterator[None]:
        self._wanted = list(names)
        try:
            yield
        finally:
            self._wanted = None

    def evaluate(self, batch: TaskBatch, metric: Metric, stage: Literal["valid", "test"]) -> None:
        with self._converting([meta.get("target_speaker") for meta, _ in self.targets_of(batch.keys)]):
            super().evaluate(batch, metric, stage)

    def _voices_wanted(self, rows: int) -> Tensor:
        """The voices of the targets of a batch, `(rows, voice)`."""
        found, known = [], [name for name, learned in zip(self.labels, self.learned.tolist(), strict=True) if learned]
        for name in self._wanted or [None] * rows:
            wanted = name or self.target
            if wanted not in known:
                raise UserError(
                    f"{self.name}: its voices are {', '.join(known) or 'not learned yet'}, and {wanted or 'no one'} is asked "
                    "for; train with recordings of the target, or set model.target (in the config.yaml of the run) to one of them"
                )
            found.append(self.voices[self.labels.index(wanted)])
        return torch.stack(found)

    # Frames. The features of the other methods are units here, int64 `(batch, frames)`.

    def frames_of(self, features: Tensor, lengths: Tensor, audio: Waveforms) -> Tensor:
        voices = self._voices_wanted(len(lengths))
        if self.content_from == "prior":
            content = self.network.prior_of(features, lengths).mean
        else:
            content = self.network.content_of(self.mel.of(audio.audio), lengths).mean
        return self.network.decoded(content, voices, lengths)

    def mel_loss(self, features: Tensor, lengths: Tensor, wanted: Tensor, batch: TaskBatch) -> Tensor:
        spoken = self.network(wanted, features, lengths)
        valid = ~padding_mask(lengths, wanted.shape[1])
        bins = wanted.shape[2]
        content = spoken.content[valid].mean() / bins
        return (
            frame_difference(spoken.frames, wanted, lengths)
            + self.content_weight * content
            + self.voice_weight * spoken.voice.mean() / bins
        )
