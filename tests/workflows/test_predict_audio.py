"""`wavlm predict --out` of heads that answer with audio: one file for each recording."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from torch import Tensor, nn

from wavlm_lightning.audio import load_mono
from wavlm_lightning.cli import main
from wavlm_lightning.data.batch import Waveforms
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import WaveformTask
from wavlm_lightning.upstreams import Fbank
from wavlm_lightning.workflows.predict import predict_recordings
from wavlm_lightning.workflows.predict.audio_files import file_names
from wavlm_lightning.workflows.predict.head import open_head
from wavlm_lightning.workflows.predict.recordings import predict_files


class Scale(WaveformTask):
    """Multiplies the input by one number."""

    name = "SCALE"

    def build_head(self, dim: int) -> None:
        self.factor = nn.Parameter(torch.ones(()))

    def enhance(self, features: Tensor, lengths: Tensor, audio: Waveforms) -> Tensor:
        return self.factor * audio.audio


def save_run(folder: Path, factor: float, **processing: object) -> Path:
    """A run folder as `wavlm fit` leaves it."""
    task = Scale(Fbank(cmvn=False))
    task.build(["clean"])
    task.factor.data.fill_(factor)
    kept = {"name": "SCALE", "labels": ["clean"], "protocol": "superb", "processing": processing}
    kept["upstream_sha256"] = task.upstream.fingerprint()
    (folder / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": task.state_dict(), "task": kept}, folder / "checkpoints" / "best.ckpt")
    upstream = {"class_path": "wavlm_lightning.upstreams.Fbank", "init_args": {"cmvn": False}}
    model = {"class_path": f"{__name__}.Scale", "init_args": {"upstream": upstream}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model, "data": {"init_args": {}}}))
    return folder


@pytest.fixture
def recordings(tmp_path) -> Path:
    """Names that are alike, a stereo file at another rate, one with quiet ends, and one of more than a window."""
    folder = tmp_path / "recordings"
    generator = np.random.default_rng(0)
    for name, rate, seconds in (
        ("a/talk.flac", 16_000, 1.5),
        ("b/talk.wav", 22_050, 0.8),
        ("b/long one.wav", 16_000, 4.2),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = 0.3 * generator.uniform(-1, 1, (round(rate * seconds), 2 if rate > 16_000 else 1))
        noise[: rate // 4] *= 1e-4
        soundfile.write(path, noise, rate)
    return folder


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("form", "processing"), [("wav", {}), ("flac", {"gain_db": -6.0, "trim": True})])
def test_a_file_for_each_recording_sample_by_sample(recordings, tmp_path, capsys, form, processing):
    """At the level and of the length of the recording, whatever the corpus recipe did to the training audio."""
    run, out = save_run(tmp_path / "run", 0.5, **processing), tmp_path / "out"
    arguments = [
        "predict",
        str(run),
        str(recordings),
        "--out",
        str(out),
        "--json",
        "--window",
        "2",
        "--audio-format",
        form,
    ]
    assert main(arguments) == 0
    rows = rows_of(out)
    assert rows == [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["audio"] for row in rows] == [f"talk.{form}", f"long_one.{form}", f"talk-2.{form}"]
    assert sorted(path.name for path in out.iterdir()) == sorted([row["audio"] for row in rows] + ["predictions.jsonl"])
    for row in rows:
        written, rate = soundfile.read(out / row["audio"], dtype="float32")
        heard = load_mono(row["file"])
        assert rate == 16_000 and written.shape == heard.shape and "clipped" not in row
        assert np.abs(written - 0.5 * heard).max() < 2 / 32768
        assert row["seconds"] == round(len(heard) / 16_000, 2)
        assert row["level_db"] == pytest.approx(10 * np.log10(np.mean((0.5 * heard) ** 2)), abs=0.06)


def test_clipping_is_counted_and_the_level_stays(recordings, tmp_path, capsys):
    run, out = save_run(tmp_path / "run", 5.0), tmp_path / "out"
    assert main(["predict", str(run), str(recordings / "a"), "--out", str(out)]) == 0
    (row,) = rows_of(out)
    wanted = 5 * load_mono(row["file"])
    assert row["clipped"] == (np.abs(wanted) > 1).sum() > 0
    assert f"clipped {row['clipped']}" in capsys.readouterr().out
    written, _ = soundfile.read(out / row["audio"], dtype="float32")
    assert np.abs(written - np.clip(wanted, -1, 1)).max() < 2 / 32768


def test_without_a_folder_a_row_has_no_audio(recordings, tmp_path, capsys):
    run = save_run(tmp_path / "run", 1.0)
    assert main(["predict", str(run), str(recordings / "a")]) == 0
    assert capsys.readouterr().out.strip().endswith("talk.flac: seconds 1.5, level_db -16.1")


def test_again_interrupted_and_with_another_head(recordings, tmp_path):
    """Every file in the list is of the head that wrote the list, also if it was interrupted."""
    out, one, other = tmp_path / "out", save_run(tmp_path / "one", 0.25), save_run(tmp_path / "other", 0.5)
    first = list(predict_recordings(one, [recordings], out=out, batch_seconds=1))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert list(predict_recordings(one, [recordings], out=out, batch_seconds=1)) == first
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    interrupted = predict_recordings(other, [recordings], out=out, batch_seconds=1)
    next(interrupted)
    interrupted.close()
    assert len(rows_of(out)) == 1 and not list(out.glob("*.tmp"))
    list(predict_recordings(other, [recordings, recordings], out=out))
    rows = rows_of(out)
    assert len(rows) == 3
    for row in rows:
        written, _ = soundfile.read(out / row["audio"], dtype="float32")
        assert np.abs(written - 0.5 * load_mono(row["file"])).max() < 2 / 32768


def test_recordings_are_never_replaced_nor_heard_again(recordings, tmp_path):
    run = save_run(tmp_path / "run", 1.0)
    before = {path: path.read_bytes() for path in recordings.rglob("*.*")}
    for given, out in ((recordings, recordings / "clean"), (recordings, recordings)):
        with pytest.raises(UserError, match=r"--out .*: lies in .*; give a folder elsewhere"):
            list(predict_recordings(run, [given], out=out))
    with pytest.raises(UserError, match=r"--out .*: would replace the recording .*talk.wav"):
        list(predict_recordings(run, [recordings / "b" / "talk.wav"], out=recordings / "b"))
    assert {path: path.read_bytes() for path in recordings.rglob("*.*")} == before


def test_a_diverged_head_is_one_sentence(recordings, tmp_path):
    run = save_run(tmp_path / "run", float("nan"))
    with pytest.raises(UserError, match="values of factor are NaN or infinite"):
        list(predict_recordings(run, [recordings / "a"], out=tmp_path / "out"))
    head = open_head(save_run(tmp_path / "other", 1.0))
    head.task.factor.data.fill_(float("nan"))
    with pytest.raises(UserError, match=r"talk.flac: the answer holds NaN"):
        list(predict_files(head, [recordings / "a" / "talk.flac"], 60.0))


def test_names_are_safe_and_unique_without_case():
    given = ["a/..", "x/Talk.mp3", "y/talk.wav", "z/talk-2.wav", "q/é: 1?.wav", "r/" + "n" * 300 + ".wav"]
    names = file_names([Path(each) for each in given], "wav")
    assert names[:5] == ["recording.wav", "Talk.wav", "talk-2.wav", "talk-2-2.wav", "é_1_.wav"]
    assert len(names[5]) < 110 and len({name.lower() for name in names}) == len(names)
