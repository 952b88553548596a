"""Three lines of Python: encoders and heads from every source, on files, arrays and lists of them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import wavlm_lightning as wl
from wavlm_lightning.cli import main
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import WavLM
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.upstreams.wavlm import load_encoder as load_wavlm


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory) -> Path:
    """A KS head that was trained with its encoder, and a recording beside it."""
    folder = tmp_path_factory.mktemp("runs") / "ks"
    options = ["--model", "KeywordSpotting", "--model.upstream", "WavLMUpstream", "--model.upstream.source", "tiny"]
    options += ["--model.upstream.frozen", "false", "--model.learning_rate", "1e-3", "--data", "TaskData"]
    options += ["--data.corpus", str(tiny / "ks"), "--trainer.max_steps", "2", "--trainer.val_check_interval", "1"]
    options += ["--trainer.accelerator", "cpu", "--trainer.default_root_dir", str(folder)]
    options += ["--trainer.check_val_every_n_epoch", "null", "--trainer.limit_val_batches", "1"]
    assert main(["fit", *options]) == 0
    waveform = Corpus.open(tiny / "ks").split("test").shards[0].waveform(0)
    soundfile.write(folder.parent / "a.wav", waveform, 16_000)
    return folder


def test_a_head_says_what_predict_prints(run, capsys):
    recording = run.parent / "a.wav"
    assert main(["predict", str(run), str(recording), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    head = wl.load_head(run, device="cpu")
    assert head(recording) == printed and head(str(recording)) == printed
    waveform, rate = soundfile.read(recording, dtype="float32")
    del printed["file"]
    assert head(waveform, rate) == printed and head(torch.from_numpy(waveform)) == printed
    assert head([waveform, recording])[0] == printed and len(head([waveform, recording])) == 2
    stored, _ = soundfile.read(recording, dtype="int16")
    assert head(stored) == printed
    assert "KS" in repr(head)


def test_an_encoder_from_runs_and_presets(run):
    recording = run.parent / "a.wav"
    encoder = wl.load_encoder(run, device="cpu")
    layers = encoder(recording)
    waveform, _ = soundfile.read(recording, dtype="float32")
    expected = load_wavlm(run).eval()(torch.from_numpy(waveform)[None]).hidden
    assert layers.hidden.shape[:2] == (5, 1) and not layers.hidden.requires_grad
    assert torch.allclose(layers.hidden, expected, atol=1e-5)
    batch = encoder([recording, waveform[:8000]])
    assert batch.lengths.tolist() == [layers.hidden.shape[2], 24]
    assert torch.allclose(batch.hidden[:, :1, : layers.hidden.shape[2]], layers.hidden, atol=1e-5)
    assert (encoder.dim, encoder.frame_rate) == (192, 50.0) and "5 layers of 192" in repr(encoder)
    assert wl.load_encoder("fbank", device="cpu")(waveform).hidden.shape[0] == 1


def test_from_pretrained_reads_runs(run):
    for source in (run, str(run), run / "checkpoints" / "best.ckpt"):
        encoder, expected = WavLM.from_pretrained(source), load_wavlm(run).state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("audio", "rate", "message"),
    [
        (np.zeros((2, 100), "f4"), 16_000, r"of shape \(2, 100\); give one channel"),
        (np.zeros(16_000, "f4"), 16_000, "silent"),
        (np.zeros(0, "f4"), 16_000, "holds no samples"),
        (np.full(16_000, np.nan, "f4"), 16_000, "NaN"),
        (np.full(16_000, 3000.0), 16_000, "beyond full scale"),
        (np.ones(16_000, "i1"), 16_000, "of type int8"),
        (np.ones(16_000, "f4"), 7, "7 Hz"),
        ("none.wav", 16_000, "none.wav: no such file"),
    ],
)
def test_what_cannot_be_used_is_said(run, audio, rate, message):
    with pytest.raises(UserError, match=message):
        wl.load_encoder("fbank", device="cpu")(audio, rate)


def test_wrong_sources_are_said(tmp_path):
    with pytest.raises(UserError, match="is not an upstream"):
        wl.load_encoder("bse")
    with pytest.raises(UserError, match="no such file"):
        wl.load_head(tmp_path / "none")
    with pytest.raises(AttributeError, match="no attribute 'load_decoder'"):
        wl.load_decoder  # noqa: B018


def test_importing_the_package_stays_light():
    code = "import sys, wavlm_lightning as wl; wl.__version__; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
