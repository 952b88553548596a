"""Tasks that answer with audio: enhancement, dereverberation, extraction of a speaker, separation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor
from torchmetrics import Metric

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.batch import Targets, TaskBatch, Waveforms
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import Layers, padding_mask
from wavlm_lightning.metrics.enhancement import EnhancementMeasures
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Direction, Task, Unit
from wavlm_lightning.upstreams import Upstream

# The loss of an utterance stops falling near this ratio, so that easy ones do not outweigh the others.
BEST_DB = 30.0
QUIET = 1e-8  # energy added to that of reference and error, for digital silence


class WaveformTask(Task):
    """One waveform for each utterance, sample by sample with its input; several if the target is several (`target_audio`).

    A subclass builds layers (`build_head`) and computes the waveform (`enhance`) from features and input audio. The clean
    reference is the audio member `clean` of the corpus, or what the training transforms changed (`target_audio`).

    Scores are means over utterances, without padding: SI-SDR in dB and its improvement over the input; `others` may add
    `stoi`. The test puts those of the unprocessed input into the `details` of its card. `wavlm predict --out` writes the
    answers as audio files, and the report plays some of them. See `Task` for the arguments.

    Example:
        >>> class Gate(WaveformTask):
        ...     name = "GATE"
        ...
        ...     def build_head(self, dim):
        ...         self.gain = nn.Linear(dim, 1)
        ...
        ...     def enhance(self, features, lengths, audio):
        ...         gain = self.gain(features).sigmoid()[:, :, 0] * ~padding_mask(lengths, features.shape[1])
        ...         gain = nn.functional.pad(gain.repeat_interleave(320, 1), (0, 400))  # the encoder's hop, and its kernel
        ...         return audio.audio * gain[:, : audio.audio.shape[1]]
    """

    metric: ClassVar[str] = "si_sdr"
    better: ClassVar[Direction] = "higher"
    others: ClassVar[dict[str, Direction]] = {"si_sdri": "higher"}
    units: ClassVar[dict[str, Unit]] = {"si_sdr": Unit("dB", 1.0), "si_sdri": Unit("dB", 1.0)}
    answer = "waveform"
    input_sound: ClassVar[str] = "input"  # names under which the report plays them
    answer_sounds: ClassVar[tuple[str, ...]] = ("answer",)
    reference_sound: ClassVar[str] = "reference"
    target_audio: ClassVar[tuple[str, ...]] = ("clean",)

    def __init__(self, upstream: Upstream, learning_rate: float = 1e-3, **settings: Any) -> None:
        super().__init__(upstream, learning_rate, **settings)

    @abstractmethod
    def enhance(self, features: Tensor, lengths: Tensor, audio: Waveforms) -> Tensor:
        """The answer, `(batch, samples)` as the input is, or `(batch, samples, parts)`.

        That for an utterance depends on neither padding nor other rows.

        Args:
            features: weighted sum of the upstream's layers, `(batch, frames, dim)`; frame t is centred near sample
                `(t + 0.5) * 16000 / self.upstream.frame_rate`.
            lengths: valid frames, int64 `(batch,)`.
            audio: the input as the upstream heard it.
        """

    def read_labels(self, corpus: Corpus) -> Any:
        return list(self.target_audio)

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """Not called: the target is audio."""
        raise UserError(f"{self.name}: its target is audio, which this data module does not read; use TaskData")

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        raise UserError(
            f"{self.name}: cannot answer from features alone; call the task, or `from_layers`, with the audio"
        )

    def forward(self, inputs: Any) -> tuple[Tensor, Tensor]:
        """Waveforms `(batch, samples)` or `(batch, samples, parts)`, zeros in the padding, and samples of each row `(batch,)`."""
        if not isinstance(inputs, Waveforms):
            raise UserError(f"{self.name}: hears the audio itself, which cached features lack; set data.cache: null")
        return super().forward(inputs)

    def from_layers(self, layers: Layers, inputs: Any) -> tuple[Tensor, Tensor]:
        waveforms = self.enhance(self.weighted_sum(layers), layers.lengths, inputs)
        wanted = (*inputs.audio.shape, self.parts) if self.parts > 1 else tuple(inputs.audio.shape)
        if waveforms.shape != wanted:
            shapes = f"{tuple(waveforms.shape)} instead of {wanted}"
            raise UserError(f"{self.name}: `enhance` gives {shapes}; it must answer for each sample of the input")
        padding = padding_mask(inputs.lengths, waveforms.shape[1])
        return waveforms.masked_fill(padding[:, :, None] if self.parts > 1 else padding, 0.0), inputs.lengths

    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """Negative signal-to-noise ratio in dB, mean over utterances; unlike SI-SDR it fixes the level, too.

        Limited to 30 dB as in Wisdom et al. (arXiv 2006.12701, equation 2).
        """
        valid = ~padding_mask(lengths, outputs.shape[1])
        wanted = targets.values.float() * valid
        power = wanted.square().sum(1)
        error = (outputs.float() * valid - wanted).square().sum(1)
        return 10 * ((error + 10 ** (-BEST_DB / 10) * power + QUIET).log10() - (power + QUIET).log10()).mean()

    def build_metric(self) -> Metric:
        """The measures named by `metric` and `others`; see `EnhancementMeasures`."""
        return EnhancementMeasures([self.metric, *self.others])

    def update_metric(self, metric: Metric, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> None:
        inputs: Any = batch.inputs
        rows = zip(self.answer_rows(outputs, lengths), batch.targets.values, inputs.audio, strict=True)
        for answer, reference, noisy in rows:
            metric.update(answer, reference[: len(answer)], noisy[: len(answer)])

    def utterance_scores(
        self, outputs: Tensor, lengths: Tensor, batch: TaskBatch
    ) -> Sequence[tuple[float, ...]] | None:
        """The headline measure of each utterance, alone: further ones, such as STOI, may take long."""
        if type(self).build_metric is not WaveformTask.build_metric:
            return None
        return self.headline_of_each(outputs, lengths, batch)

    def headline_of_each(self, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> list[tuple[float, float]]:
        """`metric`, a measure of `EnhancementMeasures`, of each utterance of a batch, and 1; 0 and 0 of one without a figure."""
        metric, scores, inputs = EnhancementMeasures([self.metric]).to(outputs.device), [], batch.inputs
        metric.distributed_available_fn = lambda: False  # other processes are at other utterances
        assert isinstance(inputs, Waveforms)
        rows = zip(self.answer_rows(outputs, lengths), batch.targets.values, inputs.audio, strict=True)
        for answer, reference, noisy in rows:
            metric.reset()
            metric.update(answer, reference[: len(answer)], noisy[: len(answer)])
            figures = metric.latest[self.metric]
            scores.append((sum(figures), float(len(figures))))
        return scores

    def score(self, metric: Metric, stage: Literal["valid", "test"]) -> dict[str, Tensor]:
        """Values by name; the test also puts those of the unprocessed input and of an oracle into `details`."""
        values = metric.compute()
        details: dict[str, dict[str, float]] = {"unprocessed": {}}
        for name in [*values]:
            what, slash, measure = name.partition("/")  # `unprocessed/`, `oracle/`, `left_out/`
            if slash:
                details.setdefault(what, {})[measure] = round(float(values.pop(name)), 4)
        if stage == "test":
            self.details = details
        return values

    def playable(self, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> list[dict[str, Tensor]]:
        """Input, answer and reference, by the names of the class; of several targets none is the reference."""
        inputs: Any = batch.inputs
        rows = zip(self.answer_rows(outputs, lengths), batch.targets.values, inputs.audio, strict=True)
        found = []
        for answer, reference, heard in rows:
            found.append({self.input_sound: heard[: len(answer)], self.answer_sounds[0]: answer})
            if reference.ndim == 1:
                found[-1][self.reference_sound] = reference[: len(answer)]
        return found

    def readable(self, outputs: Tensor, lengths: Tensor) -> list[dict[str, Any]]:
        """Length in seconds and level (root mean square) in dB below full scale, a list of the levels of several parts."""
        rows = self.answer_rows(outputs.float(), lengths)
        levels = [10 * row.square().mean(0).clamp(min=1e-10).log10() for row in rows]
        return [
            {"seconds": round(len(row) / SAMPLE_RATE, 2), "level_db": _rounded(level)}
            for row, level in zip(rows, levels, strict=True)
        ]


def _rounded(levels: Tensor) -> float | list[float]:
    if levels.ndim:
        return [round(level, 1) for level in levels.tolist()]
    return round(float(levels), 1)
