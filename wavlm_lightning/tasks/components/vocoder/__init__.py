"""From features to a waveform: the network of the vocoder, its losses and measures, and the nearest frames of a voice.

`network` (ConvNeXt blocks and an inverse STFT), `losses` (spectra at several resolutions), `measures` (copy-synthesis beside
Griffin-Lim), `neighbours` (kNN-VC's matching). Tests: `tests/tasks/components/vocoder/`.
"""

from wavlm_lightning.tasks.components.vocoder.network import SpectralVocoder

__all__ = ["SpectralVocoder"]
