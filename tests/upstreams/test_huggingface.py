"""Models of the transformers library: the library's own numbers for each utterance, whatever it is batched with."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from upstream_helpers import FAMILIES, LENGTHS, assert_close, assert_promise, family, save, utterances

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.upstreams import HuggingFaceUpstream, WavLMUpstream
from wavlm_lightning.upstreams.specs import build

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_librarys_own_numbers(name: str, tmp_path: Path):
    theirs = family(name)
    upstream = build(f"hf:{save(theirs, tmp_path, do_normalize=False)}")
    assert isinstance(upstream, HuggingFaceUpstream)
    assert (upstream.dim, upstream.num_layers, upstream.frame_rate) == (32, 3, 50.0)
    for waveform in utterances([400, 5_333, 8_000]):
        with torch.no_grad():
            expected = theirs(waveform[None], output_hidden_states=True)
        # transformers 5.23 leaves the final norm of pre-norm models out of hidden_states[-1].
        states = torch.stack([*expected.hidden_states[:-1], expected.last_hidden_state])
        layers = upstream(waveform[None], torch.tensor([len(waveform)]))
        assert layers.lengths.tolist() == [states.shape[2]]
        assert_close(layers.hidden, states)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("normalize", [False, True])
def test_a_row_alone_is_the_row_in_a_batch(name: str, normalize: bool, tmp_path: Path):
    assert_promise(build(f"hf:{save(family(name), tmp_path, do_normalize=normalize)}"), LENGTHS)


@pytest.fixture(scope="module")
def group_norm(tmp_path_factory: pytest.TempPathFactory) -> HuggingFaceUpstream:
    return HuggingFaceUpstream(save(family("hubert base"), tmp_path_factory.mktemp("hubert")))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(400, 9_000), min_size=1, max_size=4))
def test_batches_of_any_lengths(group_norm: HuggingFaceUpstream, lengths: list[int]):
    assert_promise(group_norm, lengths)


def test_the_library_itself_leaks_padding():
    """Why rows are convolved one by one: were this false, all of it would be for nothing."""
    theirs = family("hubert base")
    short, long = utterances([5_000, 9_000])
    padded = torch.nn.utils.rnn.pad_sequence([short, long], batch_first=True)
    mask = torch.arange(9_000)[None] < torch.tensor([[5_000], [9_000]])
    with torch.no_grad():
        alone = theirs(short[None]).last_hidden_state[0]
        together = theirs(padded, attention_mask=mask.long()).last_hidden_state[0, : len(alone)]
    assert (alone - together).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["wavlm base", "wavlm large", "wavlm pre-norm"])
@pytest.mark.parametrize("normalize", [False, True, None])
def test_wavlm_is_our_wavlm(name: str, normalize: bool | None, tmp_path: Path):
    folder = save(family(name), tmp_path, do_normalize=normalize)
    theirs, ours = build(f"hf:{folder}"), build(folder)
    assert isinstance(theirs, HuggingFaceUpstream) and isinstance(ours, WavLMUpstream)
    padded = torch.nn.utils.rnn.pad_sequence(utterances(LENGTHS), batch_first=True)
    a, b = theirs(padded, torch.tensor(LENGTHS)), ours(padded, torch.tensor(LENGTHS))
    assert a.lengths.tolist() == b.lengths.tolist() and a.frame_rate == b.frame_rate
    assert_close(a.hidden, b.hidden, 1e-4)


def test_normalisation_is_the_checkpoints_unless_said(tmp_path: Path):
    model = family("hubert large")
    waveform = utterances([8_000])[0][None]
    lengths = torch.tensor([8_000])
    plain = HuggingFaceUpstream(save(model, tmp_path / "plain", do_normalize=False))
    normed = HuggingFaceUpstream(save(model, tmp_path / "normed", do_normalize=True))
    assert not plain.normalize and normed.normalize
    assert HuggingFaceUpstream(save(model, tmp_path / "silent")).normalize  # layer norms in the convolutions
    assert not HuggingFaceUpstream(save(family("hubert base"), tmp_path / "base")).normalize
    by_hand = torch.nn.functional.layer_norm(waveform, waveform.shape[-1:])
    assert_close(normed(waveform, lengths).hidden, plain(by_hand, lengths).hidden)
    import transformers

    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(tmp_path / "normed")
    values = extractor(waveform[0].numpy(), sampling_rate=16_000, return_tensors="pt").input_values
    assert_close(normed(waveform, lengths).hidden, plain(values, lengths).hidden, 1e-3)
    forced = HuggingFaceUpstream(str(tmp_path / "normed"), normalize=False)
    assert torch.equal(forced(waveform, lengths).hidden, plain(waveform, lengths).hidden)
    assert forced.fingerprint() == plain.fingerprint() != normed.fingerprint()


def test_fingerprint_follows_weights_and_settings_not_the_place(tmp_path: Path):
    same = HuggingFaceUpstream(save(family("wav2vec 2.0 base"), tmp_path / "a")).fingerprint()
    assert same == HuggingFaceUpstream(save(family("wav2vec 2.0 base"), tmp_path / "b"), label="x").fingerprint()
    assert same != HuggingFaceUpstream(save(family("wav2vec 2.0 base", seed=1), tmp_path / "c")).fingerprint()
    assert same != HuggingFaceUpstream(str(tmp_path / "a"), overrides={"layer_norm_eps": 1e-3}).fingerprint()


def test_trained_with_the_head_it_neither_drops_layers_nor_masks(tmp_path: Path):
    model = family("hubert base", layerdrop=0.9, mask_time_prob=0.9, mask_time_length=2, hidden_dropout=0.0)
    off = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "feat_proj_dropout": 0.0}
    upstream = HuggingFaceUpstream(save(model, tmp_path), frozen=False, overrides=off)
    waveforms, lengths = torch.nn.utils.rnn.pad_sequence(utterances([8_000, 5_000]), True), torch.tensor([8_000, 5_000])
    trained = upstream.train()(waveforms, lengths).hidden
    assert upstream.training
    trained.sum().backward()
    assert all(p.grad is not None for p in upstream.parameters())
    assert torch.equal(trained, upstream.eval()(waveforms, lengths).hidden)
    frozen = HuggingFaceUpstream(str(tmp_path))
    assert not frozen.train().training and not any(p.requires_grad for p in frozen.parameters())
    assert_close(frozen(waveforms, lengths).hidden, trained)


def test_a_head_and_half_precision_are_left_behind(tmp_path: Path):
    import transformers

    fine_tuned = transformers.HubertForCTC(family("hubert base").config)
    fine_tuned.hubert = family("hubert base")
    whole = HuggingFaceUpstream(save(family("hubert base"), tmp_path / "whole"))
    headless = HuggingFaceUpstream(save(fine_tuned, tmp_path / "ctc"))
    assert headless.fingerprint() == whole.fingerprint()
    waveform, lengths = utterances([8_000])[0][None], torch.tensor([8_000])
    expected = whole(waveform, lengths).hidden
    assert torch.equal(headless(waveform, lengths).hidden, expected)
    half = HuggingFaceUpstream(save(family("hubert base").half(), tmp_path / "half"))
    assert next(half.parameters()).dtype == torch.float32
    assert_close(half(waveform, lengths).hidden, expected, 2e-2)


class Bomb:
    """What a malicious checkpoint contains: an object whose reading runs a command."""

    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.witness}",)


def test_malicious_weights_do_not_run(tmp_path: Path):
    model = family("hubert base")
    source = save(model, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save({**model.state_dict(), "bomb": Bomb(tmp_path / "witness")}, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(UserError, match="not loadable by the transformers library"):
        HuggingFaceUpstream(source)
    assert not (tmp_path / "witness").exists()


def test_code_beside_the_weights_does_not_run(tmp_path: Path):
    source = save(family("hubert base"), tmp_path / "model")
    (tmp_path / "model" / "evil.py").write_text(f"open({str(tmp_path / 'witness')!r}, 'w')\n")
    config = tmp_path / "model" / "config.json"
    classes = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    values = {**json.loads(config.read_text()), "auto_map": classes}
    config.write_text(json.dumps(values))
    assert HuggingFaceUpstream(source).num_layers == 3
    config.write_text(json.dumps({**values, "model_type": "evil"}))
    with pytest.raises(UserError, match="not loadable by the transformers library"):
        HuggingFaceUpstream(source)
    assert not (tmp_path / "witness").exists()


def test_too_short_is_said(group_norm: HuggingFaceUpstream):
    with pytest.raises(UserError, match="399 samples is shorter than the 400"):
        group_norm(torch.randn(2, 800), torch.tensor([800, 399]))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", r"neither a folder here nor available from the Hugging Face hub"),
        ("no folder", r"no such folder"),
        ("weights", r"not loadable by the transformers library"),
        ("empty", r"not loadable by the transformers library"),
        ("cut", r"not loadable by the transformers library"),
        ("depth", r"they lack encoder\.layers\.2\."),
        ("width", r"not loadable by the transformers library"),
        ("kind", r"model_type bert; give one of wav2vec2"),
        ("rate", r"needs audio at 8000 Hz"),
        ("field", r"no field 'widht'"),
        ("dropped", r"layerdrop is always off"),
    ],
)
def test_errors_are_one_sentence(what: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    source = save(family("hubert base"), tmp_path / "model", do_normalize=True)
    config, weights = tmp_path / "model" / "config.json", tmp_path / "model" / "model.safetensors"
    values = json.loads(config.read_text())
    overrides = {"field": {"widht": 3}, "dropped": {"layerdrop": 0.1}}.get(what)
    match what:
        case "missing":
            source = "nobody/nothing"
        case "no folder":
            source = str(tmp_path / "elsewhere")
        case "weights":
            weights.unlink()
        case "empty":
            config.unlink()
        case "cut":
            weights.write_bytes(weights.read_bytes()[:2_000])
        case "depth":
            config.write_text(json.dumps({**values, "num_hidden_layers": 3}))
        case "width":
            config.write_text(json.dumps({**values, "hidden_size": 64}))
        case "kind":
            config.write_text(json.dumps({**values, "model_type": "bert"}))
        case "rate":
            preprocessor = tmp_path / "model" / "preprocessor_config.json"
            preprocessor.write_text(json.dumps({**json.loads(preprocessor.read_text()), "sampling_rate": 8_000}))
    with pytest.raises(UserError, match=message) as caught:
        HuggingFaceUpstream(source, overrides=overrides)
    assert "\n" not in str(caught.value)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'transformers.*\(extra \[hf\]\)"):
        HuggingFaceUpstream("facebook/hubert-base-ls960")
