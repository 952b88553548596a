"""SV-ECAPA: speaker verification by ECAPA-TDNN on the weighted sum, scored by cosine, AS-norm and calibration by quality."""

from __future__ import annotations

import contextlib
import math
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchmetrics import Metric

from wavlm_lightning.data.batch import Targets, TaskBatch
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.split import Split
from wavlm_lightning.data.subset import Subset
from wavlm_lightning.metrics.calibration import Calibration
from wavlm_lightning.metrics.verification import equal_error_rate, minimum_detection_cost
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.progress import progress_bar
from wavlm_lightning.system.reading import reason_of
from wavlm_lightning.tasks.base import PERCENT, Direction, Protocol, Unit
from wavlm_lightning.tasks.components.ecapa import EcapaTdnn
from wavlm_lightning.tasks.components.margins import AngularMarginSoftmax
from wavlm_lightning.tasks.components.trial_scoring import CALIBRATED, COSINE, NORMALISED, Background, background
from wavlm_lightning.tasks.speaker.speaker_verification import SpeakerVerification, Stage, Trials
from wavlm_lightning.tasks.transformers_form import TransformersForm
from wavlm_lightning.training.fsdp import FSDP2
from wavlm_lightning.upstreams import Upstream

COHORT = 1  # the random stream that chooses utterances of the cohort
TRIALS = 2  # that of the trials of the calibration


class EcapaVerification(SpeakerVerification):
    """ECAPA-TDNN, angular margin softmax over the training speakers; error rates of cosines, with AS-norm and with QMF.

    The three stages of wespeaker's WavLM recipe are `configs/finetune/sv_ecapa_{frozen,joint,large_margin}.yaml`. The best
    checkpoint is that with the lowest equal error rate of the valid trials.

    At the end of each validation the mean embedding, the cohort (the mean embedding of each training speaker) and the
    calibration are computed from training utterances, heard whole and without transforms. They are in the checkpoint, so that
    a test on any corpus uses them. A training utterance that is scored for the calibration does not meet its own speaker
    in the cohort, as no test utterance does; in wespeaker it does. Qualities are durations, lengths of the embeddings
    before the mean is taken off, and cohort means.

    A test scores the trials of the split and, as `eer_NAME` and so on, each further list that the corpus has for it. It needs
    no training speakers there.

    Batch norm: of several processes each normalises by its own batch, so that an update is the one that one process makes of
    the same batches with `trainer.accumulate_grad_batches`. The running statistics are averaged over the processes after
    every batch; one process, which sees the batches in turn, has slightly others. `trainer.sync_batchnorm: true` (GPUs)
    normalises by all batches together, as a single process does with one batch of that size.

    Args:
        upstream: where features come from.
        learning_rate: of the optimiser.
        channels: of ECAPA-TDNN; 512 in both published variants.
        embedding: width of the embedding; 192 in wespeaker, 256 in UniSpeech.
        global_context: the attention of the pooling also sees mean and deviation of the utterance (wespeaker).
        unit_variance: scale features to deviation 1 (UniSpeech), beside taking off their mean.
        scale: of the cosines of the loss.
        margin: of the loss, in radians; `callbacks.MoveValue` may raise it over the updates.
        centres: of each class (sub-centres).
        hardest: wrong classes whose angle the loss makes smaller (inter-top-k); 0 for none.
        penalty: by how much, in radians at margin 0.2.
        optimizer: `adamw`, or `sgd` with Nesterov momentum 0.9, as in wespeaker.
        weight_decay: of the optimiser.
        subtract_mean: take the mean training embedding off before the cosine.
        cohort_top: the nearest of the cohort that AS-norm takes; 0 leaves AS-norm out.
        cohort_utterances: the most utterances of each training speaker that are heard for the cohort, drawn at random.
        calibration_trials: trials among them that the calibration is fitted on; 0 leaves QMF out.
        target_probability: P of the detection cost, the prior of a trial of one speaker; VoxSRC takes 0.05.
        protocol: `fixed`; there is no other.
        settings: see `Task`: normalize, seed, schedule, start_from.
    """

    name = "SV-ECAPA"
    others: ClassVar[dict[str, Direction]] = {
        "min_dcf": "lower",
        "eer_as_norm": "lower",
        "min_dcf_as_norm": "lower",
        "eer_qmf": "lower",
        "min_dcf_qmf": "lower",
    }
    lost_frames = 0

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float = 1e-3,
        channels: int = 512,
        embedding: int = 192,
        global_context: bool = True,
        unit_variance: bool = False,
        scale: float = 32.0,
        margin: float = 0.2,
        centres: int = 3,
        hardest: int = 5,
        penalty: float = 0.06,
        optimizer: Literal["adamw", "sgd"] = "adamw",
        weight_decay: float = 1e-4,
        subtract_mean: bool = True,
        cohort_top: int = 300,
        cohort_utterances: int = 20,
        calibration_trials: int = 30_000,
        target_probability: float = 0.01,
        protocol: Protocol = "fixed",
        **settings: Any,
    ) -> None:
        if protocol != "fixed":
            raise UserError("SV-ECAPA: it is no task of SUPERB; leave model.protocol out")
        super().__init__(
            upstream,
            learning_rate,
            embedding=embedding,
            scale=scale,
            margin=margin,
            weight_decay=weight_decay,
            protocol=protocol,
            **settings,
        )
        if channels < 8 or channels % 8:
            raise UserError(f"SV-ECAPA: model.channels {channels} is no multiple of 8; ECAPA-TDNN splits them into 8")
        if centres < 1 or hardest < 0:
            raise UserError("SV-ECAPA: model.centres must be 1 or more, and model.hardest 0 or more")
        if cohort_top == 1 or cohort_top < 0 or cohort_utterances < 1 or calibration_trials < 0:
            raise UserError(
                "SV-ECAPA: model.cohort_top must be 0 or at least 2, model.cohort_utterances at least 1, and "
                "model.calibration_trials 0 or more"
            )
        if calibration_trials and not cohort_top:
            raise UserError(
                "SV-ECAPA: the calibration reads scores with AS-norm; set model.calibration_trials: 0 beside cohort_top: 0"
            )
        if calibration_trials and cohort_utterances < 2:
            raise UserError(
                "SV-ECAPA: the calibration needs two utterances of a speaker; set model.cohort_utterances to 2 or more, or "
                "model.calibration_trials: 0"
            )
        if not 0 < target_probability < 1:
            raise UserError(f"SV-ECAPA: model.target_probability {target_probability:g} must lie between 0 and 1")
        self.channels, self.global_context, self.unit_variance = channels, global_context, unit_variance
        self.centres, self.hardest, self.penalty, self.optimizer = centres, hardest, penalty, optimizer
        self.subtract_mean, self.cohort_top, self.cohort_utterances = subtract_mean, cohort_top, cohort_utterances
        self.calibration_trials, self.target_probability = calibration_trials, target_probability
        ends = [COSINE, *([NORMALISED] if cohort_top else []), *([CALIBRATED] if calibration_trials else [])]
        names = [f"{measure}{end}" for end in ends for measure in ("eer", "min_dcf")]
        self.others = {name: "lower" for name in names if name != self.metric}  # type: ignore[misc]
        self.headlines = tuple(names)  # type: ignore[misc]
        self._chosen: tuple[Split, Subset, np.ndarray] | None = None
        self._lists: dict[str, Trials] = {}

    # Labels: a test needs those of the head alone.

    def read_labels(self, corpus: Corpus) -> list[str]:
        """The training speakers; where nothing is trained those of the head, as a corpus of other trials has others or none."""
        trainer = self._trainer
        if trainer is not None and trainer.state.fn != "fit":
            if self.labels is not None:
                return self.labels
            with contextlib.suppress(UserError):
                return super().read_labels(corpus)
            return []  # until the checkpoint, which Lightning loads after this, brings its own
        return super().read_labels(corpus)

    def build(self, labels: Any) -> None:
        """As every task; in a test, a checkpoint brings other speakers than those of the corpus of the test."""
        trainer = self._trainer
        if trainer is not None and trainer.state.fn != "fit" and self.labels != labels:
            self.labels = None
        super().build(labels)

    def selection_split(self, valid: str, test: str) -> str:
        return valid

    @property
    def directions(self) -> dict[str, Any]:
        """With those of the further lists of trials that the test scores."""
        found = super().directions
        names = list(found)
        return {**found, **{f"{name}_{listed}": "lower" for listed in self._lists for name in names}}

    def unit(self, metric: str) -> Unit:
        return Unit(f"(P {self.target_probability:g})", 1.0, 4) if metric.startswith("min_dcf") else PERCENT

    # The head.

    def check_strategy(self, name: str) -> None:
        """As every module; fsdp2 is refused."""
        super().check_strategy(name)
        if isinstance(self.trainer.strategy, FSDP2):
            raise UserError(f"{name}: trainer.strategy fsdp2 is not tested with its batch norms and cohort; use ddp")

    def build_head(self, dim: int) -> None:
        self.network = EcapaTdnn(dim, self.channels, self.embedding, self.global_context, self.unit_variance)
        self.objective = AngularMarginSoftmax(
            self.embedding, max(1, len(self.labels)), self.scale, self.margin, self.centres, self.hardest, self.penalty
        )

    def transformers_form(self) -> TransformersForm | str:
        return "transformers has no ECAPA-TDNN head"

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Embeddings `(batch, embedding)`, not yet scaled to length 1."""
        return self.network(features, lengths)

    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """Softmax with an angular margin, mean over utterances."""
        return self.objective(outputs, targets.values)

    def build_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """AdamW, or SGD with Nesterov momentum."""
        if self.optimizer == "adamw":
            return super().build_optimizer(groups)
        return torch.optim.SGD(groups, lr=self.learning_rate, momentum=0.9, nesterov=True)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Average the running statistics of batch norms over the processes, which DDP does not.

        Before the end of the batch, where callbacks write checkpoints.
        """
        super().on_before_optimizer_step(optimizer)
        if self.trainer.world_size > 1:
            norms = [module for module in self.network.modules() if isinstance(module, _BatchNorm)]
            parts = [part for norm in norms for part in (norm.running_mean, norm.running_var) if part is not None]
            mean = self.trainer.strategy.reduce(torch.cat([part.flatten() for part in parts]), reduce_op="mean")
            assert isinstance(mean, Tensor)
            for part, value in zip(parts, mean.split([part.numel() for part in parts]), strict=True):
                part.copy_(value.view_as(part))

    # Scores.

    def update_metric(self, metric: Metric, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> None:
        places = self._trials("valid" if metric is self.valid_metric else "test").places
        metric.update(outputs, torch.tensor([places[key] for key in batch.keys], device=outputs.device))

    def on_test_start(self) -> None:
        super().on_test_start()
        assert self.data is not None
        split, corpus = self.data.opened["test"], self.data.corpus
        self._lists = {name: Trials.read(corpus, split, name) for name in corpus.trial_lists(split.name)}
        if not self.fitted_tensors:  # of a run that was never validated
            self._check_training_speakers()
            self.fitted = self._fit_background()

    def _check_training_speakers(self) -> None:
        assert self.data is not None
        try:
            there = super().read_labels(self.data.corpus)
        except UserError:
            there = []
        if not there or there != self.labels:
            raise UserError(
                "SV-ECAPA: this checkpoint was never validated, so it has no cohort; test it on the corpus that it was trained "
                "on, whose speakers give one"
            )

    def fit_on_validation(self, metric: Metric) -> dict[str, Any]:
        """Mean, cohort and calibration of training utterances, and the threshold of the valid trials for the cosine."""
        fitted = self._fit_background()
        scores, same, _ = self._scores(metric, "valid", self._trials("valid"))
        if scores is not None:
            fitted["threshold"] = float(equal_error_rate(scores[COSINE], same)[1])
        return fitted

    def score(self, metric: Metric, stage: Stage) -> dict[str, Tensor]:
        """Equal error rate and detection cost of the split's trials and of each further list; NaN if too few were evaluated.

        On valid, of the cosine alone.
        """
        values = self._measures(metric, stage, self._trials(stage), "")
        if stage == "valid":
            return {name: value for name, value in values.items() if name in (self.metric, "min_dcf")}
        for name, trials in self._lists.items():
            values |= self._measures(metric, stage, trials, f"_{name}")
        return values

    def _measures(self, metric: Metric, stage: Stage, trials: Trials, suffix: str) -> dict[str, Tensor]:
        scores, same, pairs = self._scores(metric, stage, trials)
        if scores is None:
            self.scored.missing = "there is no equal error rate"
            return dict.fromkeys((f"{name}{suffix}" for name in self.headlines), torch.tensor(math.nan))
        if stage == "test" and not suffix:
            self._keep_trials(torch.from_numpy(scores[COSINE]), torch.from_numpy(same), pairs)
            self.details = {
                "threshold": equal_error_rate(scores[COSINE], same)[1],
                "target_trials": int(same.sum()),
                "trials": len(same),
                "target_probability": self.target_probability,
                "cohort_speakers": len(self.fitted_tensors["cohort"]),
            }
            if "threshold" in self.fitted:
                accepted = scores[COSINE] >= self.fitted["threshold"]
                rates = {"false_alarms": float(accepted[~same].mean()), "misses": float((~accepted[same]).mean())}
                self.details["at_fitted_threshold"] = rates
        elif stage == "test":
            self.details |= {f"trials{suffix}": len(same), f"target_trials{suffix}": int(same.sum())}
        found = {}
        for end, values in scores.items():
            found[f"eer{end}{suffix}"] = torch.tensor(equal_error_rate(values, same)[0])
            cost = minimum_detection_cost(values, same, self.target_probability)[0]
            found[f"min_dcf{end}{suffix}"] = torch.tensor(cost)
        return found

    def _scores(
        self, metric: Metric, stage: Stage, trials: Trials
    ) -> tuple[dict[str, np.ndarray] | None, np.ndarray, Tensor]:
        """Scores of the trials that were heard, whether each is of one speaker, and its utterances in the split."""
        rows, numbers = metric.compute()
        numbers = numbers.reshape(-1).cpu()  # torchmetrics returns a single number as a scalar
        pairs, same, heard = trials.heard(numbers)
        rows = rows.double().cpu()
        if not 0 < int(same.sum()) < len(same):
            rank_zero_warn("SV: too few utterances were evaluated for an equal error rate (limit_*_batches)")
            return None, same.numpy(), heard
        if not bool(rows.isfinite().all()):  # a head that diverged, so that its learning rate is not selected
            return None, same.numpy(), heard
        assert self.data is not None
        if stage == "valid":
            known = Background(self._mean(rows.shape[1]), np.empty((0, rows.shape[1])), 0)
        else:
            known = self._background()
        seconds = trials.split.samples[numbers.numpy()] / 16_000
        try:
            return known.scores(rows.numpy(), seconds, pairs.numpy()), same.numpy(), heard
        except ValueError as error:
            raise UserError(
                f"SV-ECAPA: {reason_of(error)}; set model.cohort_top: 0 and calibration_trials: 0"
            ) from error

    # What is fitted on training utterances.

    def _mean(self, dim: int) -> np.ndarray:
        found = self.fitted_tensors.get("mean")
        return np.zeros(dim) if found is None else found.numpy()

    def _background(self) -> Background:
        """As the checkpoint has it, or as the last validation found it."""
        calibration = None
        if kept := self.fitted.get("calibration"):
            calibration = Calibration(np.array(kept["weights"]), kept["bias"])
        cohort = self.fitted_tensors["cohort"].numpy()
        return Background(self._mean(cohort.shape[1]), cohort, self.cohort_top, calibration)

    def _fit_background(self) -> dict[str, Any]:
        """Hear training utterances; mean and cohort go to `fitted_tensors`, and the calibration is returned."""
        self.fitted_tensors = {}
        split, voices = self._cohort_split()
        rows = self._embeddings(split)
        if not np.isfinite(rows).all():
            return {}
        found = background(rows, voices, self.cohort_top, self.subtract_mean)
        fitted: dict[str, Any] = {}
        if self.calibration_trials:
            seed = int(np.random.SeedSequence([self.seed, TRIALS]).generate_state(1)[0])
            try:
                found = found.calibrated(rows, split.samples / 16_000, voices, self.calibration_trials, seed)
            except ValueError as error:
                raise UserError(
                    f"SV-ECAPA: {reason_of(error)} ({len(found.cohort)} training speakers, {len(rows)} utterances); set "
                    "model.calibration_trials: 0, or train on more speakers"
                ) from error
            assert found.calibration is not None
            weights = [float(weight) for weight in found.calibration.weights]
            fitted["calibration"] = {"weights": weights, "bias": found.calibration.bias}
        self.fitted_tensors = {"mean": torch.from_numpy(found.mean), "cohort": torch.from_numpy(found.cohort)}
        return fitted

    def _cohort_split(self) -> tuple[Subset, np.ndarray]:
        """The utterances for the cohort, and the number of the speaker of each."""
        assert self.data is not None
        split = self.data.training()
        if self._chosen is None or self._chosen[0] is not split:
            names = [str(meta.get("speaker")) for meta in split.metas()]
            _, speakers = np.unique(names, return_inverse=True)
            order = np.random.default_rng([self.seed, COHORT]).permutation(len(names))
            seen: dict[int, int] = {}
            places = []
            for place in order.tolist():
                number = seen.setdefault(int(speakers[place]), 0)
                seen[int(speakers[place])] = number + 1
                if number < self.cohort_utterances:
                    places.append(place)
            chosen = np.sort(np.array(places))
            numbers = split.numbers[chosen] if isinstance(split, Subset) else chosen
            subset = Subset(split.name, split.shards, split.lengths, numbers)
            self._chosen = split, subset, speakers[chosen]
        return self._chosen[1], self._chosen[2]

    def _embeddings(self, split: Subset) -> np.ndarray:
        """Embeddings of a split, heard whole, float64 `(utterances, embedding)`; each process hears its share."""
        assert self.data is not None
        places = {key: number for number, key in enumerate(split.keys)}
        metric = self.build_metric().to(self.device)
        loader = self.data.whole(split)
        hidden = self.trainer.global_rank > 0
        with (
            torch.no_grad(),
            progress_bar(total=len(loader), desc="SV-ECAPA cohort", unit="batch", leave=False, disable=hidden) as bar,
            self.trainer.precision_plugin.test_step_context(),
        ):
            for batch in loader:
                there = batch.to(self.device)
                with self.named(there):
                    outputs, _ = self.answers(there.inputs)
                metric.update(outputs, torch.tensor([places[key] for key in there.keys], device=self.device))
                bar.update()
        rows, numbers = metric.compute()
        found = np.full((len(split), rows.shape[-1]), np.nan)
        found[numbers.reshape(-1).cpu().numpy()] = rows.double().cpu().numpy()
        return found

    def voices(self, outputs: Tensor) -> Tensor:
        """Embeddings without the mean of training, of length 1, float32 `(batch, embedding)`."""
        mean = torch.from_numpy(self._mean(outputs.shape[1])).to(outputs.device, torch.float32)
        return nn.functional.normalize(outputs.float() - mean, dim=1)
