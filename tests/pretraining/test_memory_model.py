"""The arithmetic of memory against what forward passes keep for the backward pass.

On a CPU a real pass is counted. CUDA's is counted on fake tensors: torch's shape rules for CUDA's autocast and for the
fused attention kernels, without a GPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.pretraining.memory import USABLE, parameter_count, step_memory
from wavlm_lightning.system.errors import UserError

GROUP = WavLMConfig.preset(
    "base", layers=2, layer_drop=0.0, dim=192, ffn_dim=768, heads=4, conv_channels=(64,) * 7, attention_dropout=0.0
)
LAYER = replace(GROUP, conv_norm="layer", pre_norm=True, feature_grad_mult=1.0, activation_dropout=0.1)
LOG_MEL = replace(GROUP, front_end="log_mel", mel_channels=(96, 64))
VARIANTS = {
    "log-mel": LOG_MEL,
    "log-mel, layer": replace(LAYER, front_end="log_mel", mel_channels=(96, 64, 128)),
    "log-mel, frozen convolutions": replace(LOG_MEL, feature_grad_mult=0.0),
    "log-mel, no convolutions": replace(LOG_MEL, mel_channels=()),
    "group": GROUP,
    "group, attention dropout": replace(GROUP, attention_dropout=0.1),
    "group, no dropout": replace(GROUP, dropout=0.0, dropout_input=0.0),
    "group, frozen convolutions": replace(GROUP, feature_grad_mult=0.0),
    "group, ungated": replace(GROUP, position_bias="ungated"),
    "group, no bias": replace(GROUP, position_bias="none"),
    "group, checkpointed": GROUP,
    "layer": LAYER,
    "layer, attention dropout": replace(LAYER, attention_dropout=0.1),
    "layer, ungated": replace(LAYER, position_bias="ungated", attention_dropout=0.1),
    "layer, no bias": replace(LAYER, position_bias="none"),
    "layer, no bias, attention dropout": replace(LAYER, position_bias="none", attention_dropout=0.1),
    "layer, checkpointed": LAYER,
}
PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16}
SHAPES = [(2, 16_000), (1, 96_000)]  # many short crops, and one where frames by frames weigh


def kept(encoder: WavLM, states: Callable[[], list[torch.Tensor]]) -> int:
    """Bytes of all storages that autograd keeps of the pass `states`, but those of parameters, buffers and waveforms."""
    own = {tensor.untyped_storage()._cdata for tensor in [*encoder.parameters(), *encoder.buffers()]}
    storages = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            storages[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        assert states()[0].requires_grad
    return sum(storages.values())


def of_waveforms(encoder: WavLM, waveforms: torch.Tensor) -> Callable[[], list[torch.Tensor]]:
    """The pass of an encoder without a mask."""

    def states() -> list[torch.Tensor]:
        features, _ = encoder.features(waveforms)
        projected, _ = encoder.project(features)
        return encoder.encoder(projected, None, keep=[encoder.config.layers])

    return states


def make(variant: str) -> WavLM:
    """An encoder of a variant in training mode."""
    encoder = WavLM(VARIANTS[variant]).train()
    encoder.encoder.run_layers(recomputed=checkpointed(variant), compiled=False)
    return encoder


def checkpointed(variant: str) -> bool:
    return "checkpointed" in variant


@pytest.mark.parametrize(
    ("batch", "samples"), [SHAPES[0], *(pytest.param(*shape, marks=pytest.mark.slow) for shape in SHAPES[1:])]
)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_a_cpu_keeps(variant, precision, batch, samples):
    config = VARIANTS[variant]
    torch.manual_seed(0)
    encoder, half = make(variant), PRECISIONS[precision]
    with torch.autocast("cpu", half or torch.bfloat16, enabled=half is not None):
        measured = kept(encoder, of_waveforms(encoder, torch.randn(batch, samples)))
    memory = step_memory(config, batch, samples, precision, device="cpu", checkpointed=checkpointed(variant))
    assert memory.kept == pytest.approx(measured, rel=0.03)


def fused_attention(half: torch.dtype | None):
    """Attention as torch dispatches it on CUDA: autocast's casts, then a fused kernel, an odd bias copied before."""

    def attend(query, key, value, attn_mask=None, dropout_p=0.0):
        if half is not None:
            query, key, value = query.to(half), key.to(half), value.to(half)
        if attn_mask is None and half is not None:
            return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, dropout_p)[0]
        if attn_mask is not None:
            frames = attn_mask.shape[-1]
            strides = attn_mask.stride()
            if any(stride % 8 for stride in strides[:-1]) or strides[-1] != 1:
                attn_mask = F.pad(attn_mask, (0, 8 - frames % 8))[..., :frames]
            attn_mask = attn_mask.expand(*query.shape[:3], frames)
        return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, attn_mask, True, dropout_p)[0]

    return attend


@contextlib.contextmanager
def cuda_autocast(half: torch.dtype | None):
    """torch.autocast("cuda") switches itself off where there is no GPU."""
    torch.set_autocast_enabled("cuda", half is not None)
    torch.set_autocast_dtype("cuda", half or torch.float16)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.set_autocast_dtype("cuda", torch.float16)
        torch.clear_autocast_cache()


@pytest.mark.parametrize(  # the last makes 80 frames, a multiple of 8
    ("batch", "samples"),
    [SHAPES[0], *(pytest.param(*shape, marks=pytest.mark.slow) for shape in SHAPES[1:]), (2, 25_680)],
)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_cuda_would_keep(monkeypatch, variant, precision, batch, samples):
    config, half = VARIANTS[variant], PRECISIONS[precision]
    monkeypatch.setattr(F, "scaled_dot_product_attention", fused_attention(half))
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            encoder = make(variant)
        with cuda_autocast(half):
            measured = kept(encoder, of_waveforms(encoder, torch.randn(batch, samples, device="cuda")))
    memory = step_memory(config, batch, samples, precision, checkpointed=checkpointed(variant))
    assert memory.kept == pytest.approx(measured, rel=0.03)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_a_gpu_keeps(variant, precision):
    config, half = VARIANTS[variant], PRECISIONS[precision]
    encoder = make(variant).cuda()
    with torch.autocast("cuda", half or torch.bfloat16, enabled=half is not None):
        measured = kept(encoder, of_waveforms(encoder, torch.randn(3, 80_000, device="cuda")))
    memory = step_memory(config, 3, 80_000, precision, checkpointed=checkpointed(variant))
    assert memory.kept == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(
    ("preset", "parameters"), [("base", 94_381_936), ("large", 315_453_120), ("hubert_base", 94_371_712)]
)
def test_parameters_and_adam_are_fp32(preset, parameters):
    config = WavLMConfig.preset(preset)
    assert parameter_count(config) == parameters
    memory = step_memory(config, 1, 32_000, head_parameters=1000)
    assert memory.parameters + memory.gradients + memory.optimiser == 16 * (parameters + 1000)
    assert memory.exchanged == 0
    assert step_memory(config, 1, 32_000, processes=2).exchanged == 4 * parameters


@pytest.mark.parametrize("bias", ["gated", "ungated", "none"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_nothing_of_frames_by_frames_is_kept(bias, device):
    """Twice the audio, twice the memory; the gated biases alone of Large, 16 x 16 s, fp32, would be 14.6 GiB."""
    config = replace(WavLMConfig.preset("large"), position_bias=bias)
    one, two = (step_memory(config, 16, seconds * 16_000, "32-true", device=device) for seconds in (16, 32))
    assert two.kept - two.casts == pytest.approx(2 * (one.kept - one.casts), rel=0.01)
    assert one.recomputed < 1 * 2**30


def test_shares_of_sharded_weights():
    config = WavLMConfig.preset("large")
    whole, share = (step_memory(config, 1, 32_000, processes=16, sharded=sharded) for sharded in (False, True))
    for part in ("parameters", "gradients", "optimiser"):
        assert 16 * getattr(share, part) == getattr(whole, part)
    # The convolutions and the wide positional one of Large, 13 M parameters, in fp32; two layers in bf16, and the
    # gradients of one in fp32.
    assert share.exchanged == pytest.approx(4 * 13.2e6 + (2 * 2 + 4) * 12.6e6, rel=0.05)
    assert whole.casts - share.casts == pytest.approx(2 * 24 * 12.6e6, rel=0.01)  # layers come in bf16
    assert (share.front_end, share.projection, share.layers) == (whole.front_end, whole.projection, whole.layers)
    assert step_memory(config, 1, 32_000, sharded=True) == step_memory(config, 1, 32_000)  # no process to share with


def test_total_and_what_fits():
    memory = step_memory(WavLMConfig.preset("base"), 5.6, 250_000, head_bytes=1e9, processes=8)
    assert memory.total == pytest.approx(memory.kept + memory.recomputed + memory.objectives + 5 * memory.parameters)
    assert memory.objectives == 1e9
    enough = memory.total / USABLE / 1e9
    assert memory.fits(enough * 1.001)
    assert not memory.fits(enough * 0.999)


def test_precisions_without_a_formula_are_refused():
    with pytest.raises(
        UserError, match=r"trainer\.precision 64-true: memory is known only for 32-true, bf16-mixed, 16-mixed"
    ):
        step_memory(WavLMConfig.tiny(), 1, 16_000, "64-true")
