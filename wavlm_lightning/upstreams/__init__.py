"""Upstreams: modules that turn waveforms into `Layers`, and the weighted sum of layers that heads read.

Read `base` (the contract), `fine_tuning` (how an encoder is trained), `wavlm`, `waveform_encoder` with `huggingface`,
`torchaudio_models` and `fairseq`, `spectral`, `specs` (names that users type), `run_checkpoints`, `weighted_sum`, `cache`.
Imports `encoder`, `augment`, `audio`, `system`. Tests: `tests/upstreams`.
"""

from wavlm_lightning.upstreams.base import Upstream
from wavlm_lightning.upstreams.chosen_layers import ChosenLayers
from wavlm_lightning.upstreams.fairseq import FairseqUpstream
from wavlm_lightning.upstreams.fine_tuning import FineTuning
from wavlm_lightning.upstreams.huggingface import HuggingFaceUpstream
from wavlm_lightning.upstreams.spectral import Fbank, LogMel, Mfcc
from wavlm_lightning.upstreams.torchaudio_models import TorchaudioModel, TorchaudioUpstream
from wavlm_lightning.upstreams.wavlm import WavLMUpstream
from wavlm_lightning.upstreams.weighted_sum import TopLayer, WeightedSum

__all__ = [
    "ChosenLayers",
    "FairseqUpstream",
    "Fbank",
    "FineTuning",
    "HuggingFaceUpstream",
    "LogMel",
    "Mfcc",
    "TopLayer",
    "TorchaudioModel",
    "TorchaudioUpstream",
    "Upstream",
    "WavLMUpstream",
    "WeightedSum",
]
