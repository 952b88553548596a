"""`wavlm predict` over many recordings of which some are bad, killed in the middle, and with names that become alike."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from wavlm_lightning.cli import main
from wavlm_lightning.metrics.rttm import parse_rttm
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import locked
from wavlm_lightning.system.paths import unique_names
from wavlm_lightning.tasks import KeywordSpotting, SpeakerDiarization
from wavlm_lightning.upstreams import Fbank
from wavlm_lightning.workflows.predict import predict_recordings
from wavlm_lightning.workflows.predict import recordings as applied
from wavlm_lightning.workflows.predict.written import LOCK, UNFINISHED, recording_names


def save_run(folder: Path, kind: type, labels: list[str], bias: float = 0.0) -> Path:
    """A run folder with a head of random weights on filter banks."""
    task = kind(Fbank(cmvn=False))
    task.build(labels)
    task.classifier.bias.data += bias
    kept = {"name": kind.name, "labels": labels, "protocol": "superb", "upstream_sha256": task.upstream.fingerprint()}
    (folder / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": task.state_dict(), "task": kept}, folder / "checkpoints" / "best.ckpt")
    upstream = {"class_path": "wavlm_lightning.upstreams.Fbank", "init_args": {"cmvn": False}}
    model = {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": {"upstream": upstream}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model, "data": {"init_args": {}}}))
    return folder


@pytest.fixture
def run(tmp_path) -> Path:
    return save_run(tmp_path / "run", KeywordSpotting, ["no", "yes"])


@pytest.fixture
def good(tmp_path) -> list[Path]:
    folder, rng = tmp_path / "in", np.random.default_rng(0)
    folder.mkdir()
    paths = [folder / f"{number}.wav" for number in range(5)]
    for number, path in enumerate(paths):
        soundfile.write(path, rng.uniform(-0.3, 0.3, 8_000 + 800 * number), 16_000)
    return paths


@pytest.fixture
def mixed(good) -> Path:
    """The good ones between an empty file, silence, one of 100 samples, another format, and a name that is not UTF-8."""
    folder = good[0].parent
    (folder / "0-empty.wav").write_bytes(b"")
    soundfile.write(folder / "1-silent.wav", np.zeros(8_000), 16_000)
    soundfile.write(folder / "2-short.wav", np.full(100, 0.2), 16_000)
    (folder / "3-text.flac").write_text("not audio")
    (Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.wav"))).write_bytes(good[0].read_bytes())
    return folder


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


BAD = {"0-empty.wav": "empty", "1-silent.wav": "silent", "2-short.wav": "100 samples", "3-text.flac": "audio"}


@pytest.mark.parametrize("on_error", [None, "skip"])
def test_the_good_ones_are_predicted_and_the_bad_ones_named(run, mixed, tmp_path, capsys, on_error):
    arguments = ["predict", str(run), str(mixed), "--json", "--out", str(tmp_path / "out")]
    assert main(arguments + ([] if on_error is None else ["--on-error", on_error])) == (2 if on_error is None else 0)
    said = capsys.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert rows == lines(tmp_path / "out" / "predictions.jsonl")
    names = [Path(row["file"]).name for row in rows]
    assert names == ["0.wav", "1.wav", "2.wav", "3.wav", "4.wav", "caf\\xe9.wav"]
    failures = {Path(row["file"]).name: row["why"] for row in lines(tmp_path / "out" / "failed.jsonl")}
    assert failures.keys() == BAD.keys()
    for name, why in BAD.items():
        assert why in failures[name] and name in said.err
    assert ("4 of 10 recordings are left out" in said.err) == (on_error is None)
    assert not (tmp_path / "out" / UNFINISHED).exists() and not (tmp_path / "out" / LOCK).exists()


def test_stop_keeps_what_was_done_and_a_repaired_file_goes_on(run, good, tmp_path, monkeypatch):
    out, heard = tmp_path / "out", []
    kept = good[2].read_bytes()
    good[2].write_bytes(b"")
    with pytest.raises(UserError, match=r"2\.wav.*--on-error skip"):
        list(predict_recordings(run, good, out=out, on_error="stop"))
    assert [Path(row["file"]).name for row in lines(out / "predictions.jsonl")] == ["0.wav", "1.wav"]
    good[2].write_bytes(kept)
    read = applied.TrainedHead.read
    monkeypatch.setattr(applied.TrainedHead, "read", lambda self, path: heard.append(path.name) or read(self, path))
    rows = list(predict_recordings(run, good, out=out, on_error="stop"))
    assert heard == ["2.wav", "3.wav", "4.wav"]
    assert rows == lines(out / "predictions.jsonl") == list(predict_recordings(run, good))
    assert not (out / "failed.jsonl").exists()


def test_an_interrupted_run_goes_on_with_whole_lines_in_order(run, good, tmp_path):
    out = tmp_path / "out"
    whole = list(predict_recordings(run, good, batch_seconds=1))
    begun = predict_recordings(run, good, out=out, batch_seconds=1)
    first = [next(begun), next(begun), next(begun)]
    begun.close()
    assert lines(out / "predictions.jsonl") == first == whole[:3]
    with (out / "predictions.jsonl").open("a") as file:
        file.write('{"file": "half')  # a full disk, or a power failure
    soundfile.write(good[1], np.random.default_rng(5).uniform(-0.3, 0.3, 9_000), 16_000)  # changed since
    rows = list(predict_recordings(run, good, out=out, batch_seconds=1))
    assert rows == lines(out / "predictions.jsonl") == list(predict_recordings(run, good, batch_seconds=1))
    assert rows[1] != whole[1] and rows[0] == whole[0]
    begun = predict_recordings(run, good, out=out, batch_seconds=1)
    next(begun)
    begun.close()
    other = save_run(tmp_path / "other", KeywordSpotting, ["no", "yes"], bias=3.0)
    rows = list(predict_recordings(other, good, out=out, batch_seconds=1))
    assert rows == lines(out / "predictions.jsonl") == list(predict_recordings(other, good, batch_seconds=1))


def test_two_at_once_are_refused(run, good, tmp_path):
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out" / LOCK), pytest.raises(UserError, match="another process is writing"):
        list(predict_recordings(run, good, out=tmp_path / "out"))


class Picky(KeywordSpotting):
    """Fails on a batch that holds a recording of a certain length."""

    def outputs(self, features, lengths):
        if (lengths == 53).any():
            raise RuntimeError("Kernel size can't be greater than actual input size")
        return super().outputs(features, lengths)


def test_an_error_in_a_batch_names_the_recording(good, tmp_path, capsys):
    run = save_run(tmp_path / "picky", Picky, ["no", "yes"])
    assert main(["predict", str(run), *map(str, good), "--json"]) == 2
    said = capsys.readouterr()
    assert [Path(json.loads(line)["file"]).name for line in said.out.splitlines()] == [
        "0.wav",
        "2.wav",
        "3.wav",
        "4.wav",
    ]
    assert "1.wav: RuntimeError: Kernel size" in said.err


def test_names_made_safe_stay_apart(tmp_path, good):
    """NeMo#8100: blanks in names merged the turns of two recordings."""
    run, folder = save_run(tmp_path / "sd", SpeakerDiarization, ["speaker1", "speaker2"], bias=5.0), tmp_path / "alike"
    folder.mkdir()
    for name in ("a b.wav", "a_b.wav", "a\tb.wav"):
        (folder / name).write_bytes(good[0].read_bytes())
    rows = list(predict_recordings(run, [folder], out=tmp_path / "out"))
    parsed = parse_rttm((tmp_path / "out" / "predictions.rttm").read_text().splitlines())
    assert len(parsed) == 3 and {len(turns) for turns in parsed.values()} == {len(rows[0]["turns"])} != {0}
    assert unique_names(["a", "A", "a-2", "a"]) == ["a", "A-2", "a-2-2", "a-3"]
    assert len(set(recording_names(["x/a b.wav", "x/a_b.wav", "y.wav", "y.wav"]))) == 4


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_killed_in_a_process(run, good, tmp_path, how):
    out, folder = tmp_path / "out", good[0].parent
    for number in range(5, 400):
        (folder / f"{number}.wav").write_bytes(good[number % 5].read_bytes())
    command = [sys.executable, "-m", "wavlm_lightning", "predict", str(run), str(folder), "--out", str(out)]
    process = subprocess.Popen([*command, "--batch-seconds", "1"], stdout=subprocess.DEVNULL, start_new_session=True)
    while not (out / "predictions.jsonl").exists() or len((out / "predictions.jsonl").read_bytes()) < 500:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(how)
    assert process.wait(60) == (-9 if how == signal.SIGKILL else 130)
    content = (out / "predictions.jsonl").read_text()
    done = [json.loads(line) for line in content.splitlines()]
    assert content.endswith("\n") and 0 < len(done) < 400
    rows = list(predict_recordings(run, [folder], out=out))
    assert rows[: len(done)] == done and len(rows) == 400
