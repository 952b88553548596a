"""Waveform transforms for tasks."""

from wavlm_lightning.augment.transforms.base import Draw, WaveformTransform

__all__ = ["Draw", "WaveformTransform"]
