"""Enhancement in front of an encoder: networks from waveform to waveform, and the upstream that hears what they make.

`network` (the contract), `conv_tasnet`, `enhanced_upstream`, `trained_front_end` (the weights of another run). Tasks that use
them: `tasks/generation/front_end.py`. Tests: `tests/tasks/components/test_front_end.py`.
"""

from wavlm_lightning.tasks.components.front_end.conv_tasnet import ConvTasNet
from wavlm_lightning.tasks.components.front_end.enhanced_upstream import EnhancedUpstream
from wavlm_lightning.tasks.components.front_end.network import FrontEnd

__all__ = ["ConvTasNet", "EnhancedUpstream", "FrontEnd"]
