"""`wavlm export --format onnx|torch`: graphs of any batch and length, compared with the model in the export itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from wavlm_lightning.cli import main
from wavlm_lightning.data.batch import Waveforms
from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import (
    EcapaVerification,
    FineTunedRecognition,
    KeywordSpotting,
    SpeakerDiarization,
    SpeakerVerification,
    WaveformTask,
)
from wavlm_lightning.tasks.components.beam_search import WORD_END
from wavlm_lightning.tasks.content.letters import SPECIAL
from wavlm_lightning.tasks.huggingface.export import write_head_folder
from wavlm_lightning.upstreams import Fbank, WavLMUpstream
from wavlm_lightning.workflows.export.graph import write_head_graph
from wavlm_lightning.workflows.predict.head import TrainedHead

# Two convolutions and one layer: the time of an export goes by the number of operations.
SHAPE = {"conv_channels": [16] * 2, "conv_kernels": [10, 66], "conv_strides": [5, 64], "dim": 32, "ffn_dim": 48}
SHAPE |= {"layers": 1, "heads": 4}


def trained(kind, labels, gain_db: float = 0.0, upstream=None, **arguments) -> TrainedHead:
    task = kind(upstream or WavLMUpstream("tiny", overrides=SHAPE), **arguments)
    task.build(labels)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in task.named_parameters():
        if not name.startswith("upstream."):
            parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return TrainedHead(task.eval(), gain_db, False, torch.device("cpu"), Path())


def batch(rows: int, samples: int, seed: int, least: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(least, samples + 1, (rows,), generator=generator)
    lengths[0] = samples
    return 0.1 * torch.randn(rows, samples, generator=generator), lengths


@pytest.mark.slow
def test_onnx_of_encoder_and_head(tmp_path, capsys):
    """From a folder of transformers, as a user would; the recordings are played with the gain of training."""
    onnxruntime = pytest.importorskip("onnxruntime")
    head = trained(KeywordSpotting, ["yes", "no", "up"])
    write_head_folder(tmp_path / "hf", head.task, {"gain_db": -3.0})
    assert main(["export", str(tmp_path / "hf"), str(tmp_path / "onnx"), "--format", "onnx"]) == 0
    assert "model.onnx: off by at most" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "onnx").iterdir()) == ["model.json", "model.onnx"]
    facts = json.loads((tmp_path / "onnx" / "model.json").read_text())
    assert (facts["labels"], facts["task"], facts["sample_rate"]) == (["yes", "no", "up"], "KS", 16_000)
    assert facts["checked"]["largest_difference"] < 1e-4 and facts["gain_db"].startswith("-3")
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    least = head.task.upstream.encoder.config.receptive_field
    for seed, (rows, samples) in enumerate(((1, least + 320), (1, 50_001), (5, 12_345))):
        waveforms, lengths = batch(rows, samples, seed, least)
        scores, frames = session.run(None, {"waveforms": waveforms.numpy(), "lengths": lengths.numpy()})
        with torch.no_grad():
            layers = head.task.upstream(waveforms * 10**-0.15, lengths)
            wanted = head.task.outputs(head.task.weighted_sum(layers), layers.lengths)
        assert np.abs(scores - wanted.numpy()).max() < 1e-5 and frames.tolist() == layers.lengths.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_a_fine_tuned_recogniser(tmp_path, form):
    """Its graph is compared with the head while it is written; letters are told beside it."""
    if form == "onnx":
        pytest.importorskip("onnxruntime")
    letters = [*SPECIAL, WORD_END, "A", "B"]
    write_head_graph(trained(FineTunedRecognition, letters), tmp_path, form)
    facts = json.loads((tmp_path / "model.json").read_text())
    assert facts["labels"] == letters and facts["checked"]["largest_difference"] < 1e-4
    assert (tmp_path / {"onnx": "model.onnx", "torch": "model.pt2"}[form]).is_file()


@pytest.mark.slow
def test_torch_export_of_an_encoder_is_kept_if_it_agrees(tmp_path, monkeypatch, capsys):
    overrides = {**SHAPE, "pre_norm": True, "conv_norm": "layer", "normalize_waveform": True}
    encoder = WavLM(WavLMConfig.preset("tiny", **overrides)).eval()
    encoder.save_pretrained(tmp_path / "hf")
    assert main(["export", str(tmp_path / "hf"), str(tmp_path / "torch"), "--format", "torch"]) == 0
    graph = torch.export.load(tmp_path / "torch" / "model.pt2").module()
    least = encoder.config.receptive_field
    for seed, (rows, samples) in enumerate(((1, least + 320), (1, 40_000), (3, 9_999))):
        waveforms, lengths = batch(rows, samples, seed, least)
        with torch.no_grad():
            hidden, frames = graph(waveforms, lengths)
            wanted = encoder(waveforms, lengths)
        assert (hidden - wanted.hidden).abs().max() < 1e-5 and torch.equal(frames, wanted.lengths)

    program = torch.export.load(tmp_path / "torch" / "model.pt2")  # as if the tracer had made a mistake
    with torch.no_grad():
        encoder.encoder.layers[0].attention.q_proj.weight.mul_(2.0)
        encoder.save_pretrained(tmp_path / "hf")
    monkeypatch.setattr(torch.export, "export", lambda *arguments, **options: program)
    assert main(["export", str(tmp_path / "hf"), str(tmp_path / "torch"), "--format", "torch"]) == 2
    assert "the graph is off by" in capsys.readouterr().err and not list((tmp_path / "torch").iterdir())


@pytest.mark.slow
@pytest.mark.long
def test_torch_export_of_an_x_vector(tmp_path):
    """Its network needs 16 frames in a batch, and takes shorter rows beside a longer one."""
    head = trained(SpeakerVerification, list("pq"), hidden=16, widths=(16, 16, 16, 16, 24), embedding=12)
    write_head_graph(head, tmp_path, "torch")
    graph = torch.export.load(tmp_path / "model.pt2").module()
    config = head.task.upstream.encoder.config
    for seed, samples in enumerate((config.receptive_field + 15 * config.hop, 20_000)):
        waveforms, lengths = batch(4, samples, seed, config.receptive_field)
        with torch.no_grad():
            layers = head.task.upstream(waveforms, lengths)
            wanted = head.task.outputs(head.task.weighted_sum(layers), layers.lengths)
            assert (graph(waveforms, lengths)[0] - wanted).abs().max() < 1e-5


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_an_ecapa_tdnn(tmp_path, form):
    """With batch norms that have seen data, and rows shorter than the batch."""
    onnxruntime = pytest.importorskip("onnxruntime") if form == "onnx" else None
    head = trained(EcapaVerification, list("pq"), channels=16, embedding=12)
    generator = torch.Generator().manual_seed(2)
    for norm in (module for module in head.task.network.modules() if isinstance(module, nn.BatchNorm1d)):
        norm.running_mean.copy_(torch.randn(norm.running_mean.shape, generator=generator))
        norm.running_var.copy_(torch.rand(norm.running_var.shape, generator=generator) + 0.5)
    write_head_graph(head, tmp_path, form)
    if onnxruntime is not None:
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    else:
        graph = torch.export.load(tmp_path / "model.pt2").module()
    config = head.task.upstream.encoder.config
    for seed, (rows, samples) in enumerate(((1, config.receptive_field + config.hop), (1, 30_000), (4, 20_000))):
        waveforms, lengths = batch(rows, samples, seed, config.receptive_field)
        with torch.no_grad():
            wanted, _ = head.task(Waveforms(waveforms, lengths))
            if onnxruntime is None:
                given = graph(waveforms, lengths)[0]
            else:
                given = torch.from_numpy(
                    session.run(None, {"waveforms": waveforms.numpy(), "lengths": lengths.numpy()})[0]
                )
        assert given.shape == (rows, 12) and (given - wanted).abs().max() < 1e-4 * max(1, wanted.abs().max())


@pytest.mark.parametrize(("kind", "labels", "arguments", "said"), [
    (SpeakerDiarization, ["speaker1", "speaker2"], {"hidden": 8}, "LSTMs of this SD head"),
    (KeywordSpotting, list("ab"), {"upstream": Fbank(cmvn=False)}, "is a Fbank"),
])  # fmt: skip
def test_what_cannot_be_a_graph_is_refused(tmp_path, kind, labels, arguments, said):
    with pytest.raises(UserError, match=said):
        write_head_graph(trained(kind, labels, **arguments), tmp_path / "out", "torch")
    assert not (tmp_path / "out").exists()


def test_what_torch_says_of_a_head_is_one_sentence(tmp_path, monkeypatch):
    def fails(*arguments, **options):
        raise ValueError("Could not guard on data-dependent expression u0 > 1.\n\nand a page of advice")

    monkeypatch.setattr(torch.export, "export", fails)
    (tmp_path / "model.pt2").write_text("of yesterday")
    with pytest.raises(UserError, match=r"torch cannot make a graph .*\(Could not guard .* u0 > 1\)$"):
        write_head_graph(trained(KeywordSpotting, list("ab")), tmp_path, "torch")
    assert not list(tmp_path.iterdir())


def test_onnx_without_its_packages(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'onnx.*\(extra \[onnx\]\)"):
        write_head_graph(trained(KeywordSpotting, list("ab")), tmp_path, "onnx")


class Gain(WaveformTask):
    """A gain over time from the features, which a graph can hold."""

    name = "GAIN"

    def build_head(self, dim):
        self.gain = nn.Linear(dim, 1)

    def enhance(self, features, lengths, audio):
        gain = self.gain(features).sigmoid().transpose(1, 2)
        return audio.audio * nn.functional.interpolate(gain, size=audio.audio.shape[1])[:, 0]


class Spectral(Gain):
    """A detour through complex spectra, which torch.export cannot trace for any length."""

    def enhance(self, features, lengths, audio):
        window = torch.hann_window(512)
        spectrum = torch.stft(super().enhance(features, lengths, audio), 512, 160, window=window, return_complex=True)
        return torch.istft(spectrum, 512, 160, window=window, length=audio.audio.shape[1])


@pytest.mark.slow
def test_a_graph_answers_with_audio_at_the_level_of_its_input(tmp_path):
    head = trained(Gain, ["clean"], gain_db=-6.0)
    write_head_graph(head, tmp_path, "torch")
    graph = torch.export.load(tmp_path / "model.pt2").module()
    facts = json.loads((tmp_path / "model.json").read_text())
    assert list(facts["outputs"]) == ["waveform", "samples"] and "sample by sample" in facts["outputs"]["waveform"]
    waveforms, lengths = batch(3, 20_001, 5, head.task.upstream.encoder.config.receptive_field)
    with torch.no_grad():
        answer, samples = graph(waveforms, lengths)
        wanted, _ = head.task(Waveforms(waveforms * 10**-0.3, lengths))
    assert torch.equal(samples, lengths) and (answer - wanted / 10**-0.3).abs().max() < 1e-6


@pytest.mark.slow
@pytest.mark.long
def test_onnx_of_a_head_that_answers_with_audio(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    head = trained(Gain, ["clean"])
    write_head_graph(head, tmp_path, "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    waveforms, lengths = batch(2, 9_999, 6, head.task.upstream.encoder.config.receptive_field)
    answer, samples = session.run(None, {"waveforms": waveforms.numpy(), "lengths": lengths.numpy()})
    with torch.no_grad():
        wanted, _ = head.task(Waveforms(waveforms, lengths))
    assert np.abs(answer - wanted.numpy()).max() < 1e-6 and samples.tolist() == lengths.tolist()


@pytest.mark.slow
def test_a_spectral_mask_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match="--format torch: torch cannot make a graph") as refused:
        write_head_graph(trained(Spectral, ["clean"]), tmp_path, "torch")
    assert "\n" not in str(refused.value) and not list(tmp_path.iterdir())
