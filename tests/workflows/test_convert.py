"""`wavlm convert`: from recordings and a voice to files, with a vocoder and with Griffin-Lim, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
import yaml

from wavlm_lightning.audio import load_mono
from wavlm_lightning.cli import main
from wavlm_lightning.errors import UserError
from wavlm_lightning.system.shipped_configs import configs_folder
from wavlm_lightning.tasks import Vocoder
from wavlm_lightning.tasks.components.vocoder.neighbours import spoken_by
from wavlm_lightning.tasks.generation.voice_matching import VoiceMatching
from wavlm_lightning.upstreams import Fbank
from wavlm_lightning.workflows.convert import convert_recordings, open_matching


@pytest.fixture(scope="module")
def speech(tiny, tmp_path_factory):
    """Recordings of one speaker to be converted (`source`), and of another (`voice`)."""
    from wavlm_lightning.data.corpus import Corpus

    folder = tmp_path_factory.mktemp("speech")
    split = Corpus.open(tiny / "sid").split("train")
    by_speaker: dict[str, list[int]] = {}
    for number, meta in enumerate(split.metas()):
        by_speaker.setdefault(meta["speaker"], []).append(number)
    for name, numbers in zip(("source", "voice"), by_speaker.values(), strict=False):
        (folder / name).mkdir()
        for number in numbers:
            shard, place = split.locate(number)
            soundfile.write(folder / name / f"{place}.wav", shard.waveform(place), 16_000)
    return folder


@pytest.fixture(scope="module")
def vocoder(tiny, tmp_path_factory):
    """A run of two updates, on recordings 6 dB louder than the corpus."""
    folder = tmp_path_factory.mktemp("runs") / "vocoder"
    options = ["--model.upstream", "Fbank", "--model.upstream.cmvn", "false", "--data.corpus", str(tiny / "pr")]
    options += ["--trainer.default_root_dir", str(folder), "--trainer.max_steps", "2", "--data.gain_db", "6"]
    options += ["--trainer.val_check_interval", "1", "--trainer.limit_val_batches", "1", "--trainer.accelerator", "cpu"]
    config = yaml.safe_load((configs_folder() / "fullstack/mini/vocoder.yaml").read_text())
    config["model"]["init_args"] |= {"width": 16, "hidden": 32, "blocks": 1}
    del config["model"]["init_args"]["upstream"]
    path = folder.parent / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    assert main(["fit", "-c", str(path), *options]) == 0
    return folder


def test_files_have_the_length_of_their_recordings(vocoder, speech, tmp_path, capsys):
    words = ["convert", str(vocoder), str(speech / "source"), "--voice", str(speech / "voice"), "--out"]
    assert main([*words, str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    sources = sorted((speech / "source").iterdir())
    assert len(said.out.splitlines()) == len(sources) and "the vocoder" in said.err and "up to 5 minutes" in said.err
    for source in sources:
        answer, rate = soundfile.read(tmp_path / "out" / source.name)
        assert rate == 16_000 and len(answer) == len(load_mono(source)) and answer.any()
    # By hand: the matching on recordings 6 dB louder, and their level taken off again.
    matching, reader = open_matching(vocoder, None, 4, "cpu")
    assert reader.factor == pytest.approx(10 ** (6 / 20)) and isinstance(matching.vocoder, Vocoder)
    files = sorted((speech / "voice").iterdir())
    voice = matching.voice(torch.from_numpy(load_mono(path)) * reader.factor for path in files)
    recording = torch.from_numpy(load_mono(sources[0])) * reader.factor
    spoken = spoken_by(matching.frames(recording).searched, voice, 4)
    expected = matching.vocoder.synthesised(spoken, len(recording)) / reader.factor
    written, _ = soundfile.read(tmp_path / "out" / sources[0].name)
    np.testing.assert_allclose(written, expected.numpy().clip(-1, 1), atol=1e-4)


def test_griffin_lim_needs_no_vocoder_and_the_voice_itself_comes_back(speech, tmp_path):
    """With k 1, a recording in a voice that has said the same is itself but for Griffin-Lim."""
    rows = list(convert_recordings("fbank_no_cmvn", [speech / "source"], [speech / "voice"], tmp_path / "out", k=2))
    assert len(rows) == len(list((speech / "source").iterdir())) and set(rows[0]) >= {"file", "audio", "seconds"}
    matching = VoiceMatching(Fbank(cmvn=False).eval(), None, 0, 1)
    recording = torch.from_numpy(load_mono(sorted((speech / "voice").iterdir())[0]))
    voice = matching.voice([recording])
    assert torch.equal(matching.convert(recording, voice), matching.copy(recording))


def test_a_long_recording_is_heard_in_windows(monkeypatch):
    from wavlm_lightning.tasks.generation import voice_matching

    matching, recording = VoiceMatching(Fbank(cmvn=False).eval(), None, 0, 1), 0.1 * torch.randn(40_000)
    whole = matching.frames(recording)
    monkeypatch.setattr(voice_matching, "WINDOW_SECONDS", 0.8)
    parts = matching.frames(recording)
    assert len(parts) == len(whole)
    assert torch.allclose(parts.spoken, whole.spoken, atol=1e-4)
    assert torch.allclose(parts.searched, whole.searched, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"voice": ["source"]}, "is one of the recordings to be converted"),
        ({"run": "random:tiny", "layer": 9}, "--layer 9: .* has the layers 0 to"),
        ({"k": 0}, "--k 0: give 1 or more"),
        ({"k": 100_000}, "frames of speech, and --k 100000 asks for as many"),
        ({"out": "source"}, "whose recordings are heard"),
        ({"voice": ["nothing"]}, "no such file"),
    ],
)
def test_what_cannot_be_done_is_refused(speech, tmp_path, change, message):
    settings = {"run": "fbank_no_cmvn", "recordings": ["source"], "voice": ["voice"], "out": tmp_path / "out", **change}
    for name in ("recordings", "voice"):
        settings[name] = [speech / each for each in settings[name]]
    settings["out"] = speech / settings["out"]
    with pytest.raises(UserError, match=message):
        list(convert_recordings(**settings, device="cpu"))
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.wav"))
