"""The arithmetic of memory against the most that is alive at once in a forward and backward pass.

Counted on fake tensors, which need no memory themselves. Autograd has no backward pass for fake CUDA without a GPU, so
they lie on the CPU and take the ways of CUDA, in fp32 and without dropout, where the two devices keep the same.
"""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.encoder.attention_backends import BACKENDS, recomputed
from wavlm_lightning.encoder.cpu import chunks
from wavlm_lightning.pretraining.memory import step_memory

PLAIN = {"layers": 4, "layer_drop": 0.0, "dropout": 0.0, "attention_dropout": 0.0, "dropout_input": 0.0}
CONFIGS = {
    "base": WavLMConfig.preset("base", **PLAIN),
    "large": WavLMConfig.preset("large", **PLAIN),
    "ungated": WavLMConfig.preset("base", **PLAIN, position_bias="ungated"),
    "frozen convolutions": WavLMConfig.preset("base", **PLAIN, feature_grad_mult=0.0),
}
CONFIGS = {name: replace(config, activation_dropout=0.0) for name, config in CONFIGS.items()}


class Alive(TorchDispatchMode):
    """Bytes of the storages that are alive, now and at most.

    Args:
        known: storages that do not count.
    """

    def __init__(self, known: set[int]):
        super().__init__()
        self.known, self.bytes, self.peak = known, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.known:
                self.begin(tensor.untyped_storage())
        return result

    def begin(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self.known.add(key)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self.end, key, size)

    def end(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.bytes -= size


def fused_attention(query, key, value, attn_mask=None, dropout_p=0.0):
    """CUDA's kernel that takes a bias, whose rows must begin at multiples of 8 numbers."""
    frames = attn_mask.shape[-1]
    attn_mask = F.pad(attn_mask, (0, -frames % 8))[..., :frames] if frames % 8 else attn_mask
    attn_mask = attn_mask.expand(*query.shape[:3], frames)
    return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, attn_mask, True, dropout_p)[0]


@pytest.mark.parametrize(
    ("name", "checkpointed", "batch", "samples"),
    [
        ("base", False, 5, 250_000),
        ("base", True, 5, 250_000),  # most is alive in the backward pass of the first convolution
        pytest.param("base", True, 1, 800_000, marks=pytest.mark.slow),  # in that of attention
        pytest.param("large", False, 1, 800_000, marks=pytest.mark.slow),
        pytest.param("large", True, 5, 250_000, marks=pytest.mark.slow),
        pytest.param("ungated", False, 1, 800_000, marks=pytest.mark.slow),
        ("ungated", True, 1, 800_000),
        ("frozen convolutions", True, 5, 250_000),  # in that of a layer
    ],
)
def test_peak_of_a_training_step(monkeypatch, name, checkpointed, batch, samples):
    config = CONFIGS[name]
    monkeypatch.setitem(BACKENDS, "recomputed", recomputed.attend_again)
    monkeypatch.setattr(chunks, "CACHE_FRIENDLY", chunks.ROOMY)
    monkeypatch.setattr(F, "scaled_dot_product_attention", fused_attention)
    with FakeTensorMode(allow_non_fake_inputs=True):
        encoder = WavLM(config).train()
        encoder.encoder.run_layers(recomputed=checkpointed, compiled=False)
        for parameter in encoder.parameters():
            parameter.grad = torch.zeros_like(parameter)
        own = [*encoder.parameters(), *encoder.buffers(), *(p.grad for p in encoder.parameters())]
        waveforms = torch.randn(batch, samples)
        with Alive({tensor.untyped_storage()._cdata for tensor in own}) as alive:
            features, _ = encoder.features(waveforms)
            projected, _ = encoder.project(features)
            loss = encoder.encoder(projected, None, keep=[config.layers])[0].sum()
            del features, projected
            alive.peak = alive.bytes
            loss.backward()
    memory = step_memory(config, batch, samples, "32-true", checkpointed=checkpointed)
    assert memory.kept + memory.recomputed == pytest.approx(alive.peak, rel=0.1)
