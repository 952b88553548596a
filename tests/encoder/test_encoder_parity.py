"""Against transformers and torchaudio, both with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_helpers import CONFIGS, distance, make, noise, padded, shake
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wavlm_lightning.encoder import WavLM, padding_mask

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")

SMALL: dict[str, Any] = {
    "conv_dim": [24] * 7,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LAYERED: dict[str, Any] = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "base": ("WavLM", {}),
    "large": ("WavLM", LAYERED),
    "tiny": ("WavLM", {"feat_extract_norm": "group", "do_stable_layer_norm": True}),
    "hubert base": ("Hubert", {}),
    "hubert large": ("Hubert", LAYERED),
    "wav2vec 2.0": ("Wav2Vec2", {**LAYERED, "conv_bias": True}),
}
"""Of each kind, the names of transformers' classes and what distinguishes it from Base."""


def theirs_and_ours(folder: Path, kind: str, shake_by: int | None = 0, **config: Any) -> tuple[Any, WavLM]:
    torch.manual_seed(0)
    family, habits = KINDS[kind]
    settings = getattr(transformers, f"{family}Config")(**config, **habits)
    theirs = getattr(transformers, f"{family}Model")(settings).eval()
    if shake_by is not None:
        shake(theirs, shake_by)
    theirs.save_pretrained(folder)
    # Their model neither normalises waveforms nor leaves padding out of group norm.
    return theirs, WavLM.from_pretrained(folder, normalize_waveform=False, batch_invariant=False)


@pytest.fixture(scope="module", params=list(KINDS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, WavLM]:
    return theirs_and_ours(tmp_path_factory.mktemp("hf"), request.param, **SMALL)


def assert_same(theirs: Any, ours: WavLM, waveforms: Tensor, lengths: Tensor | None) -> None:
    mask = None
    if lengths is not None:
        mask = (~padding_mask(lengths, waveforms.shape[1])).long()
        waveforms = padded(waveforms, lengths)
    with torch.no_grad():
        expected = theirs(waveforms, attention_mask=mask, output_hidden_states=True)
        layers = ours(waveforms, lengths)
    # transformers 5.23 leaves the final norm out of hidden_states[-1] of pre-norm models; last_hidden_state has it.
    states = [*expected.hidden_states[:-1], expected.last_hidden_state]
    assert len(states) == len(layers.hidden)
    for state, hidden in zip(states, layers.hidden, strict=True):
        assert distance(hidden[~layers.padding], state[~layers.padding]) < 1e-5


@settings(max_examples=8, deadline=None)
@given(lengths=st.lists(st.integers(400, 8_000), min_size=1, max_size=3), full=st.booleans())
def test_all_hidden_states_match_transformers(pair: tuple[Any, WavLM], lengths: list[int], full: bool):
    waveforms = noise(len(lengths), max(lengths), seed=sum(lengths))
    assert_same(*pair, waveforms, None if full else torch.tensor(lengths))


def test_offsets_beyond_the_last_bucket_match_transformers(pair: tuple[Any, WavLM]):
    assert_same(*pair, noise(1, 400 + 320 * 900), None)


def test_masked_frames_match_transformers(pair: tuple[Any, WavLM]):
    theirs, ours = pair
    waveforms = noise(2, 16_000)
    mask = torch.rand(2, 49, generator=torch.Generator().manual_seed(0)) < 0.5
    theirs.config.apply_spec_augment = True
    with torch.no_grad():
        expected = theirs(waveforms, mask_time_indices=mask).last_hidden_state
        assert distance(ours(waveforms, mask=mask).hidden[-1], expected) < 1e-5


def test_gradients_match_transformers(pair: tuple[Any, WavLM]):
    theirs, ours = pair
    waveforms = noise(2, 16_000)
    weights = torch.randn(2, 49, 64, generator=torch.Generator().manual_seed(1))
    (theirs(waveforms).last_hidden_state * weights).sum().backward()
    (ours(waveforms).hidden[-1] * weights).sum().backward()
    their_gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        if name == "masked_spec_embed":
            continue
        expected = their_gradients[name]
        if "feature_extractor" in name:  # scaled on the way, by 0.1 in Base
            expected = expected * ours.config.feature_grad_mult
        assert parameter.grad is not None
        # Relative to the values themselves as well: k_proj.bias has no gradient but rounding.
        assert (parameter.grad - expected).abs().max() < 1e-4 * expected.abs().max() + 1e-3, name


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_transformers_loads_ours(kind: str, tmp_path: Path):
    ours = make(kind, normalize_waveform=False, batch_invariant=False)
    ours.save_pretrained(tmp_path)
    theirs, info = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(theirs).__name__ == ("HubertModel" if "hubert" in kind else "WavLMModel")
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    assert not theirs.config.apply_spec_augment
    lengths = torch.tensor([16_000, 9_000])
    assert_same(theirs.eval(), ours, noise(2, 16_000), lengths)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    assert extractor.do_normalize is False


@pytest.mark.slow
def test_full_base_matches_transformers(tmp_path: Path):
    theirs, ours = theirs_and_ours(tmp_path, "base", shake_by=None)
    assert ours.parameter_count() == 94_381_936
    assert_same(theirs, ours, noise(2, 8_000), torch.tensor([8_000, 5_000]))


@pytest.mark.slow
@pytest.mark.long
def test_full_large_matches_transformers(tmp_path: Path):
    sizes: dict[str, Any] = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    }
    theirs, ours = theirs_and_ours(tmp_path, "large", shake_by=None, **sizes)
    assert ours.parameter_count() == 315_453_120
    assert_same(theirs, ours, noise(2, 4_000), torch.tensor([4_000, 2_500]))


@pytest.mark.parametrize("kind", ["base", "large"])
def test_torchaudio_state_dict_gives_the_same(kind: str, tmp_path: Path):
    torchaudio = pytest.importorskip("torchaudio")
    large = kind == "large"
    theirs = torchaudio.models.wavlm_model(
        extractor_mode="layer_norm" if large else "group_norm",
        extractor_conv_layer_config=[(24, 10, 5)] + [(24, 3, 2)] * 4 + [(24, 2, 2)] * 2,
        extractor_conv_bias=False,
        encoder_embed_dim=64,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=16,
        encoder_pos_conv_groups=4,
        encoder_num_layers=3,
        encoder_num_heads=4,
        encoder_num_buckets=320,
        encoder_max_distance=800,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=96,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=large,
        encoder_layer_drop=0.0,
        aux_num_out=None,
    ).eval()
    shake(theirs)
    torch.save(theirs.state_dict(), tmp_path / "model.pt")
    ours = WavLM.from_pretrained(tmp_path / "model.pt", normalize_waveform=False)
    assert ours.config.pre_norm is large
    waveforms = noise(2, 16_000)
    with torch.no_grad():
        expected, _ = theirs(waveforms)
        assert distance(ours(waveforms).hidden[-1], expected) < 1e-5
