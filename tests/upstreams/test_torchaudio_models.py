"""torchaudio's models: the numbers of transformers for the same weights, whatever a row is batched with."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
from torchaudio.models.wav2vec2.utils import import_huggingface_model
from upstream_helpers import LENGTHS, assert_close, assert_promise, family, save, shake, utterances

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.upstreams import HuggingFaceUpstream, TorchaudioModel, TorchaudioUpstream
from wavlm_lightning.upstreams.torchaudio_models import bundles

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
SAME_IN_BOTH = ["wav2vec 2.0 base", "wav2vec 2.0 large", "hubert base", "hubert large", "wavlm base", "wavlm large"]
SMALL: dict[str, Any] = {
    "extractor_conv_layer_config": [(16, k, s) for k, s in [(10, 5)] + [(3, 2)] * 4 + [(2, 2)] * 2],
    "encoder_embed_dim": 32,
    "encoder_pos_conv_kernel": 16,
    "encoder_pos_conv_groups": 4,
    "encoder_num_layers": 2,
    "encoder_num_heads": 4,
    "encoder_ff_interm_features": 48,
}


@pytest.mark.parametrize("name", SAME_IN_BOTH)
@pytest.mark.parametrize("normalize", [False, True])
def test_the_numbers_of_transformers(name: str, normalize: bool, tmp_path: Path):
    pytest.importorskip("transformers")
    theirs = family(name)
    upstream = TorchaudioModel(import_huggingface_model(theirs), normalize, "imported")
    reference = HuggingFaceUpstream(save(theirs, tmp_path, do_normalize=normalize))
    padded = torch.nn.utils.rnn.pad_sequence(utterances(LENGTHS), batch_first=True)
    ours, expected = upstream(padded, torch.tensor(LENGTHS)), reference(padded, torch.tensor(LENGTHS))
    assert (upstream.dim, upstream.num_layers, upstream.frame_rate) == (32, 3, 50.0)
    assert ours.lengths.tolist() == expected.lengths.tolist()
    assert_close(ours.hidden, expected.hidden, 1e-4)
    assert_promise(upstream, LENGTHS)


def small(bundle: str) -> Any:
    """A published bundle with everything but its size."""
    published = getattr(torchaudio.pipelines, bundle)
    return dataclasses.replace(published, _params={**published._params, **SMALL})


def weights_of(bundle: Any, path: Path, seed: int = 0) -> Path:
    """What torchaudio's server has: for speech recognition, with outputs that torchaudio cuts away."""
    kind = torchaudio.models.wavlm_model if bundle._model_type == "WavLM" else torchaudio.models.wav2vec2_model
    outputs = bundle._params["aux_num_out"]
    cut = len(getattr(bundle, "_remove_aux_axis", ()))
    model = kind(**{**bundle._params, "aux_num_out": outputs and outputs + cut})
    shake(model, seed)
    torch.save(model.state_dict(), path)
    return path


@pytest.mark.parametrize(
    "bundle",
    ["WAV2VEC2_BASE", "WAV2VEC2_ASR_LARGE_LV60K_960H", "HUBERT_BASE", "HUBERT_XLARGE", "WAVLM_BASE", "WAVLM_LARGE"],
)
def test_bundles_with_weights_from_a_file(bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shrunk = small(bundle)
    monkeypatch.setattr(torchaudio.pipelines, bundle, shrunk)
    upstream = TorchaudioUpstream(bundle, weights=str(weights_of(shrunk, tmp_path / "weights.pt")))
    assert upstream.label == bundle and upstream.normalize == ("LARGE" in bundle)
    assert_promise(upstream, LENGTHS)
    # torchaudio's own pipeline on one utterance, with torchaudio's own normalisation.
    model = torchaudio.models.wav2vec2_model if shrunk._model_type == "Wav2Vec2" else torchaudio.models.wavlm_model
    theirs = model(**{**shrunk._params, "aux_num_out": None}).eval()
    state = torch.load(tmp_path / "weights.pt", weights_only=True)
    theirs.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("aux.")})
    waveform = utterances([8_000])[0][None]
    given = torch.nn.functional.layer_norm(waveform, waveform.shape) if upstream.normalize else waveform
    with torch.no_grad():
        blocks, last = theirs.extract_features(given)[0], theirs(given)[0]
    hidden = upstream(waveform, torch.tensor([8_000])).hidden
    for ours, expected in zip(hidden[1:-1], blocks[:-1], strict=True):
        assert_close(ours, expected)
    assert_close(hidden[-1], last)


@pytest.mark.parametrize("bundle", ["HUBERT_BASE", "HUBERT_LARGE", "HUBERT_ASR_LARGE"])
def test_bundles_download_through_torchaudio_without_executing(
    bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shrunk = small(bundle)
    monkeypatch.setattr(torchaudio.pipelines, bundle, shrunk)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / Path(shrunk._path).name
    cached.parent.mkdir(parents=True)
    weights_of(shrunk, cached)
    upstream = TorchaudioUpstream(bundle, label="ours")
    from_file = TorchaudioUpstream(bundle, weights=str(cached))
    assert upstream.label == "ours" and upstream.fingerprint() == from_file.fingerprint()
    torch.save({"bomb": Bomb(tmp_path / "witness")}, cached)
    with pytest.raises(UserError, match=r"torchaudio:HUBERT_\w+: its weights .*UnpicklingError"):
        TorchaudioUpstream(bundle)
    assert not (tmp_path / "witness").exists()


class Bomb:
    """What a malicious checkpoint contains: an object whose reading runs a command."""

    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.witness}",)


def test_fingerprint_follows_weights_and_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shrunk = small("WAVLM_BASE")
    monkeypatch.setattr(torchaudio.pipelines, "WAVLM_BASE", shrunk)
    path = str(weights_of(shrunk, tmp_path / "a.pt"))
    same = TorchaudioUpstream("WAVLM_BASE", weights=path).fingerprint()
    assert same == TorchaudioUpstream("WAVLM_BASE", weights=path, label="x").fingerprint()
    other = TorchaudioUpstream("WAVLM_BASE", weights=str(weights_of(shrunk, tmp_path / "b.pt", seed=1)))
    assert same != other.fingerprint()
    changes = {"encoder_max_distance": 100, "encoder_num_heads": 4, "encoder_layer_norm_first": True}
    seen = {same}
    for name, value in changes.items():
        changed = dataclasses.replace(shrunk, _params={**shrunk._params, name: value})
        monkeypatch.setattr(torchaudio.pipelines, "WAVLM_BASE", changed)
        seen.add(TorchaudioUpstream("WAVLM_BASE", weights=path).fingerprint())
    assert len(seen) == 3  # heads were four before
    monkeypatch.setattr(torchaudio.pipelines, "WAVLM_BASE", dataclasses.replace(shrunk, _normalize_waveform=True))
    assert TorchaudioUpstream("WAVLM_BASE", weights=path).fingerprint() not in seen


def test_trained_with_the_head_every_layer_is_there():
    model = torchaudio.models.wav2vec2_model(
        **{**torchaudio.pipelines.HUBERT_BASE._params, **SMALL, "encoder_layer_drop": 0.9}
    )
    upstream = TorchaudioModel(model, normalize=False, label="x", frozen=False).train()
    waveforms = torch.nn.utils.rnn.pad_sequence(utterances([8_000, 5_000]), batch_first=True)
    hidden = upstream(waveforms, torch.tensor([8_000, 5_000])).hidden
    assert hidden.shape[0] == 3
    hidden.sum().backward()
    assert all(p.grad is not None for p in upstream.parameters())
    frozen = TorchaudioModel(model, normalize=False, label="x").train()
    assert not frozen.training and not any(p.requires_grad for p in frozen.parameters())


def test_bundles_are_torchaudios():
    assert {"WAV2VEC2_BASE", "WAV2VEC2_LARGE_LV60K", "HUBERT_XLARGE", "WAVLM_BASE_PLUS"} < set(bundles())
    assert "TACOTRON2_WAVERNN_CHAR_LJSPEECH" not in bundles()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("bundle", r"torchaudio:HUBERT_BAES: .* did you mean 'HUBERT_BASE'\?"),
        (
            "offline",
            r"torchaudio:HUBERT_BASE: its weights could neither be read from the torch hub cache nor downloaded",
        ),
        ("no file", r"torchaudio:HUBERT_BASE: no file"),
        ("other sizes", r"does not fit its configuration"),
        ("not tensors", r"does not hold a dict of tensors"),
        ("cut", r"not a readable PyTorch file"),
    ],
)
def test_errors_are_one_sentence(what: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    shrunk = small("HUBERT_BASE")
    path = weights_of(shrunk, tmp_path / "weights.pt")
    params = {**shrunk._params, "encoder_num_layers": 3 if what == "other sizes" else 2}
    nowhere = "https://localhost:1/x.pth"
    changed = dataclasses.replace(shrunk, _params=params, _path=nowhere)
    monkeypatch.setattr(torchaudio.pipelines, "HUBERT_BASE", changed)
    match what:
        case "not tensors":
            torch.save({"a": 1}, path)
        case "cut":
            path.write_bytes(path.read_bytes()[:1_000])
        case "no file":
            path.unlink()
    with pytest.raises(UserError, match=message) as caught:
        TorchaudioUpstream(
            "HUBERT_BAES" if what == "bundle" else "HUBERT_BASE", weights=None if what == "offline" else str(path)
        )
    assert "\n" not in str(caught.value)
