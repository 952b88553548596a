"""The LightningModule that pre-trains WavLM: masked prediction on mixed utterances, or any sum of objectives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from wavlm_lightning.augment.mixing import UtteranceMixing
from wavlm_lightning.augment.span_masking import SpanMasking
from wavlm_lightning.augment.voice_perturbation import VoicePerturbation
from wavlm_lightning.data.batch import PretrainingBatch
from wavlm_lightning.encoder.checkpoints.labels_seen import LABELLED, joined
from wavlm_lightning.encoder.layers import padding_mask
from wavlm_lightning.encoder.visible_frames import VisibleFrames
from wavlm_lightning.pretraining.contract import served_to
from wavlm_lightning.pretraining.copies import Decoders, MaskedCopies
from wavlm_lightning.pretraining.flops import StepFlops, encoder_flops
from wavlm_lightning.pretraining.head_file import PREDICTED, TEACHERS, take_head
from wavlm_lightning.pretraining.health import Health
from wavlm_lightning.pretraining.objectives import Objective, Prediction, Teacher, View, published
from wavlm_lightning.pretraining.updates import NOMINAL_FRAMES, WARMUP, NormalisedUpdates
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.training.averaging import Average
from wavlm_lightning.training.module import stream
from wavlm_lightning.training.muon import Muon
from wavlm_lightning.training.schedules import Schedule
from wavlm_lightning.upstreams.wavlm import ENCODER_KEY, load_encoder

PLAIN = MaskedCopies(visible_only=False)  # one mask a crop, and an encoder on all frames
TRAINING, VALIDATION, LAYER_DROP, DROPOUT = range(4)  # random streams, each with its own seed at every step


class WavLMPretraining(NormalisedUpdates):
    """Masked speech prediction with utterance mixing (WavLM, arXiv 2110.13900), or any other sum of objectives.

    Defaults are the published values of WavLM Base.

    Args:
        encoder: a preset (`tiny`, `base`, `base_plus`, `large`, `hubert_base`, `hubert_large`, `tiny_mel`, `tiny_wide`) for
            fresh weights, or a checkpoint to continue from.
        encoder_overrides: configuration fields of the encoder to change.
        objectives: the terms of the loss; masked prediction and feature penalty by default. They may ask for further passes
            of a batch (`View`) and keep a `Teacher`.
        keep_head: load the objectives' parameters as well, if `encoder` is a run or a folder of `wavlm export`; the labels
            must come from the same codebook.
        masking: how frames are masked.
        mixing: how utterances are mixed.
        learning_rate: peak of the schedule.
        warmup: share of the updates over which the rate rises; above 1, a number of updates.
        decay: `linear` or `cosine` to zero at `trainer.max_steps`.
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: of AdamW.
        decay_all: apply weight decay to all parameters, as fairseq does; false spares biases, norms and other vectors.
        seed: of initial weights, masking and mixing; null takes `seed_everything` of the command line, else 0.
        activation_checkpointing: run the transformer layers again in the backward pass: less memory, more time.
        compile: compile the transformer layers with torch.compile.
        schedule: another learning rate over updates, in place of `warmup` and `decay`.
        copies: several masked copies of each crop, and an encoder that runs on visible frames alone; none of it is published for
            WavLM. Validation scores one copy, in the same way.
        muon: train the matrices of the transformer with Muon; all else keeps AdamW.
        average: validate and keep a moving average of the weights; training goes on with the weights themselves.
        voices: perturb the voices that the encoder hears, before they are mixed; labels, and the audio that objectives read,
            stay those of the crops as they are. Not in validation; not published for WavLM.
    """

    monitor = ("valid/loss", "min")

    def __init__(
        self,
        encoder: str = "base",
        encoder_overrides: dict[str, Any] | None = None,
        objectives: list[Objective] | None = None,
        keep_head: bool = False,
        masking: SpanMasking = SpanMasking(),  # noqa: B008 - frozen
        mixing: UtteranceMixing = UtteranceMixing(),  # noqa: B008 - frozen
        learning_rate: float = 5e-4,
        warmup: float = WARMUP,
        decay: Literal["linear", "cosine"] = "linear",
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        decay_all: bool = True,
        seed: int | None = None,
        activation_checkpointing: bool = False,
        compile: bool = False,
        schedule: Schedule | None = None,
        copies: MaskedCopies | None = None,
        muon: Muon | None = None,
        average: Average | None = None,
        voices: VoicePerturbation | None = None,
    ) -> None:
        super().__init__(learning_rate, warmup, decay, betas, eps, weight_decay, decay_all, schedule, muon, average)
        seed = seed or 0
        torch.manual_seed(seed)
        self.source, self.keep_head = encoder, keep_head
        self.encoder = load_encoder(encoder, encoder_overrides).train()
        self.encoder.encoder.run_layers(recomputed=activation_checkpointing, compiled=compile)
        self.objectives = nn.ModuleList(objectives or published())
        self.masking, self.mixing, self.seed = masking, mixing, seed
        self.copies, self.voices = copies or PLAIN, voices
        self.decoders: Decoders | None = None
        self.codebooks: dict[str, dict[str, Any]] | None = None
        self.views: dict[View, list[View]] = {}  # further passes -> the views of the objectives that they serve

    # Construction. The objectives are built in `configure_model`, when the data have told the sizes of the codebooks.

    def configure_callbacks(self) -> list[pl.Callback]:
        watched = any(isinstance(callback, Health) for callback in self.trainer.callbacks)
        return [*super().configure_callbacks(), *([] if watched else [Health()])]

    def configure_model(self) -> None:
        if self._trainer is None:  # `load_from_checkpoint`: `on_load_checkpoint` builds them
            return
        self.check_strategy("pre-training")
        self.check_precision("pre-training")
        data = served_to(self.trainer)
        if self.mixing.noise_probability > 0 and not data.has_noise:
            raise UserError(
                "mixing.noise_probability is above 0 but data.noise_corpus is not set; "
                "set data.noise_corpus or mixing.noise_probability: 0"
            )
        if data.has_noise and self.mixing.noise_probability == 0:
            raise UserError(
                "data.noise_corpus is set but mixing.noise_probability is 0, so that no noise would be heard; set "
                "mixing.noise_probability above 0, or remove data.noise_corpus"
            )
        ours, theirs = self.encoder.config, data.grid
        if (ours.hop, ours.receptive_field) != (theirs.hop, theirs.receptive_field):
            raise UserError(
                f"model.encoder makes a frame every {ours.hop} samples from {ours.receptive_field}, but the data cut labels "
                f"every {theirs.hop} from {theirs.receptive_field}; keep the published kernels and strides"
            )
        self.build(dict(data.codebooks))
        self.shard_parameters()

    def sharded_blocks(self) -> Sequence[nn.Module]:
        teachers = [each.encoder for each in self.objectives.modules() if isinstance(each, Teacher)]
        return [layer for encoder in (self.encoder, *teachers) for layer in encoder.encoder.layers]

    def transformer_layers(self) -> Sequence[nn.Module]:
        return list(self.encoder.encoder.layers)

    def build(self, codebooks: dict[str, dict[str, Any]]) -> None:
        """Create the objectives' parameters for codebooks with `size` and `sha256`; a second call does nothing."""
        if self.codebooks is not None:
            return
        torch.manual_seed(self.seed + 1)
        self.codebooks = codebooks
        for objective in self.objectives:
            objective.build(self.encoder.config, {name: book["size"] for name, book in codebooks.items()})
            objective.check_labels(codebooks)
            objective.attach(self.encoder)
        shares = any(isinstance(each, Teacher) and each.shared for each in self.objectives.modules())
        if self.average is not None and shares:
            raise UserError(
                "model.average and an objective whose teacher shares parts of the encoder (Data2Vec, DinoSR): the teacher would "
                "make the targets of a validation from the mean and from the trained weights at once; remove one of them"
            )
        self._ask_for_views()
        layers = {layer for objective in self.objectives for layer in objective.layers(self.encoder.config.layers)}
        layers |= {layer for view in self.views if view.gradients for layer in view.layers}
        if layers and max(layers) < self.encoder.config.layers:
            raise UserError(
                f"objectives: none reads the last layer, so layers {max(layers) + 1} to {self.encoder.config.layers} would "
                "never be trained; add one that does, or remove these layers with model.encoder_overrides"
            )
        if self.copies.visible_only:
            self.decoders = self.copies.decoders(self.encoder.config, self._layers_read())
        if self.encoder.config.feature_grad_mult == 0:
            self.encoder.feature_extractor.requires_grad_(False)  # otherwise DDP waits for its gradients
        if self.keep_head:
            take_head(self.objectives, self.decoders, Path(self.source), codebooks, self._predicted())

    def _predicted(self) -> list[str | None]:
        """The hash of the codebook that each objective predicts; None without one."""
        books = self.codebooks or {}
        names = [objective.label_set_of(list(books)) for objective in self.objectives]
        return [None if name is None else books.get(name, {}).get("sha256") for name in names]

    def _layers_read(self) -> list[int]:
        """The hidden states of the main pass that the objectives read."""
        count = self.encoder.config.layers
        return sorted({layer for objective in self.objectives for layer in objective.layers(count)}) or [count]

    def _ask_for_views(self) -> None:
        # By what tells passes apart: all that a view says but its layers.
        for objective in self.objectives:
            asked_for = objective.views()
            reads = objective.layers(self.encoder.config.layers) or asked_for
            if objective.per_crop and reads and self.copies.copies > 1:
                raise UserError(
                    f"objectives: {type(objective).__name__} is per_crop, but asks for hidden states, which each of "
                    f"{self.copies.copies} model.copies has; set per_crop = False in the class"
                )
            for view in asked_for:
                if not view.layers or not 0 <= min(view.layers) <= max(view.layers) <= self.encoder.config.layers:
                    raise UserError(
                        f"objectives: {type(objective).__name__} asks for a view of layers {list(view.layers)}, but the "
                        f"encoder has 0 to {self.encoder.config.layers}"
                    )
                if view.mask is not None and self.copies.visible_only:
                    raise UserError(
                        f"objectives: {type(objective).__name__} asks for a view with masked frames, and with "
                        "copies.visible_only the encoder never sees one; set model.copies.visible_only: false"
                    )
                asked = self.views.setdefault(replace(view, layers=()), [])
                if view not in asked:
                    asked.append(view)

    def step_flops(self, crops: float, samples: int) -> StepFlops:
        """Operations of a training step of the encoder, with its masked copies and their decoders, on `crops` of `samples`."""
        config = self.encoder.config
        frames = config.frames(samples)
        share = self.copies.masked_share(self.masking, crops, frames)
        step = self.copies.flops(encoder_flops(config, crops, samples), share)
        filling = self.copies.decoder_cost(config, crops * frames, len(self._layers_read()), 4)
        return replace(step, objectives=filling.flops)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[ENCODER_KEY] = self.encoder.config.to_dict()
        checkpoint["codebooks"] = self.codebooks
        checkpoint[PREDICTED] = self._predicted()
        if seen := joined(self.encoder.labelled, *(book.get(LABELLED) for book in (self.codebooks or {}).values())):
            checkpoint[LABELLED] = seen
        checkpoint["seed"] = self.seed
        if self.copies != PLAIN:
            checkpoint["copies"] = asdict(self.copies)
        if teachers := [name for name, each in self.named_modules() if isinstance(each, Teacher)]:
            checkpoint[TEACHERS] = teachers

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "codebooks" not in checkpoint:
            raise UserError("resume: the checkpoint was written by an older version and cannot be resumed")
        if (
            (seed := checkpoint.get("seed", self.seed)) != self.seed
            and self._trainer
            and self.trainer.state.fn == "fit"
        ):
            raise UserError(
                f"resume: model.seed is {self.seed} here and {seed} in the checkpoint; give that of the run"
            )
        if checkpoint.get("copies") != (None if self.copies == PLAIN else asdict(self.copies)):
            raise UserError(
                f"resume: model.copies is {asdict(self.copies)} here and {checkpoint.get('copies')} in the checkpoint; give "
                "that of the run"
            )
        self.keep_head = False  # the head is in this checkpoint
        self.build(checkpoint["codebooks"])
        # Compared as lists, because the order counts: an objective that names no label set reads the first.
        ours, theirs = (list(books.items()) for books in (self.codebooks or {}, checkpoint["codebooks"]))
        if ours != theirs:
            hard = [[(name, {**book, "soft": None}) for name, book in each] for each in (ours, theirs)]
            what = "other soft labels" if hard[0] == hard[1] else "labels of another codebook"
            raise UserError(f"resume: the checkpoint was trained on {what} than data.labels names")
        super().on_load_checkpoint(checkpoint)

    # One pass.

    def predict_masked(
        self,
        batch: PretrainingBatch,
        audio: Tensor,
        generator: torch.Generator,
        step: int = 0,
        dropped: Sequence[bool] | None = None,
        copies: int | None = None,
    ) -> Prediction:
        """Draw a mask and encode a batch whose masked frames are replaced by the mask embedding.

        Args:
            batch: the clean crops and their labels.
            audio: input of the encoder, the mixed crops `(batch, samples)`.
            generator: randomness of masks and objectives.
            step: updates made so far.
            dropped: which layers LayerDrop skips.
            copies: masked copies of each crop, one behind another; None for as many as the configuration says.
        """
        copied = self.copies if copies is None else replace(self.copies, copies=copies)
        features, frame_lengths = self.encoder.features(audio)  # without lengths: crops of a batch have one length
        # At the end of an utterance there can be fewer labels than frames.
        frames = min([features.shape[1], *(labels.shape[1] for labels in batch.labels.values())])
        features, frame_lengths = features[:, :frames], frame_lengths.clamp(max=frames)
        lengths = copied.rows(frame_lengths)
        mask = copied.masks(self.masking, frame_lengths, frames, generator)
        projected, normalised = self.encoder.project(features)
        hidden, padding = self._hidden(copied.rows(projected), lengths, mask, dropped)
        crops = Prediction(
            hidden={},
            features=features,
            normalised=normalised,
            projected=projected,
            mask=mask[: len(features)],
            padding=padding[: len(features)],
            labels={name: labels[:, :frames] for name, labels in batch.labels.items()},
            soft_labels={name: labels[:, :frames] for name, labels in batch.soft_labels.items()},
            audio=batch.audio,
            step=step,
            generator=generator,
        )
        prediction = copied.prediction(crops, hidden, mask, padding)
        if not self.views:
            return prediction
        return replace(prediction, views=self._further_passes(prediction, copied, audio, frame_lengths, dropped))

    def _hidden(
        self, projected: Tensor, lengths: Tensor, mask: Tensor, dropped: Sequence[bool] | None
    ) -> tuple[dict[int, Tensor], Tensor]:
        """The hidden states that the objectives read, `(rows, frames, dim)` by layer, and which frames are padding."""
        keep = self._layers_read()
        visible = None if self.decoders is None else VisibleFrames.of(mask, lengths)
        layers = self.encoder.contextualise(projected, lengths, mask, keep=keep, dropped=dropped, visible=visible)
        hidden = dict(zip(keep, layers.hidden, strict=True))
        if self.decoders is None or visible is None:
            return hidden, layers.padding
        padding = padding_mask(lengths, mask.shape[1])
        return self.decoders.fill(hidden, visible, mask, padding if bool(padding.any()) else None), padding

    def _further_passes(
        self,
        main: Prediction,
        copied: MaskedCopies,
        audio: Tensor,
        frame_lengths: Tensor,
        dropped: Sequence[bool] | None,
    ) -> dict[View, Prediction]:
        """The views that the objectives asked for; each mask is drawn once, and equal passes run once.

        Without a mask all copies of a crop are alike, and one of them runs.
        """
        passes: dict[View, Prediction] = {}
        crops = main.crops or main
        frames, lengths = crops.features.shape[1], copied.rows(frame_lengths)
        masks: dict[int | None, Tensor | None] = {None: None, 0: main.mask}
        for number in sorted({view.mask for view in self.views if view.mask is not None} - {0}):
            masks[number] = copied.masks(self.masking, frame_lengths, frames, main.generator)
        for kind, asked in self.views.items():
            keep = sorted({layer for view in asked for layer in view.layers})
            runs = self.encoder if kind.teacher is None else kind.teacher.encoder
            with torch.set_grad_enabled(torch.is_grad_enabled() and kind.gradients):
                # Convolutions have no dropout, so that those of the main pass serve all who hear the same.
                features = crops.features
                heard = crops.audio if kind.clean else audio
                own = kind.teacher is not None and not kind.teacher.shares_convolutions
                if own or heard is not audio:
                    features = (runs if own else self.encoder).features(heard)[0][:, :frames]
                projected, normalised = runs.project(features)
                skipped = dropped if kind.teacher is None else None
                mask = masks[kind.mask]
                entering, valid = (projected, frame_lengths) if mask is None else (copied.rows(projected), lengths)
                layers = runs.contextualise(entering, valid, mask, keep=keep, dropped=skipped)
            hidden = layers.hidden if mask is not None else map(copied.rows, layers.hidden)
            found = replace(
                main,
                hidden=dict(zip(keep, hidden, strict=True)),
                features=copied.rows(features),
                normalised=copied.rows(normalised),
                projected=copied.rows(projected),
                mask=torch.zeros_like(main.mask) if mask is None else mask,
            )
            passes.update(dict.fromkeys(asked, found))
        return passes

    def _seed(self, stage: int, batch_idx: int, rank: int) -> int:
        # A function of the place in the run alone, so that a resumed run draws the same numbers.
        return stream(self.seed, stage, 0 if stage == VALIDATION else self.current_epoch, batch_idx, rank)

    def _generator(self, stage: int, batch_idx: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(self._seed(stage, batch_idx, self.global_rank))

    def _dropped_layers(self, batch_idx: int) -> list[bool] | None:
        # The same on all ranks (rank 0's seed): DDP and FSDP2 wait for the gradients of all ranks, layer by layer.
        config = self.encoder.config
        if not config.layer_drop:
            return None
        generator = torch.Generator().manual_seed(self._seed(LAYER_DROP, batch_idx, 0))
        return (torch.rand(config.layers, generator=generator) < config.layer_drop).tolist()

    def training_step(self, batch: PretrainingBatch, batch_idx: int) -> Tensor:
        """Weighted sum of all objectives, times masked frames over `NOMINAL_FRAMES`; see `NormalisedUpdates`."""
        # Dropout can only draw from the global generator.
        torch.manual_seed(self._seed(DROPOUT, batch_idx, self.global_rank))
        generator = self._generator(TRAINING, batch_idx)
        heard = batch.audio if self.voices is None else self.voices(batch.audio, generator)
        mixed = self.mixing(heard, batch.noise, batch.noise_lengths, generator)
        dropped = self._dropped_layers(batch_idx)
        prediction = self.predict_masked(batch, mixed, generator, self.trainer.global_step, dropped)
        masked = prediction.mask.sum()
        terms = [objective(_read_by(objective, prediction)) for objective in self.objectives]
        total = torch.stack([o.weight * term for o, term in zip(self.objectives, terms, strict=True)]).sum()
        self.count_masked_frames(masked)
        if self.logs_this_step:
            self._log_training(prediction, terms, total)
        return total * masked / NOMINAL_FRAMES

    def _log_training(self, prediction: Prediction, terms: list[Tensor], total: Tensor) -> None:
        values: dict[str, Tensor] = {
            "total_loss": total.detach(),
            "learning_rate": torch.tensor(self.optimizers().param_groups[0]["lr"]),
        }
        for place, (objective, term) in enumerate(zip(self.objectives, terms, strict=True)):
            _add(values, {objective.name: term.detach()}, f"_{place}", before=False)
            _add(values, objective.scores(_read_by(objective, prediction)), f"{objective.name}_{place}_", before=True)
        rows, loss = len(prediction.audio), "loss" if "loss" in values else "total_loss"
        for name, value in values.items():
            self.log(f"train/{name}", value, prog_bar=name in (loss, "masked_accuracy"), batch_size=rows)

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """One update; the objectives hear of it unless its gradient was not finite and the weights are as before."""
        super().optimizer_step(*arguments, **named)
        if not self.skipped_in_a_row:
            for objective in self.objectives:
                objective.after_update(
                    self.encoder, self.trainer.global_step + 1
                )  # Lightning counts it after this hook

    def validation_step(self, batch: PretrainingBatch, batch_idx: int) -> None:
        """Score masked and visible frames of clean crops, with the same masks every time."""
        generator = self._generator(VALIDATION, batch_idx)
        prediction = self.predict_masked(batch, batch.audio, generator, self.trainer.global_step, copies=1)
        for objective in self.objectives:
            objective.update_scores(_read_by(objective, prediction))

    def on_validation_epoch_end(self) -> None:
        values: dict[str, Tensor] = {}
        for place, objective in enumerate(self.objectives):
            _add(values, objective.compute_scores(), f"{objective.name}_{place}_", before=True)
        for name, value in values.items():
            self.log(f"valid/{name}", value, prog_bar=name in ("loss", "masked_accuracy"), sync_dist=True)


def _read_by(objective: Objective, prediction: Prediction) -> Prediction:
    return prediction.crops if objective.per_crop and prediction.crops is not None else prediction


def _add(values: dict[str, Tensor], more: dict[str, Tensor], mark: str, before: bool) -> None:
    """Add figures to `values`; names already taken by an earlier objective get `mark` before or after them."""
    for name, value in more.items():
        if name in values:
            name = mark + name if before else name + mark
        values[name] = value
