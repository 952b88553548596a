"""Speech by masks on its spectrogram: the transform and its inverse, the network of masks, their targets, the order of sources.

Read in this order: `stft` (waveform to spectrogram and back, features at its frames), `masks` (network, targets, oracle),
`assignment` (which answer is which source).
"""

from wavlm_lightning.tasks.components.spectral.assignment import best_assignment, in_order
from wavlm_lightning.tasks.components.spectral.masks import (
    MaskNetwork,
    apply_mask,
    best_mask,
    distances,
    phase_sensitive_magnitude,
)
from wavlm_lightning.tasks.components.spectral.stft import Stft, nearest_features, same_number

__all__ = [
    "MaskNetwork",
    "Stft",
    "apply_mask",
    "best_assignment",
    "best_mask",
    "distances",
    "in_order",
    "nearest_features",
    "phase_sensitive_magnitude",
    "same_number",
]
