"""From a plan to a corpus: stretches, trimming, what is left out and said, and where a second run goes on."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wavlm_lightning.audio import BadAudio, gain, trim_silence
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.recordings import (
    AudioFile,
    CorpusPlan,
    Recording,
    check_counts,
    clean_key,
    existing,
    hold_out,
    require_file,
    require_folder,
)
from wavlm_lightning.data.writing import write_corpus
from wavlm_lightning.system.errors import UserError


def noise(path: Path, seconds: float = 0.5, rate: int = 16_000, level: float = 0.3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name) + round(1000 * seconds))
    soundfile.write(path, level * rng.uniform(-1, 1, round(seconds * rate)), rate)
    return path


def test_a_stretch_is_that_of_the_whole(tmp_path):
    for rate in (8_000, 16_000):
        path = noise(tmp_path / f"{rate}.flac", 2.0, rate)
        whole, _ = soundfile.read(path, dtype="float32")
        stretch = Recording(path, "a", {}, start=0.25, end=1.5).waveform()
        assert len(stretch) == 1.25 * 16_000
        if rate == 16_000:
            np.testing.assert_array_equal(stretch, whole[4_000:24_000])
        assert len(Recording(path, "a", {}, start=1.5).waveform()) == 8_000
        # Segment tables are rounded: a little behind the end is the end.
        assert len(Recording(path, "a", {}, start=1.0, end=2.05).waveform()) == 16_000


@pytest.mark.parametrize(("start", "end"), [(0.0, 2.5), (3.0, None), (2.0, None), (1.0, 1.0)])
def test_a_stretch_that_is_not_there(tmp_path, start, end):
    path = noise(tmp_path / "a.flac", 2.0)
    with pytest.raises(BadAudio, match=r"a\.flac.*(ends at 2\.00 s|empty)"):
        Recording(path, "a", {}, start=start, end=end).waveform()


def test_gain_comes_before_trimming(tmp_path):
    rng = np.random.default_rng(0)
    # Loud enough before the gain, too quiet behind it.
    parts = [0.3 * rng.uniform(-1, 1, 8_000), np.full(8_000, 0.0012), 0.3 * rng.uniform(-1, 1, 8_000)]
    soundfile.write(tmp_path / "a.wav", np.concatenate(parts), 16_000, subtype="PCM_16")
    audio, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    read = Recording(tmp_path / "a.wav", "a", {}, gain_db=-3.0, trim=True).waveform()
    np.testing.assert_array_equal(read, trim_silence(gain(audio, -3.0)))
    assert len(read) < len(trim_silence(audio)) == len(audio)


def test_what_is_trimmed_to_nothing_is_bad_or_too_short(tmp_path):
    path = noise(tmp_path / "a.wav", 0.5, level=0.001)
    with pytest.raises(BadAudio, match="after trimming: empty"):
        Recording(path, "a", {}, trim=True).waveform()
    assert len(Recording(path, "a", {}, trim=True, longer_than=0.1).waveform()) == 0


def test_silence_where_silence_is_a_class(tmp_path):
    soundfile.write(tmp_path / "s.wav", np.zeros(8_000), 16_000)
    loud = noise(tmp_path / "a.wav")
    silent = Recording(tmp_path / "s.wav", "s", {"keyword": "_silence_"}, allow_silence=True)
    plan = CorpusPlan("x", "CC0", {"train": [Recording(loud, "a", {}), silent]}, {})
    corpus = write_corpus(plan, tmp_path / "c", workers=1)
    assert [len(w) for _, w, _ in corpus.split("train").utterances()] == [8_000, 8_000]
    strict = CorpusPlan("x", "CC0", {"train": [Recording(tmp_path / "s.wav", "s", {})]}, {})
    with pytest.raises(UserError, match=r"s\.wav: silent.*--on-error skip"):
        write_corpus(strict, tmp_path / "d", workers=1)


def plan_of(tmp_path, **more) -> CorpusPlan:
    train = [
        Recording(noise(tmp_path / "r" / f"t{i}.wav", 0.1 * (i + 1)), f"t{i}", {"speaker": f"s{i}"}, longer_than=0.2)
        for i in range(4)
    ]
    valid = [Recording(noise(tmp_path / "r" / f"v{i}.wav"), f"v{i}", {"speaker": "v"}) for i in range(3)]
    trials = {"valid": [(1, "v0", "v1"), (0, "v0", "v2")]}
    return CorpusPlan("x", "CC0", {"train": train, "valid": valid, "test": []}, {"speakers": ["s3"]}, trials, **more)


def test_short_ones_are_left_out_and_counted(tmp_path):
    corpus = write_corpus(plan_of(tmp_path, source={"recipe": "x"}), tmp_path / "c", workers=1)
    # 0.2 s is not longer than 0.2 s.
    assert corpus.split("train").keys == ["t2", "t3"] and corpus.splits == ["train", "valid"]
    assert corpus.body["source"] == {"recipe": "x", "skipped": [], "too_short": {"train": 2}}
    assert corpus.trials("valid") == [(1, "v0", "v1"), (0, "v0", "v2")]
    assert corpus.inventories == {"speakers": ["s3"]}


def test_trials_of_a_skipped_file_are_dropped(tmp_path):
    plan = plan_of(tmp_path)
    (tmp_path / "r" / "v2.wav").write_text("no audio")
    corpus = write_corpus(plan, tmp_path / "c", workers=1, on_error="skip")
    assert corpus.trials("valid") == [(1, "v0", "v1")]
    assert corpus.body["source"]["trials_dropped"] == {"valid": 1}
    assert [entry["key"] for entry in corpus.body["source"]["skipped"]] == ["v2"]


def test_inventories_may_depend_on_what_was_written(tmp_path):
    plan = plan_of(tmp_path)
    (tmp_path / "r" / "t3.wav").write_text("no audio")
    plan = CorpusPlan(plan.name, plan.licence, plan.splits, lambda written: {"speakers": metas_of(written)})
    corpus = write_corpus(plan, tmp_path / "c", workers=1, on_error="skip")
    assert corpus.inventory("speakers") == {"train": ["s2"], "valid": ["v", "v", "v"]}


def metas_of(written):
    return {split: [meta["speaker"] for meta in metas] for split, metas in written.items()}


@pytest.mark.usefixtures("quick_processes")
def test_processes_and_a_second_run_change_nothing(tmp_path, monkeypatch):
    plan = plan_of(tmp_path, shard_files=1)
    pickle.loads(pickle.dumps(plan))
    first = write_corpus(plan, tmp_path / "c", workers=2)
    assert len(first.split("valid").shards) == 3
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "c").glob("*.tar")}
    # Nothing is read again, and what was left out is still known.
    monkeypatch.setattr(Recording, "waveform", None)
    second = write_corpus(plan, tmp_path / "c", workers=1)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "c").glob("*.tar")} == times
    assert (second.sha256, second.body["source"]) == (first.sha256, first.body["source"])


def test_another_way_of_reading_writes_the_shard_anew(tmp_path):
    path = noise(tmp_path / "a.wav", 1.0)
    lengths = []
    for more in ({}, {"end": 0.5}, {"start": 0.25}, {"gain_db": -3.0}):
        plan = CorpusPlan("x", "CC0", {"train": [Recording(path, "a", {}, **more)]}, {})
        corpus = write_corpus(plan, tmp_path / "c", workers=1)
        lengths.append((int(corpus.split("train").samples[0]), corpus.sha256))
    assert [samples for samples, _ in lengths] == [16_000, 8_000, 12_000, 16_000] and len(set(lengths)) == 4


def test_further_audio_is_written_beside_and_belongs_to_the_stamp(tmp_path):
    path, clean = noise(tmp_path / "a.wav", 1.0), noise(tmp_path / "clean.wav", 1.0)
    found = []
    for audio in ({}, {"clean": AudioFile(clean)}, {"clean": AudioFile(clean, 0.25, 0.5)}, {"clean": AudioFile(path)}):
        plan = CorpusPlan("x", "CC0", {"train": [Recording(path, "a", {}, end=0.5, audio=audio)]}, {})
        corpus = write_corpus(plan, tmp_path / "c", workers=1)
        shard = corpus.split("train").shards[0]
        found.append((shard.samples[0], len(shard.further_audio(0).get("clean", [])), corpus.sha256))
    assert [each[:2] for each in found] == [(8_000, 0), (8_000, 16_000), (8_000, 4_000), (8_000, 16_000)]
    assert len({sha256 for *_, sha256 in found}) == 4


def test_an_utterance_whose_further_audio_is_bad_is_skipped_by_its_name(tmp_path):
    path = noise(tmp_path / "a.wav", 1.0)
    audio = {"clean": AudioFile(tmp_path / "gone.wav")}
    recordings = [Recording(path, "a", {}, audio=audio), Recording(path, "b", {})]
    plan = CorpusPlan("x", "CC0", {"train": recordings}, {})
    with pytest.raises(UserError, match=r"gone\.wav"):
        write_corpus(plan, tmp_path / "c", workers=1)
    corpus = write_corpus(plan, tmp_path / "c", workers=1, on_error="skip")
    assert corpus.split("train").keys == ["b"] and corpus.split("train").audio_members == ()
    assert "gone.wav" in corpus.body["source"]["skipped"][0]["why"]


def test_nothing_to_write(tmp_path):
    with pytest.raises(UserError, match="no utterance was written"):
        write_corpus(CorpusPlan("x", "CC0", {"train": []}, {}), tmp_path / "c", workers=1)
    with pytest.raises(UserError, match=r"no corpus\.json"):
        Corpus.open(tmp_path / "c")


def test_counts(tmp_path, capsys):
    official = {"train": 1_200, "test": 3}
    check_counts({"train": 1_200, "test": 3, "more": 9}, official, False, tmp_path)
    with pytest.raises(UserError, match=r"train has 7 utterances instead of 1,200.*--allow-partial") as error:
        check_counts({"train": 7, "test": 3}, official, False, tmp_path)
    assert "test" not in str(error.value).replace(str(tmp_path), "")
    assert capsys.readouterr().err == ""
    check_counts({"train": 7}, official, True, tmp_path, "files")
    assert "train has 7 files instead of 1,200, test has 0 files instead of 3" in capsys.readouterr().err


def test_hold_out_is_stable_and_leaves_something():
    units = [f"s{i}" for i in range(20)]
    first = hold_out([*units, *units], {"valid": 0.11, "test": 0.05}, "speakers")
    assert sorted(first) == sorted(units)
    assert [list(first.values()).count(split) for split in ("valid", "test", "train")] == [3, 1, 16]
    grown = hold_out([*units, "s20"], {"valid": 0.11, "test": 0.05}, "speakers")
    assert sum(first[unit] != grown[unit] for unit in units) <= 2
    assert set(hold_out(units, {"valid": 0.0}, "files").values()) == {"train"}
    with pytest.raises(UserError, match="--valid and --test would hold out all 1 speakers"):
        hold_out(["a"], {"valid": 0.1, "test": 0.1}, "speakers")


def test_small_helpers(tmp_path):
    assert clean_key("a b/c.d-é_1") == "a_b_c_d-__1"
    there = noise(tmp_path / "a.wav")
    assert [r.key for r in existing([Recording(there, "a", {}), Recording(tmp_path / "b.wav", "b", {})])] == ["a"]
    assert require_folder(tmp_path, "x") == tmp_path and require_file(there, "x") == there
    with pytest.raises(UserError, match="it should hold y"):
        require_folder(there, "y")
    with pytest.raises(UserError, match="it should be y"):
        require_file(tmp_path, "y")


@pytest.mark.parametrize("further", [False, True])
def test_another_file_of_equal_size_and_time_writes_the_shard_anew(tmp_path, further):
    """As with an option that takes a corpus' other folder, unpacked from one tar: `mix_clean`, `mix_both`."""
    found = []
    for folder in ("mix_clean", "mix_both"):
        (tmp_path / folder).mkdir()
        path = noise(tmp_path / folder / "a.wav", 1.0)
        samples, rate = soundfile.read(path)
        soundfile.write(path, samples[::-1] if folder == "mix_both" else samples, rate)
        os.utime(path, (1, 1))
        own = noise(tmp_path / "own.wav", 1.0) if further else path
        os.utime(own, (1, 1))
        recording = Recording(own, "a", {}, audio={"clean": AudioFile(path)} if further else {})
        corpus = write_corpus(CorpusPlan("x", "CC0", {"train": [recording]}, {}), tmp_path / "c", workers=1)
        found.append(corpus.split("train").shards[0].waveform(0, member="clean" if further else None))
    np.testing.assert_array_equal(found[1], found[0][::-1])
