"""fairseq's files without fairseq: the weights as they were, and nothing in the file runs."""

from __future__ import annotations

import argparse
import enum
import pickle
import re
import sys
import types
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
from torchaudio.models.wav2vec2.utils.import_fairseq import _convert_state_dict
from upstream_helpers import LENGTHS, assert_promise, shake, utterances

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.upstreams import FairseqUpstream, TorchaudioModel
from wavlm_lightning.upstreams.fairseq_files import Inert, plain, read, words
from wavlm_lightning.upstreams.specs import build

CONVOLUTIONS = "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2"
NAMES = [  # torchaudio's, and those of fairseq's HubertModel and Wav2Vec2Model
    (r"feature_extractor\.conv_layers\.(\d+)\.conv\.(.+)", r"feature_extractor.conv_layers.\1.0.\2"),
    (r"encoder\.feature_projection\.layer_norm\.(.+)", r"layer_norm.\1"),
    (r"encoder\.feature_projection\.projection\.(.+)", r"post_extract_proj.\1"),
    (r"encoder\.transformer\.pos_conv_embed\.conv\.bias", "encoder.pos_conv.0.bias"),
    (r"encoder\.transformer\.pos_conv_embed\.conv\.parametrizations\.weight\.original0", "encoder.pos_conv.0.weight_g"),
    (r"encoder\.transformer\.pos_conv_embed\.conv\.parametrizations\.weight\.original1", "encoder.pos_conv.0.weight_v"),
    (r"encoder\.transformer\.layer_norm\.(.+)", r"encoder.layer_norm.\1"),
    (r"encoder\.transformer\.layers\.(\d+)\.attention\.(.+)", r"encoder.layers.\1.self_attn.\2"),
    (r"encoder\.transformer\.layers\.(\d+)\.layer_norm\.(.+)", r"encoder.layers.\1.self_attn_layer_norm.\2"),
    (r"encoder\.transformer\.layers\.(\d+)\.feed_forward\.intermediate_dense\.(.+)", r"encoder.layers.\1.fc1.\2"),
    (r"encoder\.transformer\.layers\.(\d+)\.feed_forward\.output_dense\.(.+)", r"encoder.layers.\1.fc2.\2"),
    (r"encoder\.transformer\.layers\.(\d+)\.final_layer_norm\.(.+)", r"encoder.layers.\1.final_layer_norm.\2"),
]


def model_of(large: bool, seed: int = 0) -> torchaudio.models.Wav2Vec2Model:
    published = (torchaudio.pipelines.HUBERT_LARGE if large else torchaudio.pipelines.HUBERT_BASE)._params
    small = {
        "extractor_conv_layer_config": [(16, k, s) for k, s in [(10, 5)] + [(3, 2)] * 4 + [(2, 2)] * 2],
        "extractor_conv_bias": large,
        "encoder_embed_dim": 32,
        "encoder_pos_conv_kernel": 16,
        "encoder_pos_conv_groups": 4,
        "encoder_num_layers": 2,
        "encoder_num_heads": 4,
        "encoder_ff_interm_features": 48,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = torchaudio.models.wav2vec2_model(**{**published, **small}).eval()
    shake(model, seed)
    return model


def fairseq_weights(model: torch.nn.Module, large: bool) -> dict[str, torch.Tensor]:
    norm = r"feature_extractor.conv_layers.\1.2.1.\2" if large else r"feature_extractor.conv_layers.\1.2.\2"
    names = [*NAMES, (r"feature_extractor\.conv_layers\.(\d+)\.layer_norm\.(.+)", norm)]
    weights = OrderedDict()
    for name, tensor in model.state_dict().items():
        (theirs,) = [match.expand(new) for old, new in names if (match := re.fullmatch(old, name))]
        weights[theirs] = tensor
    # torchaudio's own importer, which needs a living fairseq model, agrees about the names (weight norm's old ones).
    modern = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    imported = {re.sub(r"weight_[gv]$", lambda m: modern[m[0]], name) for name in _convert_state_dict(weights)}
    assert imported == set(model.state_dict())
    weights["mask_emb"] = torch.rand(32)
    weights["label_embs_concat"] = torch.rand(12, 8)
    weights["final_proj.weight"], weights["final_proj.bias"] = torch.rand(8, 32), torch.rand(8)
    weights["quantizer.vars"], weights["project_q.weight"] = torch.rand(1, 4, 4), torch.rand(4, 4)
    return weights


def settings_of(large: bool) -> dict[str, Any]:
    return {
        "_name": "hubert",
        "extractor_mode": "layer_norm" if large else "default",
        "encoder_layers": 2,
        "encoder_embed_dim": 32,
        "encoder_ffn_embed_dim": 48,
        "encoder_attention_heads": 4,
        "activation_fn": "gelu",
        "layer_norm_first": large,
        "conv_feature_layers": CONVOLUTIONS,
        "conv_bias": large,
        "conv_pos": 16,
        "conv_pos_groups": 4,
    }


@pytest.fixture
def foreign() -> Iterator[dict[str, type]]:
    """Classes as fairseq and omegaconf have them, which exist while a file is written and not when it is read."""

    def holder(module: str, name: str, bases: tuple[type, ...] = ()) -> type:
        made = type(name, bases, {"__module__": module})
        sys.modules.setdefault(module, types.ModuleType(module))
        setattr(sys.modules[module], name, made)
        return made

    mode = enum.Enum("ChoiceEnum", {"default": "default", "layer_norm": "layer_norm"}, module="fairseq_gone_constants")
    sys.modules["fairseq_gone_constants"] = module = types.ModuleType("fairseq_gone_constants")
    module.ChoiceEnum = mode  # type: ignore[attr-defined]
    classes = {
        "Dictionary": holder("fairseq_gone_data", "Dictionary"),
        "DictConfig": holder("omegaconf_gone", "DictConfig"),
        "AnyNode": holder("omegaconf_gone", "AnyNode"),
        "Metadata": holder("omegaconf_gone", "ContainerMetadata"),
        "Mode": mode,
    }
    yield classes
    for name in [name for name in sys.modules if name.startswith(("fairseq_gone", "omegaconf_gone"))]:
        del sys.modules[name]


def configured(value: Any, foreign: dict[str, type], parent: Any = None) -> Any:
    """Plain settings as omegaconf pickles them: nodes with parents and metadata."""
    node = foreign["DictConfig" if isinstance(value, dict) else "AnyNode"]()
    node._parent, node._metadata = parent, foreign["Metadata"]()
    node._metadata.ref_type, node._metadata.flags = Any, {"readonly": None}
    if isinstance(value, dict):
        node._content = {key: configured(item, foreign, node) for key, item in value.items()}
    else:
        node._val = foreign["Mode"](value) if value in ("default", "layer_norm") else value
    return node


def checkpoint(kind: str, large: bool, foreign: dict[str, type], seed: int = 0) -> dict[str, Any]:
    model, task = settings_of(large), {"_name": "hubert_pretraining", "normalize": large, "sample_rate": 16_000}
    weights = fairseq_weights(model_of(large, seed), large)
    dictionary = foreign["Dictionary"]()
    dictionary.symbols, dictionary.indices, dictionary.count = ["<s>", "0"], {"<s>": 0, "0": 1}, [1, 1]
    state = {"task_state": {"dictionaries": [dictionary]}, "extra_state": {"epoch": 3}, "best_loss": 1.5}
    match kind:
        case "plain":
            return {"args": None, "cfg": {"model": model, "task": task}, "model": weights, **state}
        case "omegaconf":
            return {"cfg": configured({"model": model, "task": task}, foreign), "model": weights, **state}
        case "half namespace":
            return {"cfg": {"model": argparse.Namespace(**model), "task": task}, "model": weights, **state}
        case "args":
            arguments = argparse.Namespace(**model, task="audio_pretraining", normalize=large, arch="wav2vec2")
            return {"args": arguments, "model": weights, **state}
        case _:
            return {"model_cfg": model, "task_cfg": task, "model_weight": weights, "dictionaries_symbols": [["<s>"]]}


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("kind", ["plain", "omegaconf", "half namespace", "args", "s3prl"])
@pytest.mark.parametrize("zipped", [True, False])
def test_every_container_gives_the_same(kind: str, large: bool, zipped: bool, foreign: Any, tmp_path: Path):
    path = tmp_path / "hubert.pt"
    torch.save(checkpoint(kind, large, foreign), path, _use_new_zipfile_serialization=zipped)
    for name in [name for name in sys.modules if name.startswith(("fairseq_gone", "omegaconf_gone"))]:
        del sys.modules[name]
    upstream = build(str(path))
    assert isinstance(upstream, FairseqUpstream)
    assert (upstream.dim, upstream.num_layers, upstream.frame_rate) == (32, 3, 50.0)
    assert upstream.normalize is large
    reference = TorchaudioModel(model_of(large), normalize=large, label="as built")
    padded = torch.nn.utils.rnn.pad_sequence(utterances(LENGTHS), batch_first=True)
    assert torch.equal(upstream(padded, torch.tensor(LENGTHS)).hidden, reference(padded, torch.tensor(LENGTHS)).hidden)
    if kind == "plain" and zipped:
        assert_promise(upstream, LENGTHS)


def test_fingerprint_follows_the_weights(foreign: Any, tmp_path: Path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.save(checkpoint("plain", False, foreign, seed), tmp_path / f"{name}.pt")
    a, b, c = (FairseqUpstream(str(tmp_path / f"{name}.pt"), label=name) for name in "abc")
    assert a.fingerprint() == b.fingerprint() != c.fingerprint()
    assert (a.label, b.label) == ("a", "b")


def test_strangers_are_kept_and_not_run(foreign: Any, tmp_path: Path):
    content = checkpoint("omegaconf", True, foreign)
    torch.save({**content, "counts": defaultdict(int)}, tmp_path / "x.pt")
    loaded = read(tmp_path / "x.pt")
    (dictionary,) = loaded["task_state"]["dictionaries"]
    assert type(dictionary) is Inert and dictionary.state["symbols"] == ["<s>", "0"]
    assert plain(loaded["cfg"])["model"] == settings_of(True)
    assert loaded["extra_state"] == {"epoch": 3}
    assert "encoder.pos_conv.0.weight_g" in words(tmp_path / "x.pt")


class Calls:
    """A pickle that calls a function when it is read."""

    def __init__(self, function: Any, *arguments: Any):
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("how", ["os", "builtins", "subprocess", "importlib", "state", "bare"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_malicious_pickles_do_not_run(how: str, zipped: bool, foreign: Any, tmp_path: Path):
    import importlib
    import os
    import subprocess

    witness, path = tmp_path / "witness", tmp_path / "x.pt"
    code = f"open({str(witness)!r}, 'w').close()"
    (tmp_path / "evil_module.py").write_text(code)
    bombs: dict[str, Any] = {
        "os": Calls(os.system, f"touch {witness}"),
        "builtins": Calls(eval, code),
        "subprocess": Calls(subprocess.check_call, ["touch", str(witness)]),
        "importlib": Calls(importlib.import_module, "evil_module"),
        "state": Calls(exec, code),
        "bare": Calls(eval, code),
    }
    content = checkpoint("plain", False, foreign)
    if how == "state":
        content["cfg"]["model"]["activation_fn"] = bombs[how]
    else:
        content["bomb"] = bombs[how]
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    if how == "bare":
        path.write_bytes(pickle.dumps(content, protocol=2))
    sys.path.insert(0, str(tmp_path))
    try:
        if how in ("os", "bare", "state"):
            with pytest.raises(UserError) as caught:
                FairseqUpstream(str(path))
            assert "\n" not in str(caught.value)
        else:  # an unknown function is as inert as an unknown class, and the weights are fine
            assert FairseqUpstream(str(path)).num_layers == 3
            assert type(read(path)["bomb"]) is Inert
    finally:
        sys.path.remove(str(tmp_path))
    assert not witness.exists() and "evil_module" not in sys.modules


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", "no such file"),
        ("cut", "not a readable PyTorch file"),
        ("text", "not a readable PyTorch file"),
        ("tensor", "which is a dict"),
        ("no weights", "has the weights under `model`"),
        ("no settings", "has no settings under"),
        ("circle", "has no settings under"),
        ("wavlm", "a WavLM; use WavLMUpstream"),
        ("fine-tuned", "a fine-tuned model; give the pre-trained one"),
        ("other", "neither a HuBERT nor a wav2vec 2.0"),
        ("relu", "its activation is relu"),
        ("unresolved", "do not say whether waveforms are normalised"),
        ("code", "not a list of convolutions"),
        ("heads", "do not describe a valid encoder"),
        ("depth", r"lacks encoder\.transformer\.layers\.2\."),
        ("data2vec", r"unexpected encoder\.transformer\.pos_conv\.1\.0"),
    ],
)
def test_errors_are_one_sentence(what: str, message: str, foreign: Any, tmp_path: Path):
    path = tmp_path / "x.pt"
    content: Any = checkpoint("plain", False, foreign)
    model, weights = content["cfg"]["model"], content["model"]
    match what:
        case "tensor":
            content = torch.zeros(3)
        case "no weights":
            content["model"] = {}
        case "no settings":
            content["cfg"] = None
        case "circle":
            content["cfg"]["model"]["more"] = content["cfg"]
        case "wavlm":
            weights["encoder.layers.0.self_attn.relative_attention_bias.weight"] = torch.zeros(4, 4)
        case "fine-tuned":
            content["model"] = {f"w2v_encoder.w2v_model.{name}": tensor for name, tensor in weights.items()}
        case "other":
            content["model"] = {"conv.weight": torch.zeros(3)}
        case "relu":
            model["activation_fn"] = "relu"
        case "unresolved":
            model["normalize"] = "${task.normalize}"
            del content["cfg"]["task"]
        case "code":
            model["conv_feature_layers"] = "__import__('os').getcwd()"
        case "heads":
            model["encoder_attention_heads"] = 5
        case "depth":
            model["encoder_layers"] = 3
        case "data2vec":
            weights["encoder.pos_conv.1.0.weight"] = torch.zeros(3)
    torch.save(content, path)
    match what:
        case "missing":
            path.unlink()
        case "cut":
            path.write_bytes(path.read_bytes()[:2_000])
        case "text":
            path.write_text("<html>404</html>")
    with pytest.raises(UserError, match=message) as caught:
        FairseqUpstream(str(path))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
