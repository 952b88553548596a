"""Tiny models of other libraries, waveforms, and the one promise every upstream makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wavlm_lightning.upstreams import Upstream

LENGTHS = [9_000, 5_333, 400, 7_119]
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec 2.0 base": ("Wav2Vec2", {}),
    "wav2vec 2.0 large": ("Wav2Vec2", LARGE),
    "hubert base": ("Hubert", {}),
    "hubert large": ("Hubert", LARGE),
    "distilhubert": ("Hubert", {"feat_proj_layer_norm": False}),
    "hubert with batch norm": ("Hubert", {"conv_pos_batch_norm": True}),
    "wavlm base": ("WavLM", {}),
    "wavlm large": ("WavLM", LARGE),
    "wavlm pre-norm": ("WavLM", {"do_stable_layer_norm": True}),
    "data2vec": ("Data2VecAudio", {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5}),
    "unispeech base": ("UniSpeech", {}),
    "unispeech-sat large": ("UniSpeechSat", LARGE),
}


def shake(model: nn.Module, seed: int = 0) -> None:
    """Move all weights and running statistics away from their initial values, where most parts do too little."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                noise = 0.1 * torch.randn(tensor.shape, generator=generator)
                tensor.add_(noise.abs() if name.endswith("running_var") else noise)


def family(name: str, seed: int = 0, **config: Any) -> Any:
    """A tiny random model of the transformers library, in eval mode."""
    import transformers

    kind, special = FAMILIES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        settings = getattr(transformers, f"{kind}Config")(**{**SIZES, **special, **config})
        model = getattr(transformers, f"{kind}Model")(settings)
    shake(model, seed)
    return model.eval()


def save(model: Any, folder: Path, do_normalize: bool | None = None) -> str:
    """Write a model as the hub has it."""
    import transformers

    model.save_pretrained(folder)
    if do_normalize is not None:
        transformers.Wav2Vec2FeatureExtractor(do_normalize=do_normalize).save_pretrained(folder)
    return str(folder)


def utterances(lengths: list[int], seed: int = 0) -> list[Tensor]:
    """Waveforms of different loudness, with an offset."""
    generator = torch.Generator().manual_seed(seed)
    return [0.02 + 0.05 * (place + 1) * torch.randn(n, generator=generator) for place, n in enumerate(lengths)]


def assert_promise(upstream: Upstream, lengths: list[int], tolerance: float = 1e-5) -> None:
    """A row alone is the row in a batch; shapes are as said; the same twice."""
    rows = utterances(lengths, seed=sum(lengths))
    # Wider than the longest row, and not zero behind the ends: neither may matter.
    padded = torch.full((len(rows), max(lengths) + 777), 0.5)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = row
    together = upstream(padded, torch.tensor(lengths))
    assert together.hidden.shape == (upstream.num_layers, len(rows), int(together.lengths.max()), upstream.dim)
    assert together.frame_rate == upstream.frame_rate
    assert torch.equal(together.hidden, upstream(padded, torch.tensor(lengths)).hidden)
    assert not together.hidden.requires_grad and together.hidden.isfinite().all()
    assert (together.hidden[:, together.padding] == 0).all()
    for place, row in enumerate(rows):
        alone = upstream(row[None], torch.tensor([len(row)]))
        frames = int(alone.lengths[0])
        assert frames == alone.hidden.shape[2] == int(together.lengths[place])
        difference = (together.hidden[:, place, :frames] - alone.hidden[:, 0]).abs().amax((1, 2))
        assert (difference <= tolerance * alone.hidden.abs().amax((1, 2, 3)).clamp(min=1)).all()


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    """Equal up to a share of the largest value."""
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()
