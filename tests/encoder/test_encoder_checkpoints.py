from __future__ import annotations

import argparse
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_helpers import CONFIGS, make, noise
from safetensors.torch import load_file, save_file
from torch import Tensor

from wavlm_lightning.encoder import CheckpointError, WavLM, WavLMConfig
from wavlm_lightning.encoder.checkpoints.unilm import parse_convolutions

KINDS = list(CONFIGS)


def assert_equal(a: WavLM, b: WavLM) -> None:
    assert a.state_dict().keys() == b.state_dict().keys()
    assert all(torch.equal(tensor, b.state_dict()[name]) for name, tensor in a.state_dict().items())
    with torch.no_grad():
        assert torch.equal(a(noise(1, 8000)).hidden, b(noise(1, 8000)).hidden)


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_is_exact(kind: str, tmp_path: Path):
    ours = make(kind, batch_invariant=kind != "tiny", feature_grad_mult=0.3)
    ours.save_pretrained(tmp_path / "new" / "folder")
    loaded = WavLM.from_pretrained(tmp_path / "new" / "folder")
    assert loaded.config == ours.config
    assert not loaded.training
    assert all(p.requires_grad and p.device.type == "cpu" for p in loaded.parameters())
    assert_equal(ours, loaded)
    loaded.save_pretrained(tmp_path / "again")
    for name in ("model.safetensors", "config.json", "preprocessor_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "new" / "folder" / name).read_bytes()


def test_overrides(tmp_path: Path):
    make("base").save_pretrained(tmp_path)
    assert WavLM.from_pretrained(str(tmp_path), layer_drop=0.0).config.layer_drop == 0.0
    with pytest.raises(ValueError, match="no field depth"):
        WavLM.from_pretrained(tmp_path, depth=3)
    with pytest.raises(CheckpointError, match=r"lacks encoder\.layers\.3\."):
        WavLM.from_pretrained(tmp_path, layers=4)


@pytest.mark.parametrize("kind", ["base", "hubert base"])
@pytest.mark.parametrize("style", ["bin", "sharded", "prefixed", "old names"])
def test_variants_of_the_folder(kind: str, style: str, tmp_path: Path):
    ours = make(kind)
    ours.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    state = load_file(weights)
    weights.unlink()
    if style == "bin":
        torch.save(state, tmp_path / "pytorch_model.bin")
    elif style == "sharded":
        names = sorted(state)
        shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
        for shard, part in shards.items():
            save_file({name: state[name] for name in part}, tmp_path / shard)
        index = {"weight_map": {name: shard for shard, part in shards.items() for name in part}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    elif style == "prefixed":
        prefix = "wavlm" if kind == "base" else "hubert"
        prefixed = {f"{prefix}.{name}": tensor for name, tensor in state.items()}
        save_file({**prefixed, "classifier.weight": torch.zeros(2, 64)}, weights)
    else:
        old = {"original0": "weight_g", "original1": "weight_v"}
        save_file(
            {re.sub(r"parametrizations\.weight\.(\w+)", lambda m: old[m[1]], n): t for n, t in state.items()}, weights
        )
    assert_equal(ours, WavLM.from_pretrained(tmp_path))


def test_do_normalize_decides_about_the_waveform(tmp_path: Path):
    make("base").save_pretrained(tmp_path)
    preprocessor = tmp_path / "preprocessor_config.json"
    preprocessor.write_text(json.dumps({"do_normalize": True}))
    assert WavLM.from_pretrained(tmp_path).config.normalize_waveform
    preprocessor.unlink()
    assert not WavLM.from_pretrained(tmp_path).config.normalize_waveform


def unilm_name(name: str, layered: bool) -> str:
    """Their name of our tensor: the table in the fact sheet, read from right to left."""
    norm = r"feature_extractor.conv_layers.\1.2.1." if layered else r"feature_extractor.conv_layers.\1.2."
    for ours, theirs in [
        (r"^feature_extractor\.conv_layers\.(\d+)\.conv\.", r"feature_extractor.conv_layers.\1.0."),
        (r"^feature_extractor\.conv_layers\.(\d+)\.layer_norm\.", norm),
        (r"^feature_projection\.layer_norm\.", "layer_norm."),
        (r"^feature_projection\.projection\.", "post_extract_proj."),
        (r"^masked_spec_embed$", "mask_emb"),
        (r"pos_conv_embed\.conv\.parametrizations\.weight\.original0", "pos_conv.0.weight_g"),
        (r"pos_conv_embed\.conv\.parametrizations\.weight\.original1", "pos_conv.0.weight_v"),
        (r"pos_conv_embed\.conv\.bias", "pos_conv.0.bias"),
        (r"\.attention\.gru_rel_pos_linear\.", ".self_attn.grep_linear."),
        (r"\.attention\.gru_rel_pos_const", ".self_attn.grep_a"),
        (r"\.attention\.rel_attn_embed\.", ".self_attn.relative_attention_bias."),
        (r"\.attention\.", ".self_attn."),
        (r"(layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm."),
        (r"feed_forward\.intermediate_dense", "fc1"),
        (r"feed_forward\.output_dense", "fc2"),
    ]:
        if ours.startswith("(layers") and name.startswith("feature_extractor"):
            continue
        name = re.sub(ours, theirs, name)
    return name


def unilm_checkpoint(encoder: WavLM) -> dict[str, Any]:
    config = encoder.config
    layered = config.conv_norm == "layer"
    flags = {
        "gated": {"relative_position_embedding": True, "gru_rel_pos": True},
        "ungated": {"relative_position_embedding": True},  # UniSpeech's ILS-SSL knows no gates
        "none": {},  # fairseq knows no position bias
    }[config.position_bias]
    return {
        "cfg": {
            "extractor_mode": "layer_norm" if layered else "default",
            "encoder_layers": config.layers,
            "encoder_embed_dim": config.dim,
            "encoder_ffn_embed_dim": config.ffn_dim,
            "encoder_attention_heads": config.heads,
            "layer_norm_first": config.pre_norm,
            "conv_feature_layers": "[(24,10,5)] + [(24,3,2)] * 4 + [(24,2,2)] * 2",
            "normalize": config.normalize_waveform,
            "conv_pos": config.pos_conv_kernel,
            "conv_pos_groups": config.pos_conv_groups,
            "num_buckets": 320,
            "max_distance": 800,
            "feature_grad_mult": config.feature_grad_mult,
            "encoder_layerdrop": config.layer_drop,
            "dropout_input": config.dropout_input,
            "dropout": config.dropout,
            "attention_dropout": config.attention_dropout,
            **flags,
        },
        "model": {unilm_name(name, layered): tensor for name, tensor in encoder.state_dict().items()},
    }


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "tiny"])
@pytest.mark.parametrize("container", ["unilm", "fairseq", "namespace"])
def test_unilm_checkpoint(kind: str, container: str, tmp_path: Path):
    ours = make(kind)
    content = unilm_checkpoint(ours)
    table = "encoder.layers.0.self_attn.relative_attention_bias.weight"
    assert (table in content["model"]) is ("hubert" not in kind)
    assert "encoder.layers.2.self_attn_layer_norm.bias" in content["model"]
    if container == "fairseq":
        content["cfg"] = {"model": content["cfg"], "task": {"normalize": content["cfg"].pop("normalize")}}
        content["model"] |= {"final_proj.weight": torch.zeros(8, 64), "label_embs_concat": torch.zeros(5, 8)}
    elif container == "namespace":
        content["args"] = argparse.Namespace(**content.pop("cfg"))
    torch.save(content, tmp_path / "model.pt")
    loaded = WavLM.from_pretrained(tmp_path / "model.pt")
    assert loaded.config == ours.config
    assert_equal(ours, loaded)


def test_pre_norm_ils_takes_the_norm_it_was_trained_with(tmp_path: Path):
    ours = make("large", position_bias="ungated")
    content = unilm_checkpoint(ours)
    model = content["model"]
    norms = {leaf: model[f"encoder.layer_norm.{leaf}"] for leaf in ("weight", "bias")}
    for leaf, tensor in norms.items():
        model |= {f"post_layer_norm.0.{leaf}": torch.zeros(64), f"post_layer_norm.1.{leaf}": tensor}
        model[f"encoder.layer_norm.{leaf}"] = torch.full((64,), 7.0)
    torch.save(content, tmp_path / "ils.pt")
    assert_equal(ours, WavLM.from_pretrained(tmp_path / "ils.pt"))


def test_gates_that_were_trained_on_are_kept(tmp_path: Path):
    make("ungated").save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["encoder.layers.1.attention.gru_rel_pos_const"][0, 2] = 0.5
    save_file(state, tmp_path / "model.safetensors")
    loaded = WavLM.from_pretrained(tmp_path)
    assert loaded.config.position_bias == "gated"
    attention = loaded.encoder.layers[1].attention
    gate = attention.gate(torch.randn(1, 9, 64))
    assert torch.equal(gate[:, :2], torch.ones(1, 2, 9))
    assert torch.equal(gate[:, 2], torch.full((1, 9), 1.25))


def test_convolutions_are_parsed_not_run():
    path = Path("x.pt")
    layers = parse_convolutions("[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2", path)
    assert tuple(zip(*layers, strict=True)) == ((512,) * 7, WavLMConfig().conv_kernels, WavLMConfig().conv_strides)
    for text in ("__import__('os').system('true')", "[(1,2)]", "[(1,2,3)] * 10**9", "[", "[]", "3", "[[1,2,3]]"):
        with pytest.raises(CheckpointError, match="not a list of convolutions"):
            parse_convolutions(text, path)


class Bomb:
    """What a malicious checkpoint contains: an object whose reading runs a command."""

    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, (f"touch {self.witness}",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["torch", "pickle", "bin"])
def test_malicious_pickle_is_refused_without_running_it(how: str, tmp_path: Path):
    path, witness = tmp_path / "model.pt", tmp_path / "witness"
    content = {"cfg": {}, "model": {"mask_emb": torch.zeros(4)}, "bomb": Bomb(witness)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    elif how == "torch":
        torch.save(content, path)
    else:
        make("base").save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").unlink()
        torch.save(content, tmp_path / "pytorch_model.bin")
        path = tmp_path
    with pytest.raises(CheckpointError, match="would execute code") as caught:
        WavLM.from_pretrained(path)
    assert not witness.exists()
    assert "\n" not in str(caught.value)


def spoil(folder: Path, what: str) -> Path:
    """Break a good checkpoint in one way; returns the path to load."""
    weights, config = folder / "model.safetensors", folder / "config.json"
    values: dict[str, Any] = json.loads(config.read_text())
    state: dict[str, Tensor] = load_file(weights)
    match what:
        case "missing key":
            del state["encoder.layers.1.attention.k_proj.bias"]
        case "unexpected key":
            state["encoder.surprise"] = torch.zeros(1)
        case "shape":
            state["encoder.layer_norm.bias"] = torch.zeros(3)
        case "data2vec":
            values["model_type"] = "data2vec-audio"
        case "gates in a hubert":
            values["model_type"] = "hubert"
        case "batch norm":
            values |= {"model_type": "hubert", "conv_pos_batch_norm": True}
        case "no projection norm":
            values |= {"model_type": "hubert", "feat_proj_layer_norm": False}
        case "attention adapter":
            values |= {"model_type": "wav2vec2", "adapter_attn_dim": 16}
        case "adapter":
            values["add_adapter"] = True
        case "heads":
            values["num_attention_heads"] = 7
    save_file(state, weights)
    config.write_text(json.dumps(values))
    match what:
        case "truncated":
            weights.write_bytes(weights.read_bytes()[:1000])
        case "no weights":
            weights.unlink()
        case "no config":
            config.unlink()
        case "bad json":
            config.write_text("{")
        case "nowhere":
            return folder / "nowhere"
        case "not tensors":
            torch.save({"a": 1}, folder / "x.pt")
            return folder / "x.pt"
        case "not torch":
            (folder / "x.pt").write_bytes(b"<html>404</html>")
            return folder / "x.pt"
        case "shard outside":
            weights.unlink()
            (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x.safetensors"}}')
        case "hubert.pt":
            sizes = {"encoder_layers": 3, "encoder_embed_dim": 64, "encoder_attention_heads": 4, "conv_pos_groups": 4}
            torch.save({"cfg": sizes, "model": state}, folder / "x.pt")
            return folder / "x.pt"
        case "pt without cfg":
            torch.save({"model": state}, folder / "x.pt")
            return folder / "x.pt"
        case "torchaudio without table":
            torch.save({"encoder.transformer.layers.0.layer_norm.weight": torch.zeros(4)}, folder / "x.pt")
            return folder / "x.pt"
    return folder


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing key", r"lacks encoder\.layers\.1\.attention\.k_proj\.bias$"),
        ("unexpected key", r"unexpected encoder\.surprise$"),
        ("shape", r"encoder\.layer_norm\.bias of another shape, the first \(3,\) instead of \(64,\)"),
        ("data2vec", "model_type data2vec-audio, not wavlm, hubert, wav2vec2"),
        ("gates in a hubert", r"unexpected encoder\.layers\.0\.attention\.gru_rel_pos"),
        ("batch norm", "conv_pos_batch_norm True, but only False is supported"),
        ("no projection norm", "feat_proj_layer_norm False, but only True is supported"),
        ("attention adapter", "adapter_attn_dim 16, but only None is supported"),
        ("adapter", "add_adapter True"),
        ("heads", r"dim \(64\) must be a multiple of heads \(7\)"),
        ("truncated", "not a readable safetensors file"),
        ("no weights", r"neither model\.safetensors nor pytorch_model\.bin"),
        ("no config", r"no config\.json"),
        ("bad json", "not valid JSON"),
        ("nowhere", "does not exist"),
        ("not tensors", "neither a unilm checkpoint"),
        ("not torch", r"x\.pt"),
        ("shard outside", "outside its folder"),
        ("hubert.pt", r"has unexpected encoder\.layers\.0\.attention\.gru_rel_pos"),
        ("pt without cfg", "no settings under cfg"),
        ("torchaudio without table", "it lacks encoder"),
    ],
)
def test_errors_are_one_sentence(what: str, message: str, tmp_path: Path):
    make("base").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=message) as caught:
        WavLM.from_pretrained(spoil(tmp_path, what))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_missing_mask_embedding_is_drawn(tmp_path: Path):
    ours = make("base")
    ours.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["masked_spec_embed"]
    save_file(state, tmp_path / "model.safetensors")
    loaded = WavLM.from_pretrained(tmp_path)
    assert loaded.masked_spec_embed.min() >= 0
    assert loaded.masked_spec_embed.max() <= 1
