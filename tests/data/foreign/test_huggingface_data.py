"""Data sets of Hugging Face, as the library `datasets` and pyarrow write them, become corpora."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from shards_of_others import sound

from wavlm_lightning.audio import load_mono
from wavlm_lightning.cli import main
from wavlm_lightning.data.corpus import Corpus

pa = pytest.importorskip("pyarrow", reason="the extra [datasets]")
pq = pytest.importorskip("pyarrow.parquet")


def made(out: Path, *words: str | Path) -> Corpus:
    assert main(["prepare", "huggingface", *map(str, words), "--out", str(out), "--workers", "1"]) == 0
    return Corpus.open(out)


def refusal(capsys, out: Path, *words: str | Path) -> str:
    assert main(["prepare", "huggingface", *map(str, words), "--out", str(out), "--workers", "1"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def common_voice(numbers: range, speakers: int = 4, **extra) -> dict[str, list]:
    """Columns of Common Voice 11."""
    return {
        "client_id": [f"c{n % speakers}" for n in numbers],
        "path": [f"common_voice_en_{n}.mp3" for n in numbers],
        "audio": [{"bytes": sound(n, suffix="mp3", rate=48_000), "path": f"en/cv_{n}.mp3"} for n in numbers],
        "sentence": [f"Sentence \u200bnumber {n}." for n in numbers],
        "up_votes": [2 for _ in numbers],
        "age": ["" for _ in numbers],
        "locale": ["en" for _ in numbers],
        **{name: [value(n) for n in numbers] for name, value in extra.items()},
    }


def write(path: Path, columns: dict[str, list], features: dict | None = None, rows: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=rows)


def test_common_voice_in_parquet(tmp_path, capsys):
    folder = tmp_path / "cv"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: cc0-1.0\n---\n# Common Voice\n")
    for number in range(2):
        path = folder / "data" / f"train-{number:05d}-of-00002.parquet"
        write(path, common_voice(range(5 * number, 5 * number + 5)))
    write(folder / "data" / "validation-00000-of-00001.parquet", common_voice(range(10, 13)))
    write(folder / "data" / "test-00000-of-00001.parquet", common_voice(range(13, 15)))
    corpus = made(tmp_path / "c", folder)
    assert {name: len(corpus.split(name)) for name in corpus.splits} == {"test": 2, "train": 10, "valid": 3}
    assert corpus.body["licence"] == "cc0-1.0" and corpus.name == "cv"
    meta = corpus.split("valid").metas()[0]
    assert meta == {
        "text": "Sentence number 10.",
        "speaker": "c2",
        "language": "en",
        "path": "common_voice_en_10.mp3",
        "up_votes": 2,
        "file": "data/validation-00000-of-00001.parquet: en/cv_10.mp3",
        "split": "valid",
    }
    assert corpus.split("valid").keys == ["cv_10", "cv_11", "cv_12"]
    file = tmp_path / "x.mp3"
    file.write_bytes(sound(11, suffix="mp3", rate=48_000))
    assert np.abs(corpus.split("valid").shards[0].waveform(1) - load_mono(file)).max() < 1e-4
    said = capsys.readouterr().out
    assert "text from sentence (15)" in said and "speaker from client_id (15)" in said
    assert corpus.inventories["languages"] == ["en"]


def test_class_names_and_speakers_that_are_held_out(tmp_path):
    features = {
        "audio": {"_type": "Audio"},
        "emotion": {"_type": "ClassLabel", "names": ["calm", "glad"]},
        "accent": {"_type": "ClassLabel", "names": ["north", "south"]},
    }
    columns = common_voice(range(12), emotion=lambda n: n % 2, accent=lambda n: -1 if n == 5 else n % 2)
    write(tmp_path / "d" / "train.parquet", columns, features)
    corpus = made(tmp_path / "c", tmp_path / "d")
    speakers = [{meta["speaker"] for meta in corpus.split(name).metas()} for name in corpus.splits]
    assert len(speakers) == 3 and sum(map(len, speakers)) == len(set.union(*speakers)) == 4
    assert corpus.inventories["emotions"] == ["calm", "glad"] and corpus.inventories["accent"] == ["north", "south"]
    metas = {meta["file"]: meta for name in corpus.splits for meta in corpus.split(name).metas()}
    assert metas["train.parquet: en/cv_7.mp3"]["emotion"] == "glad"
    assert "accent" not in metas["train.parquet: en/cv_5.mp3"]


def test_columns_of_other_names(tmp_path, capsys):
    numbers = range(4)
    columns = {
        "speech": [{"bytes": sound(n), "path": None} for n in numbers],
        "noisy": [{"bytes": sound(50 + n), "path": None} for n in numbers],
        "words_said": [f"w {n}" for n in numbers],
        "uuid": [f"id/{n}" for n in numbers],
    }
    write(tmp_path / "d" / "train.parquet", columns)
    assert "several columns of audio (speech, noisy); choose one with --columns audio=NAME" in refusal(
        capsys, tmp_path / "c", tmp_path / "d"
    )
    assert "has no such column of text; it has words_said, uuid, speech" in refusal(
        capsys, tmp_path / "c", tmp_path / "d", "--columns", "audio=speech", "text=sentence"
    )
    assert "'text' is not NAME=FIELD" in refusal(capsys, tmp_path / "c", tmp_path / "d", "--columns", "text")
    corpus = made(tmp_path / "c", tmp_path / "d", "--columns", "audio=speech", "text=words_said", "id=uuid")
    found = {key: meta["text"] for name in corpus.splits for key, _, meta in corpus.split(name).utterances()}
    assert found == {f"id_{n}": f"w {n}" for n in numbers}


def test_configurations(tmp_path, capsys):
    for place, language in enumerate(("en", "de")):
        write(tmp_path / "d" / language / "train-00000-of-00001.parquet", common_voice(range(4 * place, 4 * place + 4)))
    assert "(de, en), which may be languages or versions" in refusal(capsys, tmp_path / "c", tmp_path / "d")
    corpus = made(tmp_path / "c", tmp_path / "d", "--config", "de")
    assert sorted(key for name in corpus.splits for key in corpus.split(name).keys) == [f"cv_{n}" for n in range(4, 8)]
    head = "---\nconfigs:\n- config_name: english\n  data_files:\n  - split: train\n    path: en/*\n"
    head += "- config_name: german\n  data_files:\n  - split: test\n    path: [de/*.parquet]\n---\n"
    (tmp_path / "d" / "README.md").write_text(head)
    assert "choose a configuration with --config: english, german" in refusal(capsys, tmp_path / "e", tmp_path / "d")
    assert made(tmp_path / "e", tmp_path / "d", "--config", "german").splits == ["test"]
    (tmp_path / "d" / "README.md").write_text(head.replace("en/*", "../../*"))
    assert "do not trust this data set" in refusal(capsys, tmp_path / "f", tmp_path / "d", "--config", "english")


def test_a_cell_does_not_name_files_of_this_machine(tmp_path, capsys):
    (tmp_path / "secret.wav").write_bytes(sound(1))
    (tmp_path / "d" / "clips").mkdir(parents=True)
    (tmp_path / "d" / "clips" / "a.wav").write_bytes(sound(2))
    for name in ("../secret.wav", str(tmp_path / "secret.wav"), "absent.wav"):
        write(
            tmp_path / "d" / "test.parquet",
            {"audio": [{"bytes": sound(0), "path": "b"}, {"bytes": None, "path": name}]},
        )
        assert "has no such file" in refusal(capsys, tmp_path / "c", tmp_path / "d")
    write(
        tmp_path / "d" / "test.parquet",
        {"audio": [{"bytes": sound(0), "path": "b"}, {"bytes": None, "path": "clips/a.wav"}]},
    )
    assert made(tmp_path / "c", tmp_path / "d").split("test").keys == ["b", "a"]


def test_what_cannot_be_used(tmp_path, capsys):
    columns = {
        "audio": [{"bytes": data, "path": f"{n}.wav"} for n, data in enumerate((sound(0), sound(1)[:2000], None))]
    }
    write(tmp_path / "d" / "test.parquet", columns)
    assert "row 1 of group 0, audio: truncated" in refusal(capsys, tmp_path / "c", tmp_path / "d")
    corpus = made(tmp_path / "c", tmp_path / "d", "--on-error", "skip")
    assert corpus.split("test").keys == ["0"] and len(corpus.body["source"]["skipped"]) == 2
    write(tmp_path / "e" / "test.parquet", {"text": ["a"]})
    assert "no column of audio files among text" in refusal(capsys, tmp_path / "c", tmp_path / "e")
    (tmp_path / "e" / "test.parquet").write_bytes(b"PAR1")
    assert "not readable as a table of a data set" in refusal(capsys, tmp_path / "c", tmp_path / "e")
    (tmp_path / "empty").mkdir()
    assert "use `wavlm prepare folder`" in refusal(capsys, tmp_path / "c", tmp_path / "empty")
    assert "no split 'dev'; it has test" in refusal(capsys, tmp_path / "c", tmp_path / "d", "--splits", "dev")


def test_audiofolder(tmp_path, capsys):
    for split, numbers in {"train": range(4), "test": range(4, 6)}.items():
        place = tmp_path / "d" / split
        place.mkdir(parents=True)
        for n in numbers:
            (place / f"{n}.wav").write_bytes(sound(n))
        with (place / "metadata.csv").open("w", newline="") as file:
            rows = [["file_name", "transcription", "speaker_id"], *([f"{n}.wav", f"t {n}", f"s{n}"] for n in numbers)]
            csv.writer(file).writerows(rows)
    corpus = made(tmp_path / "c", tmp_path / "d")
    assert {name: len(corpus.split(name)) for name in corpus.splits} == {"train": 4, "test": 2}
    assert corpus.split("test").metas()[0]["text"] == "t 4"
    only = made(tmp_path / "only", tmp_path / "d", "--splits", "train")
    assert sum(len(only.split(name)) for name in only.splits) == 4 and len(only.splits) == 3
    lines = [{"file_name": "0.wav", "text": "a"}, {"file_name": "gone.wav", "text": "b"}]
    (tmp_path / "d" / "train" / "metadata.csv").unlink()
    (tmp_path / "d" / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert "1 files that a list names and that are not there" in refusal(capsys, tmp_path / "e", tmp_path / "d")
    corpus = made(tmp_path / "e", tmp_path / "d", "--on-error", "skip")
    assert len(corpus.split("train")) == 1 and "left out 1 files that a list names" in capsys.readouterr().out
    lines[1]["file_name"] = "../../secret.wav"
    (tmp_path / "d" / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert "is outside of" in refusal(capsys, tmp_path / "f", tmp_path / "d")


def test_what_is_missing_is_said(tmp_path, capsys, monkeypatch):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    wanted = "extra [datasets]"
    assert wanted in refusal(capsys, tmp_path / "c", tmp_path / "d")
    assert wanted in refusal(capsys, tmp_path / "c", "somebody/speech")
    assert "neither a folder nor a name on the hub" in refusal(capsys, tmp_path / "c", "a/b/c")


class TestLibrary:
    """Against the library itself."""

    @pytest.fixture
    def datasets(self):
        return pytest.importorskip("datasets", reason="the extra [datasets]")

    def of(self, datasets, numbers: range):
        columns = common_voice(numbers, mood=lambda n: n % 2)
        made = datasets.Dataset.from_dict(columns)
        names = datasets.ClassLabel(names=["calm", "glad"])
        return made.cast_column("audio", datasets.Audio(decode=False)).cast_column("mood", names)

    def test_saved_to_disk(self, datasets, tmp_path, capsys):
        parts = {"train": self.of(datasets, range(6)), "validation": self.of(datasets, range(6, 9))}
        datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved", num_shards={"train": 2, "validation": 1})
        corpus = made(tmp_path / "c", tmp_path / "saved")
        assert {name: len(corpus.split(name)) for name in corpus.splits} == {"train": 6, "valid": 3}
        assert [meta["mood"] for meta in corpus.split("train").metas()] == ["calm", "glad"] * 3
        assert corpus.split("train").keys == [f"cv_{n}" for n in range(6)] and corpus.inventories["mood"] == [
            "calm",
            "glad",
        ]
        parts["train"].select([3, 1]).save_to_disk(tmp_path / "one")
        corpus = made(tmp_path / "d", tmp_path / "one", "--valid", "0.1", "--test", "0")
        assert sorted(key for name in corpus.splits for key in corpus.split(name).keys) == ["cv_1", "cv_3"]
        assert main(["data", "check", str(tmp_path / "c")]) == 0

    def test_parquet_of_the_library_equals_save_to_disk(self, datasets, tmp_path):
        table = self.of(datasets, range(6))
        (tmp_path / "p").mkdir()
        table.to_parquet(tmp_path / "p" / "test.parquet")
        datasets.DatasetDict({"test": table}).save_to_disk(tmp_path / "s")
        ours, theirs = (made(tmp_path / f"c-{name}", tmp_path / name).split("test") for name in "ps")
        for (key, one, _), (other, two, _) in zip(ours.utterances(), theirs.utterances(), strict=True):
            assert key == other and np.array_equal(one, two)

    def test_a_name_is_streamed(self, datasets, tmp_path, monkeypatch, capsys):
        """The hub is out of reach here, so `load_dataset` is stood in for; all else is the library."""
        asked = []

        def load(name, config, **settings):
            asked.append((name, config, settings))
            parts = {"train": self.of(datasets, range(5)), "validation": self.of(datasets, range(5, 8))}
            parts = {k: v.map(lambda row: {"notes": "x" * 5000}) for k, v in parts.items()}
            return datasets.IterableDatasetDict({k: v.to_iterable_dataset() for k, v in parts.items()})

        monkeypatch.setattr(datasets, "load_dataset", load)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        corpus = made(tmp_path / "c", "somebody/speech", "--config", "en", "--revision", "abc", "--licence", "CC0")
        assert asked == [("somebody/speech", "en", {"streaming": True, "revision": "abc"})]
        assert {name: len(corpus.split(name)) for name in corpus.splits} == {"train": 5, "valid": 3}
        assert corpus.split("valid").metas()[0] == {
            "text": "Sentence number 5.",
            "speaker": "c1",
            "language": "en",
            "mood": "glad",
            "path": "common_voice_en_5.mp3",
            "up_votes": 2,
            "file": "validation: en/cv_5.mp3",
        }
        source = corpus.body["source"]
        assert (source["revision"], source["config"], corpus.body["licence"]) == ("abc", "en", "CC0")
        assert corpus.inventories["mood"] == ["calm", "glad"]
        assert source["fields_left_out"] == {"notes of more than 4,096 characters": 8}
        assert "left out: notes of more than 4,096 characters 8\n" in capsys.readouterr().out

    def test_a_name_that_cannot_be_opened(self, datasets, tmp_path, monkeypatch, capsys):
        def load(*_, **__):
            raise ConnectionError("no route to the hub")

        monkeypatch.setattr(datasets, "load_dataset", load)
        said = refusal(capsys, tmp_path / "c", "somebody/speech")
        assert "the data set cannot be opened (no route to the hub); check the name" in said


def test_identifiers_may_be_numbers(tmp_path):
    """As those of google/fleurs, also 0."""
    folder = tmp_path / "d"
    folder.mkdir()
    for number in range(3):
        (folder / f"f{number}.wav").write_bytes(sound(number))
    rows = [{"file_name": f"f{number}.wav", "id": number, "text": "x"} for number in range(3)]
    (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    corpus = made(tmp_path / "c", folder)
    assert sorted(key for split in corpus.splits for key in corpus.split(split).keys) == ["0", "1", "2"]


def test_a_stream_refuses_options_that_need_the_whole_data_set(tmp_path, capsys):
    for option, value in {"--valid": "0.2", "--test": "0", "--split-by": "speaker"}.items():
        assert f"{option}: somebody/speech is streamed" in refusal(
            capsys, tmp_path / "c", "somebody/speech", option, value
        )
