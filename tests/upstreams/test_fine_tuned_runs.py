"""Runs that trained their encoder are read when what the encoder started from is gone: predict, export, superb."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from upstream_helpers import family, save, utterances

from wavlm_lightning.cli import main
from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.huggingface import huggingface_head
from wavlm_lightning.upstreams.run_checkpoints import newest_checkpoint
from wavlm_lightning.upstreams.specs import build, resolve
from wavlm_lightning.upstreams.wavlm import load_encoder
from wavlm_lightning.workflows.export import export
from wavlm_lightning.workflows.predict.head import holds_head, open_head

SIZES: dict[str, Any] = {"layers": 2, "dim": 32, "ffn_dim": 48, "heads": 4, "pos_conv_kernel": 16, "pos_conv_groups": 4}
TUNING = {
    "learning_rate": 0.01,
    "layer_decay": 0.5,
    "time_mask_probability": 0.3,
    "layer_drop": 0.2,
    "input_dropout": 0.1,
}
AUDIO = torch.nn.utils.rnn.pad_sequence(utterances([9_000, 7_000]), batch_first=True)
LENGTHS = torch.tensor([9_000, 7_000])


def wavlm(folder: Path) -> tuple[str, dict[str, Any]]:
    WavLM(WavLMConfig.preset("tiny", **SIZES, conv_channels=[16] * 7)).save_pretrained(folder)
    return "WavLMUpstream", {"source": str(folder)}


def hubert(folder: Path) -> tuple[str, dict[str, Any]]:
    pytest.importorskip("transformers")
    return "HuggingFaceUpstream", {"source": save(family("hubert base"), folder, do_normalize=True)}


def bundle(folder: Path) -> tuple[str, dict[str, Any]]:
    import torchaudio
    from test_torchaudio_models import small, weights_of

    torchaudio.pipelines.WAVLM_BASE_PLUS = small("WAVLM_BASE_PLUS")  # the fixture puts it back
    folder.mkdir()
    weights = weights_of(torchaudio.pipelines.WAVLM_BASE_PLUS, folder / "weights.pt")
    return "TorchaudioUpstream", {"bundle": "WAVLM_BASE_PLUS", "weights": str(weights)}


def fairseq(folder: Path) -> tuple[str, dict[str, Any]]:
    from test_fairseq import fairseq_weights, model_of, settings_of

    folder.mkdir()
    content = {"model": fairseq_weights(model_of(False), False), "cfg": {"model": settings_of(False)}}
    torch.save(content, folder / "hubert.pt")
    return "FairseqUpstream", {"path": str(folder / "hubert.pt")}


FAMILIES = {"wavlm": wavlm, "hubert": hubert, "bundle": bundle, "fairseq": fairseq}


def fit(run: Path, corpus: Path, upstream: dict[str, Any]) -> None:
    """Two updates of KS, validated after each."""
    config = {
        "model": {"class_path": "KeywordSpotting", "init_args": {"learning_rate": 0.01, "upstream": upstream}},
        "data": {"class_path": "TaskData", "init_args": {"corpus": str(corpus), "batch_size": 4, "num_workers": 0}},
        "trainer": {
            "max_steps": 2,
            "val_check_interval": 1,
            "limit_val_batches": 1,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "default_root_dir": str(run),
        },
    }
    run.parent.mkdir(exist_ok=True)
    path = run.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config))
    assert main(["fit", "-c", str(path)]) == 0


@pytest.fixture(scope="module")
def runs(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run of a family, whose source no longer exists."""
    import torchaudio

    folder, published = tmp_path_factory.mktemp("fine-tuned"), torchaudio.pipelines.WAVLM_BASE_PLUS
    made: dict[str, Path] = {}

    def find(name: str) -> Path:
        if name not in made:
            kind, arguments = FAMILIES[name.removesuffix(", chosen")](folder / f"{name} source")
            upstream = {"class_path": kind, "init_args": {**arguments, "frozen": False, "fine_tuning": TUNING}}
            if name.endswith("chosen"):
                upstream = {"class_path": "ChosenLayers", "init_args": {"upstream": upstream, "layers": [1, 2]}}
            fit(folder / name, tiny / "ks", upstream)
            shutil.rmtree(folder / f"{name} source")
            made[name] = folder / name
        return made[name]

    yield find
    torchaudio.pipelines.WAVLM_BASE_PLUS = published


@pytest.mark.parametrize("name", ["wavlm", "hubert", "bundle", "fairseq", "hubert, chosen"])
def test_a_run_is_read_without_what_it_started_from(runs: Any, name: str):
    run = runs(name)
    kept = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert holds_head(run)
    task = open_head(run, "cpu").task
    for key, value in task.state_dict().items():
        if key.startswith("upstream."):
            assert torch.equal(value, kept["state_dict"][key]), key
    inside = task.upstream.upstream if name.endswith("chosen") else task.upstream
    assert "source" in inside.label or inside.label == "WAVLM_BASE_PLUS"
    assert task.upstream.label.startswith(inside.label)
    with torch.no_grad():
        expected = inside(AUDIO, LENGTHS).hidden
        for specification in (str(run), str(run / "checkpoints" / "best.ckpt")):
            again = build(specification)
            assert again.frozen and type(again) is type(inside)
            assert [each["task"] for each in again.describe()["labelled"]] == ["KS"]
            assert (again(AUDIO, LENGTHS).hidden - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert build(f"mine={run}").label == "mine"


def test_predict_and_export(runs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import soundfile

    run = runs("wavlm")
    soundfile.write(tmp_path / "a.wav", AUDIO[0].numpy(), 16_000)
    assert main(["predict", str(run), str(tmp_path / "a.wav"), "--json"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    export(run, tmp_path / "whole")
    exported = huggingface_head(str(tmp_path / "whole"))
    waveform, length = AUDIO[:1], LENGTHS[:1]
    with torch.no_grad():
        task = open_head(run, "cpu").task
        assert task.readable(*task(Batch(waveform, length)))[0]["keyword"] in said
        difference = exported(Batch(waveform, length))[0] - task(Batch(waveform, length))[0]
        assert difference.abs().max() < 1e-3
    export(run, tmp_path / "encoder", encoder_only=True)
    expected = load_encoder(run).state_dict()
    for name, value in load_encoder(tmp_path / "encoder").state_dict().items():
        assert torch.equal(value, expected[name])
    # Of its checkpoint the encoder alone, and no card of a pre-training.
    with pytest.raises(UserError, match="a checkpoint of a head; give its run folder, or --encoder"):
        export(run / "checkpoints" / "best.ckpt", tmp_path / "file")
    export(run / "checkpoints" / "best.ckpt", tmp_path / "file", encoder_only=True)
    assert not list((tmp_path / "file").glob("pretraining_head*"))
    assert "Pre-training" not in (tmp_path / "file" / "README.md").read_text()
    trained = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(expected["masked_spec_embed"], trained["upstream.encoder.masked_spec_embed"])


class Batch:
    """Inputs of a task."""

    def __init__(self, audio: torch.Tensor, lengths: torch.Tensor) -> None:
        self.audio, self.lengths = audio, lengths


def test_a_sharded_checkpoint_is_read_too(runs: Any, tmp_path: Path):
    """The folder that FSDP2 writes."""
    from torch.distributed.checkpoint import FileSystemWriter
    from torch.distributed.checkpoint import save as save_sharded

    run = tmp_path / "run"
    shutil.copytree(runs("hubert"), run)
    for file in (run / "checkpoints").glob("*.ckpt"):
        content = torch.load(file, weights_only=True)
        file.unlink()
        state = {"state_dict": content.pop("state_dict")}
        save_sharded(state, storage_writer=FileSystemWriter(file), no_dist=True)
        torch.save({key: value for key, value in content.items() if key != "optimizer_states"}, file / "meta.pt")
    with torch.no_grad():
        expected = open_head(runs("hubert"), "cpu").task.upstream(AUDIO, LENGTHS).hidden
        assert holds_head(run)
        assert torch.equal(open_head(run, "cpu").task.upstream(AUDIO, LENGTHS).hidden, expected)
        assert (build(str(run))(AUDIO, LENGTHS).hidden - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_the_best_checkpoint_of_a_head_is_the_one(runs: Any):
    assert newest_checkpoint(runs("wavlm")).name == "best.ckpt"
    run = runs("wavlm")
    # A named file is that file, as for the other classes of upstreams.
    for name, named in (("last", run / "checkpoints" / "last.ckpt"), ("best", run)):
        state = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
        found = load_encoder(named).state_dict()
        assert all(torch.equal(value, state[f"upstream.encoder.{key}"]) for key, value in found.items())
    kind, arguments = resolve(str(runs("bundle")))
    assert kind.endswith("TorchaudioUpstream") and arguments["bundle"] == "WAVLM_BASE_PLUS"


def test_what_holds_no_encoder_says_so(runs: Any, tiny: Path, tmp_path: Path):
    fit(tmp_path / "frozen", tiny / "ks", {"class_path": "WavLMUpstream", "init_args": {"source": "tiny"}})
    with pytest.raises(UserError, match=r"does not contain an encoder, because its head was trained on a frozen one"):
        load_encoder(tmp_path / "frozen")
    with pytest.raises(UserError, match=r"its encoder is a HuggingFaceUpstream"):
        load_encoder(runs("hubert"))
