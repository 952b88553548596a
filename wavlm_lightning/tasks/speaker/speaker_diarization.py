"""SD: speaker diarization, who speaks when (SUPERB; Libri2Mix)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.batch import Targets, TaskBatch
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.metrics.diarization import DiarizationErrors, frames_to_segments
from wavlm_lightning.metrics.diarization_rate import MICROSECONDS, SETTINGS, DiarizationErrorRate, DiarizationSetting
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Direction, Task
from wavlm_lightning.tasks.components.reference_turns import ReferenceTurns, checked_turns, cropped, nearest_frame
from wavlm_lightning.tasks.transformers_form import TransformersForm
from wavlm_lightning.upstreams import Upstream

# The setting in use until one is chosen.
USUAL = DiarizationSetting(threshold=0.5, median_filter=11)


def match_frames(targets: Tensor, frames: int) -> Tensor:
    """Cut frame labels `(batch, labels, speakers)`, or pad them with silence, to `frames`; float32."""
    labels = targets[:, :frames].float()
    return nn.functional.pad(labels, (0, 0, 0, frames - labels.shape[1]))


def best_permutation(logits: Tensor, labels: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """For each recording, the order of its speakers that fits the logits best; logits and labels `(batch, frames, speakers)`.

    Returns the binary cross-entropy, mean over speakers and sum over valid frames, float32 `(batch,)`, and the column of
    the labels that each column of the logits stands for, int64 `(batch, speakers)`.
    """
    speakers = logits.shape[2]
    valid = (~padding_mask(lengths, logits.shape[1]))[:, :, None]
    logits, labels = logits.float() * valid, labels * valid
    # The cross-entropy of logit x and label y is softplus(x) - x y, so one matrix product covers all pairs of columns.
    silent = (nn.functional.softplus(logits) * valid).sum(1)
    with torch.autocast(logits.device.type, enabled=False):  # the cost is a small difference of two large sums
        costs = silent[:, :, None] - logits.transpose(1, 2) @ labels.float()
    orders = torch.tensor(list(permutations(range(speakers))), device=logits.device)
    totals = costs[:, torch.arange(speakers, device=logits.device), orders].mean(2)
    best = totals.min(1)
    return best.values, orders[best.indices]


# Frames passed to the LSTM in one call, its state carried over: over an hour at once it would take gigabytes.
STRETCH = 4096


class SpeakerDiarization(Task):
    """LSTM(dim, 512), Linear(512, 2) at every frame, permutation-invariant training; diarization error rate.

    The LSTM runs forwards only, so padding behind a recording changes nothing (s3prl `downstream/diarization`). Labels are
    at the upstream's frame rate. Reads `turns` of each recording, [[speaker, start, end], ...] in seconds. SUPERB's batches
    hold 8 stretches of 2000 frames (`data.max_frames`).

    Scores become turns by one of ten settings: a threshold and a median filter. Where s3prl's practice changes the score,
    `superb` follows it: it reports the setting with the lowest error on the test recordings, and chooses the checkpoint by
    the share of right frames on valid. `fixed` chooses both by the error on valid, and stores the setting in the checkpoint.
    Under both, training stretches are drawn at random rather than on a grid, and evaluation reads whole recordings; s3prl
    cuts them into stretches, labels a speaker silent who talks through all of one, and joins the padded pieces. It also
    repeats the last frame where there are fewer frames than labels; here labels beyond the last frame (at most 25 ms) are
    not trained on.

    Args:
        upstream: where features come from.
        learning_rate: of Adam.
        hidden: cells of the LSTM; 512 in SUPERB.
        speakers: most speakers of a recording; 2 in SUPERB.
        settings: see `Task`: normalize, seed, protocol.
    """

    name = "SD"
    metric = "der"
    better = "lower"
    others: ClassVar[dict[str, Direction]] = {"accuracy": "higher"}
    answer, cache_level, every_talker = "frames", "frame", True
    _spoken = False
    _of_batch: Sequence[
        Tensor
    ] = ()  # microseconds of each recording of the last batch, see `DiarizationErrorRate.errors`

    def __init__(
        self, upstream: Upstream, learning_rate: float = 1e-4, hidden: int = 512, speakers: int = 2, **settings: Any
    ) -> None:
        super().__init__(upstream, learning_rate, **settings)
        self.add_means("accuracy")
        self.hidden, self.speakers = hidden, speakers
        self.stride = SAMPLE_RATE / upstream.frame_rate
        self._references = ReferenceTurns(self.name)

    @property
    def monitor(self) -> tuple[str, str]:
        """Frame accuracy under `superb`, diarization error rate under `fixed`."""
        return ("valid/accuracy", "max") if self.protocol == "superb" else super().monitor

    def read_labels(self, corpus: Corpus) -> list[str]:
        """Names of the outputs; which speaker an output stands for differs between recordings."""
        return [f"speaker{number + 1}" for number in range(self.speakers)]

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """Speaker activity of each frame up to the end of the last turn, int64 `(frames, speakers)` of 0 and 1."""
        turns = checked_turns(meta, self.name)
        names = sorted({speaker for speaker, _, _ in turns})
        if len(names) > self.speakers:
            raise UserError(f"SD: a recording has {len(names)} speakers; set model.speakers: {len(names)}")
        places = [
            (names.index(speaker), nearest_frame(start, self.stride), nearest_frame(end, self.stride))
            for speaker, start, end in turns
        ]
        target = torch.zeros(max((end for *_, end in places), default=0), self.speakers, dtype=torch.int64)
        for column, start, end in places:
            target[start:end, column] = 1
        return target

    def crop_target(self, target: Tensor, start: int, samples: int) -> Tensor:
        return cropped(target, start, samples, self.stride)

    def transformers_form(self) -> TransformersForm | str:
        return "it has an LSTM before its linear layer, which WavLMForAudioFrameClassification lacks"

    def build_head(self, dim: int) -> None:
        self.recurrent = nn.LSTM(dim, self.hidden, batch_first=True)
        self.classifier = nn.Linear(self.hidden, self.speakers)

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Logits `(batch, frames, speakers)`."""
        state, logits = None, []
        for stretch in features.split(STRETCH, 1):
            hidden, state = self.recurrent(stretch, state)
            logits.append(self.classifier(hidden))
        return torch.cat(logits, 1)

    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """Cross-entropy of the best order of speakers, mean over frames and speakers of the batch."""
        labels = match_frames(targets.values, outputs.shape[1])
        return best_permutation(outputs, labels, lengths)[0].sum() / lengths.sum()

    def targets_seen(self, batch: TaskBatch, lengths: Tensor, stage: Literal["train", "valid", "test"]) -> None:
        """Remember whether anybody speaks in the training split."""
        if stage == "train" and not self._spoken:
            self._spoken = bool(batch.targets.values.any())

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        spoken = torch.tensor(float(self._spoken), device=self.device)
        if self.trainer.current_epoch == 0 and not self.trainer.strategy.reduce(spoken, reduce_op="sum"):
            raise UserError("SD: nobody speaks in the training split, so nothing can be learned; correct its turns")

    def accuracy(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """Share of right decisions (one for each frame and speaker), mean over recordings: s3prl's `calc_diarization_error`."""
        labels = match_frames(targets.values, outputs.shape[1])
        orders = best_permutation(outputs, labels, lengths)[1]
        labels = labels.gather(2, orders[:, None].expand(-1, labels.shape[1], -1))
        # A logit above 0 is a probability above one half.
        right = ((outputs > 0) == (labels > 0)) & ~padding_mask(lengths, outputs.shape[1])[:, :, None]
        return (right.sum((1, 2)) / (lengths * self.speakers)).mean()

    def evaluate(self, batch: TaskBatch, metric: Any, stage: Literal["valid", "test"]) -> None:
        outputs, lengths = self.answers(batch.inputs)
        # The loss is a mean over frames, the accuracy one over recordings.
        self.log_mean(stage, "loss", self.loss(outputs, lengths, batch.targets), int(lengths.sum()))
        self.log_mean(stage, "accuracy", self.accuracy(outputs, lengths, batch.targets), len(batch.keys))
        self.update_metric(metric, outputs, lengths, batch)
        if stage == "test":
            self.scored.what = "recordings"
            self.scored.add(self, outputs, lengths, batch)

    def build_metric(self) -> DiarizationErrorRate:
        return DiarizationErrorRate(self.upstream.frame_rate)

    def update_metric(self, metric: Any, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> None:
        # The reference is the turns themselves, not the frame labels that the head is trained on.
        assert self.data is not None
        turns = self._references.of(self.data.opened["valid" if metric is self.valid_metric else "test"])
        scores = outputs.float().sigmoid().cpu()
        self._of_batch = []
        for key, row, length in zip(batch.keys, scores, lengths.tolist(), strict=True):
            before = metric.errors.clone()
            metric.update(row[:length], turns[key])
            self._of_batch.append(metric.errors - before)

    def utterance_scores(
        self, outputs: Tensor, lengths: Tensor, batch: TaskBatch
    ) -> Sequence[tuple[float, ...]] | None:
        """Seconds of error of each recording under each setting, and of speech; `score` chooses the setting.

        They are those that `update_metric` has just added, because scoring takes longer than everything else.
        """
        seconds = [(added.double() / MICROSECONDS).tolist() for added in self._of_batch]
        return [(*(sum(row[:3]) for row in settings), settings[0][3]) for settings in seconds]

    @property
    def setting(self) -> DiarizationSetting:
        """How scores become turns: as chosen on valid, or else threshold 0.5 and a median of 11 frames."""
        return DiarizationSetting(**self.fitted) if self.fitted else USUAL

    def fit_on_validation(self, metric: Any) -> dict[str, Any]:
        """The setting with the lowest error; none under `superb`, which chooses it on test."""
        return SETTINGS[self._best(metric)[0]]._asdict() if self.protocol == "fixed" else {}

    def _best(self, metric: Any) -> tuple[int, list[DiarizationErrors]]:
        """Number of the setting with the lowest error rate, and the errors of each."""
        with metric.sync_context():
            errors = metric.details()
        return min(range(len(SETTINGS)), key=lambda number: errors[number].rate), errors

    def upgrade(self, checkpoint: dict[str, Any]) -> None:
        # Older versions kept the number of the setting among the weights, also where none was chosen.
        number = checkpoint["state_dict"].pop("setting", None)
        if number is not None and self.protocol == "fixed":
            checkpoint["task"]["fitted"] = SETTINGS[int(number)]._asdict()

    def score(self, metric: Any, stage: Literal["valid", "test"]) -> dict[str, Tensor]:
        """The error rate of the best setting on this split; in the test of `fixed`, of the setting chosen on valid."""
        best, errors = self._best(metric)
        if self.data is not None and not errors[best].total and not self.trainer.sanity_checking:
            raise UserError(
                f"SD: no recording of split {self.data.opened[stage].name} has a turn, so there is no error rate; use a corpus "
                "with speaker turns"
            )
        if self.protocol == "fixed" and stage == "test":
            best = SETTINGS.index(self.setting)
        chosen = errors[best]
        if stage == "test":
            self.scored.column = best
            speech = max(chosen.total, 1e-9)
            self.details = {
                "setting": SETTINGS[best]._asdict(),
                "setting_chosen_on": "test" if self.protocol == "superb" else "valid" if self.fitted else "nothing",
                "missed": chosen.missed / speech,
                "false_alarm": chosen.false_alarm / speech,
                "confusion": chosen.confusion / speech,
                "all_settings": [
                    {**setting._asdict(), "der": error.rate} for setting, error in zip(SETTINGS, errors, strict=True)
                ],
            }
        return {self.metric: torch.tensor(chosen.rate)}

    def readable(self, outputs: Tensor, lengths: Tensor) -> list[dict[str, Any]]:
        """The turns, ordered by start, by `setting`."""
        threshold, median_filter = self.setting
        rows = []
        for row, length in zip(outputs.detach().float().sigmoid().cpu(), lengths.tolist(), strict=True):
            segments = frames_to_segments(row[:length].numpy(), self.upstream.frame_rate, threshold, median_filter)
            turns = [[self.labels[int(speaker)], round(start, 3), round(end, 3)] for speaker, start, end in segments]
            rows.append({"turns": sorted(turns, key=lambda turn: turn[1])})
        return rows
