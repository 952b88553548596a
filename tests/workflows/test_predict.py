"""`wavlm predict RUN FILE...`: every kind of head on recordings that are in no corpus."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import soundfile

from wavlm_lightning.audio import gain, load_mono, trim_silence
from wavlm_lightning.cli import main
from wavlm_lightning.cli.predict import as_text
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.metrics.rttm import parse_rttm
from wavlm_lightning.workflows.predict.head import open_head
from wavlm_lightning.workflows.predict.written import recording_names

HEADS = ("pr", "asr", "ks", "ic", "sid", "er", "sf", "sv", "sd")
CORPUS = {"asr": "pr", "st": "translation"}


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """A run folder of each trained task, two steps long, on FBANK."""
    folder = tmp_path_factory.mktemp("heads")
    for name in (*HEADS, "st"):
        suite = "fullstack" if name == "st" else "superb"
        arguments = [
            "fit",
            "-c",
            f"configs/{suite}/mini/{name}.yaml",
            "--data.corpus",
            str(tiny / CORPUS.get(name, name)),
        ]
        arguments += ["--model.upstream", "wavlm_lightning.upstreams.Fbank", "--model.upstream.cmvn", "false"]
        arguments += ["--data.cache", str(folder / "cache"), "--trainer.default_root_dir", str(folder / name)]
        arguments += ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--trainer.accelerator", "cpu"]
        arguments += ["--trainer.enable_progress_bar", "false"]
        assert main(arguments) == 0
    return folder


@pytest.fixture
def recordings(tiny, tmp_path):
    """A stereo file at another rate, and two of a corpus."""
    split = Corpus.open(tiny / "sv").split("test")
    folder = tmp_path / "recordings"
    folder.mkdir()
    for number, (_, waveform, _) in zip(range(2), split.utterances(), strict=False):
        soundfile.write(folder / f"{number}.flac", waveform, 16_000)
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (22_050, 2))
    soundfile.write(folder / "2.wav", noise, 22_050)
    return folder


FACTS = {
    "pr": "phones",
    "asr": "text",
    "ks": "keyword",
    "ic": "intent",
    "sid": "speaker",
    "er": "emotion",
    "sf": "text",
    "st": "translation",
    "sv": "embedding",
    "sd": "turns",
}


@pytest.mark.parametrize("name", HEADS)
def test_every_head_has_something_to_say(runs, recordings, tmp_path, capsys, name):
    capsys.readouterr()
    out = tmp_path / "out"
    assert main(["predict", str(runs / name), str(recordings), "--json", "--out", str(out)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows == [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    files = [row for row in rows if "file" in row]
    assert [row["file"].rsplit("/", 1)[1] for row in files] == ["0.flac", "1.flac", "2.wav"]
    assert all(FACTS[name] in row for row in files)
    if name == "sv":
        pairs = [row for row in rows if "score" in row]
        assert len(pairs) == 3 and all(-1 <= row["score"] <= 1.0001 for row in pairs)
    if name == "sd":
        turns = {row["file"].rsplit("/", 1)[1].split(".")[0]: row["turns"] for row in files if row["turns"]}
        written = out / "predictions.rttm"
        assert set(parse_rttm(written.read_text().splitlines())) == set(turns) if turns else not written.exists()
    assert main(["predict", str(runs / name), str(recordings / "0.flac")]) == 0
    assert "0.flac" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["asr", "sf", "st"])
def test_several_answers_without_a_language_model(runs, recordings, tmp_path, capsys, name):
    """A greedy answer stays as it is, one of a beam search is the first; answers of another number are made anew."""
    key, rows, file = FACTS[name], {}, recordings / "0.flac"
    for count in ("1", "3"):
        command = ["predict", str(runs / name), str(file), "--json", "--out", str(tmp_path), "--nbest", count]
        assert main(command) == 0
        (rows[count],) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    best = rows["3"]["nbest"]
    assert (
        rows["3"][key] == (best[0][key] if name == "st" else rows["1"][key])
        and "nbest" not in rows["1"]
        and len(best) == 3
    )
    assert 0 >= best[0]["score"] >= best[1]["score"] >= best[2]["score"] and len({each[key] for each in best}) == 3
    assert f"{best[0]['score']:10.3f}  {best[0][key]}" in as_text(rows["3"])


def test_a_head_with_one_answer_says_so(runs, recordings, capsys):
    assert main(["predict", str(runs / "ks"), str(recordings), "--nbest", "2"]) == 2
    assert "--nbest 2: KS has one answer" in capsys.readouterr().err
    assert main(["predict", str(runs / "ks"), str(recordings), "--nbest", "1"]) == 0


def test_alone_or_together_the_answer_is_the_same(runs, recordings, capsys):
    answers = []
    for seconds in ("1", "1000"):
        capsys.readouterr()
        assert main(["predict", str(runs / "er"), str(recordings), "--json", "--batch-seconds", seconds]) == 0
        answers.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    for one, other in zip(*answers, strict=True):
        assert one["emotion"] == other["emotion"] and one["probability"] == pytest.approx(
            other["probability"], abs=1e-4
        )


def test_long_recordings_are_heard_in_windows(runs, recordings, capsys):
    """Filter banks see no further than a window's context, and whatever fits into a window is heard as ever."""
    for name, fact in (("er", "probability"), ("pr", "phones"), ("sd", "turns")):
        answers = {}
        for window in ("0", "60", "1"):
            capsys.readouterr()
            assert main(["predict", str(runs / name), str(recordings), "--json", "--window", window]) == 0
            answers[window] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert answers["60"] == answers["0"]
        assert [row["file"] for row in answers["1"]] == [row["file"] for row in answers["0"]]
        for one, other in zip(answers["1"], answers["0"], strict=True):
            assert one[fact] == (pytest.approx(other[fact], abs=2e-4) if fact == "probability" else other[fact])


def test_mistakes_are_one_sentence(runs, recordings, tmp_path, capsys):
    soundfile.write(tmp_path / "short.wav", np.full(120, 0.2), 16_000)
    for arguments, wanted in (
        ([str(tmp_path), str(recordings)], "no such file; give the run folder"),
        (["--json", str(runs / "ks"), str(tmp_path / "short.wav")], "short.wav: "),
        (["--device", "abacus", str(runs / "ks"), str(recordings)], "--device abacus: not usable"),
        ([str(runs / "ks"), str(tmp_path / "nothing")], "no recordings"),
        (["--window", "0.5", str(runs / "ks"), str(recordings)], "--window 0.5: too short"),
    ):
        capsys.readouterr()
        assert main(["predict", *arguments]) == 2
        assert wanted in (error := capsys.readouterr().err) and len(error.strip().splitlines()) == 1


def test_rttm_names_are_names():
    names = recording_names(["a/my meeting.wav", "a/x.wav", "b/x.flac"])
    assert names == ["my_meeting", "a/x.wav", "b/x.flac"]


def test_audio_is_treated_as_in_training(tiny, tmp_path, recordings):
    """What the recipe of the corpus did, and what the data did, is done to new recordings as well."""
    corpus = tmp_path / "sv"
    shutil.copytree(tiny / "sv", corpus)
    body = json.loads((corpus / "corpus.json").read_text())
    body["source"] |= {"gain_db": -3.0, "trim": True}
    (corpus / "corpus.json").write_text(json.dumps(body))
    arguments = ["fit", "-c", "configs/superb/mini/sv.yaml", "--data.corpus", str(corpus), "--data.gain_db", "-1"]
    arguments += ["--model.upstream", "wavlm_lightning.upstreams.Fbank", "--data.cache", "null"]
    arguments += ["--trainer.default_root_dir", str(tmp_path / "run"), "--trainer.max_steps", "1"]
    arguments += ["--trainer.val_check_interval", "1", "--trainer.accelerator", "cpu"]
    assert main(arguments) == 0
    path = recordings / "0.flac"
    expected = trim_silence(gain(load_mono(path), -4.0))
    head = open_head(tmp_path / "run")
    louder = dataclasses.replace(head, gain_db=60.0, trim=False)  # training clips nothing, whatever `data.gain_db`
    assert np.array_equal(louder.read(path), load_mono(path) * np.float32(1000))
    assert np.array_equal(head.read(path), expected) and head.task.trained_level == pytest.approx(10 ** (-4 / 20))
