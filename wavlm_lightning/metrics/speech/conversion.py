"""What the test of voice conversion counts: nearness to the target's own recording, the voice, what is understood."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from wavlm_lightning.metrics.enhancement import LEFT_OUT, SILENT_ANSWERS
from wavlm_lightning.metrics.speech.cepstra import aligned, distortion
from wavlm_lightning.metrics.speech.judges import opinion, voice_vector
from wavlm_lightning.metrics.speech.pitch import pitch_agreement
from wavlm_lightning.metrics.verification import equal_error_rate
from wavlm_lightning.system.errors import UserError

PARALLEL = ("mcd", "mcd_c0", "f0_correlation", "voicing_error")
"""Measures that compare with the target's own recording of the sentence."""
MEASURES = (*PARALLEL, "similarity", "quality", "content")
ACCEPTED = "accepted"
NO_SIMILARITY = 0.0  # Resemblyzer's vectors have no negative values
WORST_QUALITY = 1.0
ROWS = ("", "unprocessed/", "copy_synthesis/", "target/")
"""Prefixes: of the converted speech; of the source as it is; of the target's own recording, through the vocoder and as it is."""
CONVERTED, SOURCE, COPY, TARGET = ROWS


class ConversionMeasures(Metric):
    """Measures of converted utterances, each heard alone and without padding.

    - `mcd`: mel-cepstral distortion in dB to the target's own recording, c0 left out; `mcd_c0` with it (`speech.cepstra`).
    - `f0_correlation`, `voicing_error`: of the same frames (`speech.pitch`).
    - `similarity`: cosine of the voice to the mean of the target's other recordings (`speech.judges`). From it: `accepted`, the
      share of the converted utterances above the threshold at which the target's own recordings are refused as often as the
      sources are accepted (SUPERB-SG's accept rate), and `told_apart`, the equal error rate between converted speech and the
      target's own, of which 50 % is ideal (kNN-VC).
    - `quality`: DistillMOS.
    - `content`: errors of a recogniser by the number of units; the caller counts them.

    Speech without sound counts with the worst figures: the distortion of a flat spectrum, no similarity, a quality of 1.

    Args:
        names: some of `MEASURES`.

    Example:
        >>> metric = ConversionMeasures(["mcd"])
        >>> metric.update(converted, target=recording)
        >>> metric.compute()
        {'mcd': tensor(6.1)}
    """

    full_state_update = False
    is_differentiable = False
    sums: Tensor
    weights: Tensor
    missing: Tensor
    silent: Tensor
    cosines: list[Tensor] | Tensor
    cosine_rows: list[Tensor] | Tensor

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.names = list(names)
        if unknown := [name for name in self.names if name not in MEASURES]:
            raise UserError(f"{unknown[0]!r} is no measure of conversion; there are {', '.join(MEASURES)}")
        shape = len(ROWS), len(self.names)
        self.add_state("sums", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("weights", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("missing", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("silent", torch.tensor(0), dist_reduce_fx="sum")
        # Similarities, and the number of the row of each. Lists of vectors, because torchmetrics joins nothing else of different
        # lengths; of floats, because a process that has seen nothing sends an empty vector of floats.
        for name in ("cosines", "cosine_rows"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(
        self,
        waveform: Tensor,
        target: Tensor | None = None,
        voice: np.ndarray | None = None,
        errors: tuple[int, int] | None = None,
        row: str = CONVERTED,
    ) -> None:
        """Add an utterance.

        Args:
            waveform: `(samples,)` at 16 kHz.
            target: the target's own recording of the sentence, `(samples,)`; without it the measures of `PARALLEL` have no
                figure.
            voice: `judges.voice_of` other recordings of the target; without it `similarity` has none.
            errors: of the recogniser, and the number of units.
            row: of `ROWS`.
        """
        found = self._measure(waveform, target, voice, errors)
        self.silent += int(row == CONVERTED and not waveform.any())
        for column, name in enumerate(self.names):
            if (value := found.get(name)) is None:
                self.missing[ROWS.index(row), column] += 1
                continue
            self.sums[ROWS.index(row), column] += value[0]
            self.weights[ROWS.index(row), column] += value[1]
            if name == "similarity":
                assert isinstance(self.cosines, list) and isinstance(
                    self.cosine_rows, list
                )  # tensors only inside `compute`
                self.cosines.append(torch.tensor([value[0]], device=self.device))
                self.cosine_rows.append(torch.tensor([float(ROWS.index(row))], device=self.device))

    def _measure(
        self, waveform: Tensor, target: Tensor | None, voice: np.ndarray | None, errors: tuple[int, int] | None
    ) -> dict[str, tuple[float, float] | None]:
        """Value and weight by name; None or nothing where there is no figure."""
        heard, found = plain(waveform), dict[str, tuple[float, float] | None]()
        if target is not None and set(self.names) & set(PARALLEL):
            wanted = plain(target)
            try:
                pairs = aligned(heard, wanted)
            except ValueError as error:
                raise UserError(f"mel-cepstral distortion: {error}") from None
            if pairs is not None:
                found |= {"mcd": (distortion(pairs), 1.0), "mcd_c0": (distortion(pairs, level=True), 1.0)}
                if {"f0_correlation", "voicing_error"} & set(self.names):
                    agreement = pitch_agreement(heard, wanted, pairs[2])
                    found["voicing_error"] = (agreement.voicing_error, 1.0)
                    if agreement.correlation is not None:
                        found["f0_correlation"] = (agreement.correlation, 1.0)
        if "similarity" in self.names and voice is not None:
            if not heard.any():
                found["similarity"] = (NO_SIMILARITY, 1.0)
            elif (vector := voice_vector(heard)) is not None:
                found["similarity"] = (float(vector @ voice), 1.0)
        if "quality" in self.names:
            found["quality"] = (opinion(heard) if heard.any() else WORST_QUALITY, 1.0)
        if errors is not None:
            found["content"] = (float(errors[0]), float(errors[1]))
        return found

    def compute(self) -> dict[str, Tensor]:
        """By name; with a prefix of `ROWS` those of that row, with `left_out/` how many converted utterances have no figure, and
        as `silent/answers` how many had no sound.

        A measure that no utterance has a figure for is not there.
        """
        values: dict[str, Tensor] = {}
        for number, row in enumerate(ROWS):
            for column, name in enumerate(self.names):
                if self.weights[number, column] > 0:
                    values[f"{row}{name}"] = (self.sums[number, column] / self.weights[number, column]).float()
        for column, name in enumerate(self.names):
            if self.missing[0, column]:
                values[f"{LEFT_OUT}{name}"] = self.missing[0, column]
        if self.silent:
            values[SILENT_ANSWERS] = self.silent
        rows = dim_zero_cat(self.cosine_rows) if len(self.cosine_rows) else self.sums.new_zeros(0)
        every = dim_zero_cat(self.cosines) if len(self.cosines) else self.sums.new_zeros(0)
        cosines = {row: every[rows == number] for number, row in enumerate(ROWS)}
        accept = _threshold(cosines[TARGET], cosines[SOURCE])
        if accept is not None and len(cosines[CONVERTED]):
            values[ACCEPTED] = (cosines[CONVERTED] >= accept[1]).double().mean().float()
            values["target/eer"] = values[ACCEPTED].new_tensor(accept[0])
            values["target/threshold"] = values[ACCEPTED].new_tensor(accept[1])
        if (apart := _threshold(cosines[TARGET], cosines[CONVERTED])) is not None:
            values["told_apart"] = cosines[CONVERTED].new_tensor(apart[0]).float()
        return values


def _threshold(own: Tensor, others: Tensor) -> tuple[float, float] | None:
    """Equal error rate and its threshold; None unless there are cosines of both kinds."""
    if not (len(own) and len(others)):
        return None
    scores: Sequence[float] = [*own.tolist(), *others.tolist()]
    return equal_error_rate(scores, [1] * len(own) + [0] * len(others))


def plain(waveform: Tensor) -> np.ndarray:
    """Float32 `(samples,)` on the CPU."""
    return waveform.detach().float().cpu().numpy()
