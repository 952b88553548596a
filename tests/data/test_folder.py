"""`wavlm prepare folder` on folders as people have them."""

import csv

import numpy as np
import pytest
import soundfile

from wavlm_lightning.cli import main
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.folder import FolderRecipe
from wavlm_lightning.data.label_sets import label_sets, values
from wavlm_lightning.data.recordings import CorpusPlan, Recording
from wavlm_lightning.data.writing import write_corpus
from wavlm_lightning.system.errors import UserError


@pytest.fixture
def recordings(tmp_path):
    folder = tmp_path / "recordings"
    rng = np.random.default_rng(0)
    rows = []
    for i in range(40):
        path = folder / f"day{i % 2}" / f"take.{i:02d}.{['wav', 'flac', 'ogg'][i % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        rate = [8000, 16000, 22050][i % 3]
        soundfile.write(path, rng.uniform(-0.3, 0.3, rate), rate)
        rows.append(
            {
                "path": str(path.relative_to(folder)),
                "speaker": f"s{i % 12}",
                "transcript": f"text {i}",
                "mood": "x",
                "phones": "T EH",
            }
        )
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_manifest_with_speakers(recordings, tmp_path):
    corpus = FolderRecipe(recordings, tmp_path / "c", tmp_path / "manifest.csv", valid=0.1, test=0.1).prepare(workers=1)
    assert corpus.splits == ["train", "valid", "test"]
    metas = {split: corpus.split(split).metas() for split in corpus.splits}
    assert sum(map(len, metas.values())) == 40
    speakers = [{meta["speaker"] for meta in part} for part in metas.values()]
    assert not (speakers[0] & speakers[1] or speakers[0] & speakers[2] or speakers[1] & speakers[2])
    assert metas["train"][0]["text"].startswith("text") and metas["train"][0]["mood"] == "x"
    assert metas["train"][0]["phones"] == [["T"], ["EH"]] and corpus.inventory("phones") == ["EH", "T"]
    assert all(abs(n - 16_000) <= 1 for n in corpus.split("train").samples)


@pytest.mark.usefixtures("quick_processes")
def test_two_workers_make_the_same_corpus(recordings, tmp_path, monkeypatch):
    monkeypatch.setattr("wavlm_lightning.data.folder.SHARD_FILES", 16)
    one = FolderRecipe(recordings, tmp_path / "one", name="x").prepare(workers=1)
    two = FolderRecipe(recordings, tmp_path / "two", name="x").prepare(workers=2)
    assert len(one.split("train").shards) > 1
    assert one.sha256 == two.sha256


def test_interrupted_run_keeps_finished_shards(recordings, tmp_path, monkeypatch):
    monkeypatch.setattr("wavlm_lightning.data.folder.SHARD_FILES", 10)
    bad = recordings / "day0" / "zz.wav"
    bad.write_text("no audio")
    recipe = FolderRecipe(recordings, tmp_path / "c")
    with pytest.raises(UserError, match=r"zz\.wav"):
        recipe.prepare(workers=1)
    finished = {p: p.stat().st_mtime_ns for p in (tmp_path / "c").glob("*.tar")}
    assert finished and not (tmp_path / "c" / "corpus.json").exists()
    soundfile.write(bad, np.full(16000, 0.1), 16000)
    recipe.prepare(workers=1)
    kept = [p for p, time in finished.items() if p.stat().st_mtime_ns == time]
    assert kept and sum(len(Corpus.open(tmp_path / "c").split(s)) for s in ("train", "valid", "test")) == 41


def test_bad_files_are_skipped_and_counted(recordings, tmp_path, capsys):
    (recordings / "broken.wav").write_text("no audio")
    soundfile.write(recordings / "silent.wav", np.zeros(8000), 16000)
    arguments = ["prepare", "folder", str(recordings), "--out", str(tmp_path / "c"), "--workers", "1"]
    assert main(arguments) == 2
    assert "broken.wav" in (message := capsys.readouterr().err) and message.strip().count("\n") <= 3
    assert main([*arguments, "--on-error", "skip"]) == 0
    assert "skipped 2 files" in capsys.readouterr().out
    skipped = Corpus.open(tmp_path / "c").body["source"]["skipped"]
    assert sorted(entry["file"].rsplit("/", 1)[-1] for entry in skipped) == ["broken.wav", "silent.wav"]


def test_a_speaker_of_whom_nothing_is_left_is_in_no_inventory(recordings, tmp_path):
    (recordings / "bad.wav").write_text("no audio")
    (tmp_path / "m.csv").write_text("path,speaker\nbad.wav,ghost\nday0/take.00.wav,s0\nday0/take.02.ogg,s1\n")
    recipe = FolderRecipe(recordings, tmp_path / "c", tmp_path / "m.csv", on_error="skip", valid=0.0, test=0.0)
    assert recipe.prepare(workers=1).inventory("speakers") == ["s0", "s1"]


def test_splits_of_the_manifest_are_kept(recordings, tmp_path):
    rows = list(csv.DictReader((tmp_path / "manifest.csv").open()))
    with (tmp_path / "split.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "split"])
        writer.writeheader()
        writer.writerows({**row, "split": "dev" if i < 5 else "train"} for i, row in enumerate(rows))
    corpus = FolderRecipe(recordings, tmp_path / "c", tmp_path / "split.csv").prepare(workers=1)
    assert {split: len(corpus.split(split)) for split in corpus.splits} == {"dev": 5, "train": 35}


def test_columns_of_further_audio(recordings, tmp_path):
    rows = "day0/take.00.wav,day1/take.01.flac,x\nday0/take.02.ogg,,y\n"
    (tmp_path / "m.csv").write_text(f"path,audio:enrolment,mood\n{rows}")
    corpus = FolderRecipe(recordings, tmp_path / "c", tmp_path / "m.csv", valid=0.0, test=0.0).prepare(workers=1)
    split = corpus.split("train")
    assert split.audio_members == ("enrolment",)
    (shard,) = split.shards
    first, second = split.metas()
    assert first == {"mood": "x", "file": "day0/take.00.wav"} and second["mood"] == "y"
    assert len(shard.further_audio(0)["enrolment"]) == 16_000 and shard.further_audio(1) == {}
    heard, _ = soundfile.read(recordings / "day1" / "take.01.flac", dtype="float32")
    assert np.abs(shard.waveform(0, member="enrolment") - heard).max() < 1e-4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,text\na.wav,x\n", "no column `path`"),
        ("path,text\n,x\n", "line 2: the path is empty"),
        ("path\nmissing.wav\n", "missing.wav: no such file"),
        ("path,audio:clean\nday0/take.00.wav,missing.wav\n", "missing.wav: no such file"),
        ("path,audio:Clean\nday0/take.00.wav,\n", "column `audio:Clean`: 'Clean' is not a valid name"),
    ],
)
def test_wrong_manifests(recordings, tmp_path, content, message):
    (tmp_path / "m.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        FolderRecipe(recordings, tmp_path / "c", tmp_path / "m.csv").prepare(workers=1)


def test_keys_that_would_collide_stay_apart(tmp_path):
    for name in ("a.b.wav", "a_b.wav", "a b.wav"):
        (tmp_path / "r").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "r" / name, np.full(16000, 0.1), 16000)
    corpus = FolderRecipe(tmp_path / "r", tmp_path / "c", valid=0.0, test=0.0).prepare(workers=1)
    assert len(set(corpus.split("train").keys)) == 3


def test_empty_folder_and_no_folder(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        FolderRecipe(tmp_path / "nowhere", tmp_path / "c").prepare()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="file here or below"):
        FolderRecipe(tmp_path / "empty", tmp_path / "c").prepare()


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"label": ["a", "b"]}, r"label column label: \['a', 'b'\] is not text"),
        ({"intent": "open"}, "intent: 'open' does not say which slot it is"),
        ({"intent": {"action": 3}}, "label column action: 3 is not text"),
        ({"intent": None, "phones": None, "label": None}, None),
    ],
)
def test_labels_are_refused_before_audio_is_written(recordings, tmp_path, meta, message):
    audio = Recording(recordings / "day0" / "take.00.wav", "a", {"speaker": "anna", **meta})
    plan = CorpusPlan("c", "CC0", {"train": [audio]}, label_sets)
    if message is None:
        assert write_corpus(plan, tmp_path / "c", workers=1).inventories == {"speakers": ["anna"]}
    else:
        with pytest.raises(UserError, match=message):
            write_corpus(plan, tmp_path / "c", workers=1)
        assert not list((tmp_path / "c").glob("*.tar"))


def test_numbers_are_no_classes_also_0():
    assert values([{"mood": "glad"}, {"mood": ""}, {}], "mood") == ["glad"]
    for metas in ([{"mood": 0}, {"mood": 1}], [{"mood": 0}, {"mood": "glad"}], [{"mood": False}]):
        with pytest.raises(UserError, match="is not text; a class is a name"):
            values(metas, "mood")
