"""What a user types to name an upstream, and what they get."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from upstream_helpers import family, save

from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.pretraining import WavLMPretraining
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.upstreams import Fbank, Upstream
from wavlm_lightning.upstreams.specs import FORMS, SPECTRAL, build, resolve
from wavlm_lightning.upstreams.wavlm import ENCODER_KEY, PRESETS, WavLMUpstream, note_old_word

OWN = """
from wavlm_lightning.upstreams import Fbank, Mfcc

class Mine(Fbank):
    def __init__(self, label: str = "mine") -> None:
        super().__init__(cmvn=False)
        self.label = label

class Nameless(Mfcc):
    def __init__(self) -> None:
        super().__init__()

class Needy(Mfcc):
    def __init__(self, width: int) -> None:
        super().__init__()

class Nothing:
    pass
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with one of everything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_upstreams.py").write_text(OWN)
    (tmp_path / "broken_upstreams.py").write_text("import no_such_library\n")
    torch.manual_seed(5)  # not that of the presets
    encoder = WavLM(WavLMConfig.tiny())
    run = tmp_path / "runs" / "learning_rate=0.1"
    (run / "checkpoints").mkdir(parents=True)
    state = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    torch.save({ENCODER_KEY: encoder.config.to_dict(), "state_dict": state}, run / "checkpoints" / "last.ckpt")
    encoder.save_pretrained(tmp_path / "exported")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text("{")
    yield tmp_path
    sys.modules.pop("own_upstreams", None)


@pytest.mark.parametrize("spec", SPECTRAL)
def test_baselines(spec: str):
    upstream = build(spec)
    assert upstream.cmvn is not (spec.endswith("no_cmvn") or spec == "stft")
    assert upstream.dim == {"fbank": 240, "mfcc": 39, "stft": 257}[spec.partition("_")[0]]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_random_and_say_so(preset: str):
    label = f"random weights ({preset})"
    for spec in (f"random:{preset}", preset):
        assert resolve(spec) == ("wavlm_lightning.upstreams.WavLMUpstream", {"source": spec, "label": label})
        assert resolve(f"untrained={spec}")[1]["label"] == "untrained"


def test_random_is_the_old_word_with_the_same_weights_and_the_old_word_says_so_once(capsys):
    note_old_word.cache_clear()
    new = build("random:tiny")
    assert capsys.readouterr().err == ""
    old, again = WavLMUpstream("tiny"), build("tiny")
    note = "note: the upstream 'tiny' has random weights; write random:tiny, which says so\n"
    assert capsys.readouterr().err == note
    assert new.fingerprint() == old.fingerprint() == again.fingerprint()
    assert new.label == old.label == "random weights (tiny)" and new.random == old.random == "tiny"
    assert new.describe()["random"] == "tiny"
    trained = WavLMUpstream("random:tiny", frozen=False)
    assert trained.label == "trained from random weights (tiny)" and "random" not in trained.describe()
    with pytest.raises(UserError, match=r"random:tyny: there is no preset 'tyny'; did you mean 'tiny'\?"):
        build("random:tyny")


def test_pre_training_from_random_weights_is_silent(capsys):
    note_old_word.cache_clear()
    same = [WavLMPretraining(source, {"layers": 1}).encoder.state_dict() for source in ("tiny", "random:tiny")]
    assert all(torch.equal(same[0][name], same[1][name]) for name in same[0])
    assert capsys.readouterr().err == ""


def test_what_is_resolved_is_what_a_yaml_builds():
    class_path, arguments = resolve("tiny")
    module, _, name = class_path.rpartition(".")
    by_hand = getattr(importlib.import_module(module), name)(**arguments)
    built = build("tiny")
    assert built.fingerprint() == by_hand.fingerprint() and built.label == "random weights (tiny)"


def test_runs_checkpoints_and_exports_are_one_encoder(place: Path):
    run = "runs/learning_rate=0.1"
    sources = [run, f"{run}/checkpoints/last.ckpt", "exported", f"./{run}", str(place / run), f"mine={run}"]
    built = [build(source) for source in sources]
    assert len({upstream.fingerprint() for upstream in built}) == 1
    assert built[0].fingerprint() != build("tiny").fingerprint()
    assert [built[0].label, built[2].label, built[5].label] == [run, "exported", "mine"]
    assert all(type(upstream).__name__ == "WavLMUpstream" for upstream in built)


@pytest.mark.parametrize(
    ("name", "kind"), [("wavlm base", "WavLM"), ("hubert base", "HuggingFace"), ("data2vec", "HuggingFace")]
)
def test_folders_go_to_who_reads_them(name: str, kind: str, place: Path):
    pytest.importorskip("transformers")
    save(family(name), place / "model")
    assert resolve("model") == (f"wavlm_lightning.upstreams.{kind}Upstream", {"source": "model"})
    assert resolve("hf:model") == ("wavlm_lightning.upstreams.HuggingFaceUpstream", {"source": "model"})
    labelled = build("A B=hf:model")
    assert labelled.label == "A B" and build("model").label == "model"


def test_files_go_to_who_reads_them(place: Path):
    weights = {f"encoder.layers.0.self_attn.{name}": torch.zeros(2) for name in ("k_proj.weight", "grep_a")}
    torch.save({"cfg": {}, "model": weights}, place / "wavlm.pt")
    del weights["encoder.layers.0.self_attn.grep_a"]
    torch.save({"cfg": {}, "model": weights}, place / "hubert.pt")
    torch.save({"encoder.transformer.layers.0.x": torch.zeros(2)}, place / "torchaudio.pth")
    assert resolve("wavlm.pt") == ("wavlm_lightning.upstreams.WavLMUpstream", {"source": "wavlm.pt"})
    assert resolve("hubert.pt") == ("wavlm_lightning.upstreams.FairseqUpstream", {"path": "hubert.pt"})
    assert resolve("x=hubert.pt")[1] == {"path": "hubert.pt", "label": "x"}
    assert resolve("torchaudio.pth")[0] == "wavlm_lightning.upstreams.WavLMUpstream"


def test_names_on_servers_are_not_looked_up():
    name = "facebook/hubert-base-ls960"
    assert resolve(f"hf:{name}") == ("wavlm_lightning.upstreams.HuggingFaceUpstream", {"source": name})
    expected = {"bundle": "HUBERT_BASE", "label": "HuBERT"}
    assert resolve("HuBERT=torchaudio:HUBERT_BASE") == ("wavlm_lightning.upstreams.TorchaudioUpstream", expected)


def test_an_upstream_of_ones_own(place: Path):
    assert resolve("own_upstreams.Mine") == ("own_upstreams.Mine", {})
    mine, renamed = build("own_upstreams.Mine"), build("yours=own_upstreams.Mine")
    assert isinstance(mine, Upstream) and (mine.label, renamed.label) == ("mine", "yours")
    assert mine.fingerprint() == renamed.fingerprint()
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):  # theirs to see in full
        build("broken_upstreams.Mine")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "'' is not an upstream"),
        ("fbnak", r"did you mean 'fbank'\? An upstream is one of fbank"),
        ("Base-Plus", r"did you mean 'base_plus'\?"),
        ("whatever", "'whatever' is not an upstream; an upstream is one of fbank"),
        ("runs/nothing", "runs/nothing: no such file or folder"),
        ("nothing.pt", r"nothing\.pt: no such file or folder"),
        ("x=runs/nothing", "runs/nothing: no such file or folder"),
        ("empty", "neither the folder of a pre-training run"),
        ("bad", "not valid JSON"),
        ("hf:", "'hf:' is not an upstream"),
        ("torchaudio:HUBERT", r"did you mean 'HUBERT_BASE'\?"),
        ("torchaudio:TACOTRON", "torchaudio.pipelines has no model 'TACOTRON'"),
        ("nobody.nothing.Class", "no such module or class"),
        ("own_upstreams.Other", "no such module or class"),
        ("own_upstreams.Nothing", "own_upstreams.Nothing: not a subclass of Upstream"),
        ("x=own_upstreams.Nameless", "does not take a label; remove x="),
        ("own_upstreams.Needy", "cannot be built without more arguments"),
        ("own_upstreams.py", "not a readable PyTorch file"),
    ],
)
def test_what_means_nothing_is_said(spec: str, message: str, place: Path):
    with pytest.raises(UserError, match=message) as caught:
        build(spec)
    assert "\n" not in str(caught.value)


def test_the_forms_are_all_named():
    for form in (
        *SPECTRAL,
        *(f"random:{name}" for name in PRESETS),
        "hf:",
        "torchaudio:",
        "package.module.Class",
        "LABEL=",
    ):
        assert form in FORMS


def test_two_classes_of_one_name_are_two_upstreams(tmp_path, monkeypatch):
    code = "from wavlm_lightning.upstreams import Fbank\n\n\nclass OfOneName(Fbank):\n    {}\n"
    bodies = {
        "one": 'first_centre = 200  # samples\n    """The frame of the microphone."""',
        "same": "first_centre = 200",
        "other": "first_centre = 0",
        "documented": '"""The frame\n    of the microphone."""\n\n    first_centre = (200)',
    }
    for name, body in bodies.items():
        (tmp_path / f"own_{name}.py").write_text(code.format(body))
    monkeypatch.syspath_prepend(str(tmp_path))
    prints = {name: importlib.import_module(f"own_{name}").OfOneName().fingerprint() for name in bodies}
    assert prints["same"] == prints["documented"] != prints["other"]
    assert Fbank().fingerprint() not in prints.values()
