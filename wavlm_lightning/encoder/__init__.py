"""WavLM in plain PyTorch: needs torch and safetensors, and nothing else of this package."""

from wavlm_lightning.encoder.checkpoints.tensor_files import CheckpointError
from wavlm_lightning.encoder.config import WavLMConfig
from wavlm_lightning.encoder.layers import Layers, padding_mask
from wavlm_lightning.encoder.wavlm import WavLM

__all__ = ["CheckpointError", "Layers", "WavLM", "WavLMConfig", "padding_mask"]
