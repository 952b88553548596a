"""WavLM in plain PyTorch: needs torch and safetensors, imports nothing else of this package, can be copied out and used alone.

Reading order, which is also the order of a forward pass:

1. `config`: sizes, presets (`tiny`, `base`, `large`, ...), frames of a number of samples.
2. `wavlm`: the encoder, waveforms -> convolutions -> projection -> transformer -> `layers.Layers`.
3. `frontend`: the seven convolutions, `log_mel`: log-mel frames in their place; `transformer`: layers, LayerDrop,
   positional convolution; `attention` and `position_bias`: the gated relative position bias.
4. `attention_backends/`: ways to compute attention. `cpu/`: faster ways to compute the rest. Both give the same values
   as plain PyTorch and are not needed to understand the model.
5. `checkpoints/`: Hugging Face, unilm, torchaudio, FSDP2. `exportable`: the same network for ONNX.

Tests: `tests/encoder`.
"""

from wavlm_lightning.encoder.checkpoints.tensor_files import CheckpointError
from wavlm_lightning.encoder.config import WavLMConfig
from wavlm_lightning.encoder.layers import Layers, padding_mask
from wavlm_lightning.encoder.wavlm import WavLM

__all__ = ["CheckpointError", "Layers", "WavLM", "WavLMConfig", "padding_mask"]
