"""FBANK, MFCC and STFT, the baselines of SUPERB and SUPERB-SG, and the log-mel of synthesis, as upstreams."""

from __future__ import annotations

import torch
from torch import Tensor

from wavlm_lightning.audio import MEL_BINS, SAMPLE_RATE, fbank, mfcc, synthesis_mel, with_deltas
from wavlm_lightning.encoder import Layers
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.upstreams.base import Upstream

SHORTEST = 400  # samples of one analysis window; shorter utterances have no frame


def _spread(features: Tensor) -> Tensor:
    """The standard deviation of each dimension over time `(dim,)`; of a single frame 0, where torch has NaN."""
    return features.std(0) if len(features) > 1 else torch.zeros_like(features[0])


class Spectral(Upstream):
    """Base of `Fbank`, `Mfcc`, `Stft` and `LogMel`; the first two are Kaldi features with first and second differences at 100 Hz.

    Args:
        cmvn: normalise every dimension of an utterance to zero mean and unit variance. SUPERB's baseline does. With
            mean pooling every pooled feature is then zero and all utterances look alike, so switch it off for KS, SID,
            IC and ER (s3prl issue 316).
        label: name in tables.
        frozen: nothing else is possible, because there are no weights.
        differentiable: let gradients reach the waveform.

    Raises:
        UserError: `frozen` is false.
    """

    num_layers = 1
    frame_rate = 100.0

    def __init__(
        self, cmvn: bool = True, label: str | None = None, frozen: bool = True, differentiable: bool = False
    ) -> None:
        if not frozen:
            raise UserError(
                f"upstream.frozen is false, but {type(self).label} has no weights to train; remove it, or use an encoder"
            )
        super().__init__(differentiable=differentiable)
        self.cmvn = cmvn
        self.label = label or type(self).label

    def settings(self) -> str:
        return f"cmvn={self.cmvn}"

    def _described(self, waveform: Tensor) -> Tensor:
        return with_deltas(self._static(waveform))

    def _static(self, waveform: Tensor) -> Tensor:
        raise RuntimeError("Spectral is abstract: use Fbank, Mfcc, Stft or LogMel")

    def features(self, waveform: Tensor) -> Tensor:
        """One utterance `(samples,)` to `(frames, dim)`."""
        features = self._described(waveform)
        if self.cmvn:
            features = (features - features.mean(0)) / (_spread(features) + 1e-10)
        return features

    def layers(self, waveforms: Tensor, lengths: Tensor) -> Layers:
        """One layer, `(1, batch, frames, dim)`; each utterance is analysed before padding."""
        if int(lengths.min()) < SHORTEST:
            raise UserError(f"an utterance of {int(lengths.min())} samples is shorter than one window (400 samples)")
        rows = [self.features(row[:length]) for row, length in zip(waveforms, lengths.tolist(), strict=True)]
        hidden = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        frames = torch.tensor([len(row) for row in rows], device=waveforms.device)
        return Layers(hidden[None], frames, self.frame_rate)


class Fbank(Spectral):
    """80 log-mel filters with differences, 240 dimensions (SUPERB's FBANK).

    Args:
        cmvn: see `Spectral`.
        label: name in tables.
        frozen: see `Spectral`.
        differentiable: let gradients reach the waveform.
    """

    label = "FBANK"
    dim = 240

    def _static(self, waveform: Tensor) -> Tensor:
        return fbank(waveform)


class Mfcc(Spectral):
    """13 cepstra with differences, 39 dimensions (SUPERB's MFCC).

    Args:
        cmvn: see `Spectral`.
        label: name in tables.
        frozen: see `Spectral`.
        differentiable: let gradients reach the waveform.
    """

    label = "MFCC"
    dim = 39

    def _static(self, waveform: Tensor) -> Tensor:
        return mfcc(waveform)


class Stft(Spectral):
    """Magnitudes of an STFT, 257 dimensions at 50 Hz: the baseline of enhancement and separation (SUPERB-SG's `stft_mag`).

    Hann windows of 512 samples every 320, the first centred on sample 0; neither logarithm nor differences.

    Args:
        cmvn: see `Spectral`; SUPERB-SG's baseline is not normalised.
        label: name in tables.
        frozen: see `Spectral`.
        differentiable: let gradients reach the waveform.
    """

    label = "STFT"
    dim = 257
    frame_rate = 50.0
    first_centre = 0

    def __init__(
        self, cmvn: bool = False, label: str | None = None, frozen: bool = True, differentiable: bool = False
    ) -> None:
        super().__init__(cmvn, label, frozen, differentiable)

    def _described(self, waveform: Tensor) -> Tensor:
        window = torch.hann_window(512, device=waveform.device)
        spectrum = torch.stft(waveform, 512, 320, window=window, return_complex=True)
        return (spectrum.real.square() + spectrum.imag.square() + 1e-12).sqrt().T  # whose gradient exists at silence


class LogMel(Spectral):
    """The log-mel of synthesis (`audio.synthesis_mel`), 80 dimensions: a vocoder trained on it speaks for tasks that predict it.

    Args:
        hop: samples between frames.
        label: name in tables.
        frozen: see `Spectral`.
        differentiable: let gradients reach the waveform.
    """

    label = "log-mel"
    dim = MEL_BINS
    typical = (-5.6, 2.4)  # of 60 utterances of the mini corpus `pr`

    def __init__(
        self, hop: int = 320, label: str | None = None, frozen: bool = True, differentiable: bool = False
    ) -> None:
        super().__init__(False, label, frozen, differentiable)
        if hop < 1:
            raise UserError(f"upstream.hop {hop}: must be at least 1 sample")
        self.hop, self.frame_rate = hop, SAMPLE_RATE / hop

    def settings(self) -> str:
        return f"hop={self.hop}"

    def features(self, waveform: Tensor) -> Tensor:
        return synthesis_mel(waveform[None], self.hop)[0]
