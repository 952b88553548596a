"""Shards that others wrote are indexed where they are, read as `load_mono` reads their files, and train as ours do."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from shards_of_others import sound, utterances, write_tar

from wavlm_lightning.audio import load_mono
from wavlm_lightning.cli import main
from wavlm_lightning.codebooks import Codebook, MfccFeatures, label_corpus
from wavlm_lightning.data import shard_index
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.foreign.webdataset import find_shards
from wavlm_lightning.pretraining import PretrainingData
from wavlm_lightning.system.errors import UserError


def index(out: Path, *words: str | Path) -> Corpus:
    assert main(["prepare", "webdataset", *map(str, words), "--out", str(out), "--workers", "1"]) == 0
    return Corpus.open(out)


def refusal(capsys, out: Path, *words: str | Path) -> str:
    assert main(["prepare", "webdataset", *map(str, words), "--out", str(out), "--workers", "1"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


KINDS = {
    "000": {},
    "001": {"rate": 44_100, "channels": 2},
    "002": {"suffix": "mp3", "rate": 24_000},
    "003": {"suffix": "opus", "rate": 48_000},
    "004": {"suffix": "flac", "rate": 8_000},
    "005": {"suffix": "ogg"},
    "006": {"suffix": "flac", "channels": 2},
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    forms = (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT)
    for number, (name, kind) in enumerate(KINDS.items()):
        members = utterances(range(10 * number, 10 * number + 5), **kind)
        members += [(f"./spk0/only_text_{number}.txt", b"no audio"), ("./._hidden", b"mac")]
        write_tar(folder / f"{name}.tar", members, forms[number % 3])
    return folder


@pytest.fixture(scope="module")
def corpus(shards, tmp_path_factory) -> Corpus:
    out = tmp_path_factory.mktemp("corpus") / "c"
    return index(out, f"{shards}/{{000..006}}.tar", "--labels", "mood=json:mood.name", "--licence", "CC0")


def test_every_format_is_read_as_from_a_file(corpus, shards, tmp_path):
    seen = set()
    for name in corpus.splits:
        for shard in corpus.split(name).shards:
            with tarfile.open(shard.path) as tar:
                for place, member in enumerate(shard.members.names):
                    file = tmp_path / f"x.{member.rpartition('.')[2]}"
                    file.write_bytes(tar.extractfile(member).read())
                    whole, wanted = shard.waveform(place), load_mono(file)
                    assert np.array_equal(whole, wanted) and len(wanted) == shard.samples[place], member
                    out = np.zeros(3000, "f4")
                    shard.waveform(place, 1234, 3000, out=out)
                    assert np.array_equal(out, wanted[1234:4234]), member
                    assert np.array_equal(shard.waveform(place, 7000), wanted[7000:])
                    seen.add(file.suffix)
    assert seen == {".wav", ".mp3", ".opus", ".flac", ".ogg"}
    assert sum(len(corpus.split(name)) for name in corpus.splits) == 35


def test_metadata_is_found_and_no_speaker_crosses(corpus):
    speakers = []
    for name in corpus.splits:
        metas = corpus.split(name).metas()
        speakers.append({meta["speaker"] for meta in metas})
        for key, meta in zip(corpus.split(name).keys, metas, strict=True):
            number = int(key[-5:])
            assert key == f"spk{number % 5}_utt_{number:05d}"
            assert meta["text"] == f"sentence number {number}" and meta["speaker"] == str(number % 5)
            assert meta["mood"] == ("calm", "glad")[number % 2]
    assert corpus.splits == ["train", "valid", "test"] and sum(map(len, speakers)) == len(set.union(*speakers)) == 5
    assert corpus.inventories == {"speakers": list("01234"), "mood": ["calm", "glad"]}
    source = corpus.body["source"]
    assert source["columns"]["text from json:transcript"] == 35
    assert source["reasons"] == {"hidden files and files without an extension": 7, "samples without audio": 7}


def test_nothing_is_copied_and_the_shards_stay_as_they_are(shards, tmp_path, capsys):
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in shards.iterdir()}
    made = index(tmp_path / "c", shards)
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in shards.iterdir()} == before
    links = list(made.directory.glob("*.tar"))
    assert links and all(path.is_symlink() for path in links)
    own = sum(path.stat().st_size for path in made.directory.rglob("*") if path.is_file() and not path.is_symlink())
    assert own < 0.05 * sum(path.stat().st_size for path in shards.iterdir())
    said = capsys.readouterr().out
    assert "samples without audio 7" in said and "text from json:transcript (35)" in said
    assert "splits: 5 speakers, 3 to train, 1 to valid, 1 to test; no speaker is in two splits" in said
    assert main(["data", "check", str(made.directory)]) == 0
    # What `data check` advises, and another recipe in the same folder, never reach the shards.
    for path in links:
        path.unlink()
    assert {path.name for path in shards.iterdir()} == set(before)


def test_an_altered_index_is_found_by_data_check(shards, tmp_path, capsys):
    made = index(tmp_path / "c", shards)
    path = made.directory / "train-000001.index.json"
    body = json.loads(path.read_text())
    body["names"][0], body["names"][1] = body["names"][1], body["names"][0]
    path.write_text(json.dumps(body))
    assert main(["data", "check", str(made.directory)]) == 2
    said = "".join(capsys.readouterr())
    assert "in another place than the tar" in said and "wavlm prepare webdataset" in said
    shard_index._members.cache_clear()  # as another process meets it
    with pytest.raises(UserError, match=r"not the index that corpus.json describes|has changed since"):
        Corpus.open(made.directory).split("train").shards[1].waveform(0)


def test_a_shard_that_changes_is_noticed_and_only_it_is_read_again(tmp_path, capsys):
    paths = [write_tar(tmp_path / "s" / f"{n}.tar", utterances(range(4 * n, 4 * n + 4))) for n in range(3)]
    out = tmp_path / "c"
    words = f"train={paths[0]}", f"train={paths[1]}", f"valid={paths[2]}"
    index(out, *words)
    os.utime(paths[1], (1, 1))  # another time, the same bytes
    assert len(Corpus.open(out).split("train")) == 8
    write_tar(
        paths[1],
        [
            (name, sound(99, suffix="wav")[: len(data)]) if name.endswith("5.wav") else (name, data)
            for name, data in utterances(range(4, 8))
        ],
    )
    with pytest.raises(
        UserError, match=r"the shard that it links to, .*1\.tar, has changed since it was indexed; run the same"
    ):
        Corpus.open(out).split("train")
    notes = {path: path.stat().st_mtime_ns for path in (out / "scans").iterdir()}
    index(out, *words, "--on-error", "skip")
    changed = [path for path, before in notes.items() if path.stat().st_mtime_ns != before]
    # With another --on-error the notes of all are made anew; the same command again makes none.
    assert len(changed) == 3
    notes = {path: path.stat().st_mtime_ns for path in (out / "scans").iterdir()}
    write_tar(paths[2], utterances(range(20, 24)))
    index(out, *words, "--on-error", "skip")
    assert sum(path.stat().st_mtime_ns != before for path, before in notes.items()) == 1
    assert Corpus.open(out).split("valid").keys[0].endswith("utt_00020")
    paths[2].rename(tmp_path / "s" / "moved.tar")
    with pytest.raises(UserError, match=r"the shard that it links to, .*2\.tar, is not there; copy it back"):
        Corpus.open(out).split("valid")


def test_a_sound_twice_stays_in_one_split(tmp_path, capsys):
    twice = sound(3)
    first = write_tar(tmp_path / "a.tar", [(f"a{n}.wav", twice if n == 3 else sound(n)) for n in range(20)])
    second = write_tar(tmp_path / "b.tar", [(f"b{n}.wav", twice if n == 3 else sound(50 + n)) for n in range(20)])
    made = index(tmp_path / "auto", first, second, "--valid", "0.4", "--test", "0.2")
    homes = [name for name in made.splits for key in made.split(name).keys if key in ("a3", "b3")]
    assert len(homes) == 2 and len(set(homes)) == 1
    said = refusal(capsys, tmp_path / "given", f"train={first}", f"test={second}")
    assert "1 utterances are the same sound as one of another split (such as a3.wav in train and in test)" in said
    made = index(tmp_path / "given", f"train={first}", f"test={second}", "--on-error", "skip")
    assert "a3" not in made.split("train").keys and "b3" in made.split("test").keys
    assert made.body["source"]["reasons"] == {"a sound that is in another split, too": 1}


def test_splits_by_a_field_and_keys_that_shards_share(tmp_path):
    def members(first: int) -> list:
        rows = []
        for n in range(4):
            about = {"text": f"t{first + n}", "part": ("train", "validation")[n % 2]}
            rows += [(f"{n:03d}.wav", sound(first + n)), (f"{n:03d}.json", json.dumps(about).encode())]
        return rows

    paths = [write_tar(tmp_path / f"{n}.tar", members(10 * n)) for n in range(2)]
    made = index(tmp_path / "c", *paths, "--split-by", "json:part")
    assert made.split("train").keys == ["0-000", "0-002", "1-000", "1-002"]
    assert made.split("valid").keys == ["0-001", "0-003", "1-001", "1-003"]
    assert [meta["text"] for meta in made.split("valid").metas()] == ["t1", "t3", "t11", "t13"]
    # Two corpora of the same tars with other splits are not one: caches and cards tell them apart.
    other = index(tmp_path / "d", f"train={paths[0]}", f"valid={paths[1]}")
    assert made.sha256 != other.sha256


def test_text_members_keys_and_folders_as_columns(tmp_path):
    members = []
    for n in range(6):
        members += [
            (f"x/s{n % 3}-{n}.flac", sound(n, suffix="flac")),
            (f"x/s{n % 3}-{n}.txt", f" word\ufeff {n}\n".encode()),
        ]
        members += [(f"x/s{n % 3}-{n}.cls", str(n % 2).encode()), (f"x/s{n % 3}-{n}.npy", b"\x93NUMPY")]
    path = write_tar(tmp_path / "a.tar", members)
    made = index(tmp_path / "c", path, "--speaker", "key:-", "--labels", "keyword=cls", "group=folder")
    metas = [meta for name in made.splits for meta in made.split(name).metas()]
    assert {(m["text"], m["speaker"], m["keyword"], m["group"]) for m in metas} == {
        (f"word {n}", f"s{n % 3}", str(n % 2), "x") for n in range(6)
    }
    assert made.inventories["keywords"] == ["0", "1"]
    assert made.body["source"]["reasons"] == {"other members (.npy)": 6}


def test_audio_that_cannot_be_used(tmp_path, capsys):
    cut = sound(1)[:3000]
    members = [("good.wav", sound(0)), ("cut.wav", cut), ("silent.wav", sound(0)[:44] + bytes(len(sound(0)) - 44))]
    path = write_tar(tmp_path / "a.tar", members)
    assert "a.tar: cut.wav: truncated" in refusal(capsys, tmp_path / "c", f"train={path}")
    made = index(tmp_path / "c", f"train={path}", "--on-error", "skip")
    assert made.split("train").keys == ["good"]
    assert [entry["file"] for entry in made.body["source"]["skipped"]] == ["a.tar/cut.wav", "a.tar/silent.wav"]


def broken(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    good = write_tar(tmp_path / "good.tar", utterances(range(3)))
    data = good.read_bytes()
    files = {
        "gz.tar": (gzip.compress(data), "a compressed tar has no random access; unpack it with gunzip"),
        "cut.tar": (data[: len(data) // 2], "not readable as a shard (tar)"),
        "two.tar": (data + data, "goes on after the end of its archive"),
        "none.tar": (b"text" * 500, "not readable as a shard (tar)"),
    }
    for name, (content, _) in files.items():
        (tmp_path / name).write_bytes(content)
    found = {name: (tmp_path / name, said) for name, (_, said) in files.items()}
    twice = write_tar(tmp_path / "twice.tar", [("a.wav", sound(0)), ("a.wav", sound(1))])
    many = write_tar(tmp_path / "many.tar", [("a.wav", sound(0)), ("a.mp3", sound(1))])
    text = write_tar(tmp_path / "text.tar", [("a.txt", b"x")])
    odd = write_tar(tmp_path / "odd.tar", [("a.wav", sound(0)), ("a.json", b"{")])
    return found | {
        "twice": (twice, "sample 'a' has two members 'wav'"),
        "many": (many, "sample 'a' has several audio members (mp3, wav); choose one with --audio"),
        "text": (text, "no audio in 1 shards (samples without audio 1)"),
        "odd": (odd, "the .json beside it is no JSON"),
        "url": (Path("https:"), ""),
    }


@pytest.mark.parametrize("kind", ["gz.tar", "cut.tar", "two.tar", "none.tar", "twice", "many", "text", "odd"])
def test_what_is_no_shard_is_refused_in_a_sentence(tmp_path, capsys, kind):
    path, wanted = broken(tmp_path)[kind]
    assert wanted in refusal(capsys, tmp_path / "c", f"train={path}")
    assert not (tmp_path / "c" / "corpus.json").exists()


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["s3://bucket/{000..003}.tar"], "only on a disk of this machine"),
        (["pipe:curl x"], "only on a disk of this machine"),
        (["{000..003}.tar"], "no such shard (3 of 4 are missing)"),
        (["nothing-*.tar"], "names no tar file"),
        (["000.tar", "./000.tar"], "is named twice"),
        (["a=000.tar", "001.tar"], "some have a split (NAME=SHARDS) and some have none"),
    ],
)
def test_patterns_that_name_the_wrong_shards(tmp_path, monkeypatch, words, wanted):
    monkeypatch.chdir(tmp_path)
    for name in ("000.tar", "001.tar") if "001.tar" in words else ("000.tar",):
        Path(name).touch()
    with pytest.raises(UserError) as error:
        find_shards(words)
    assert wanted in str(error.value)


def test_options_that_name_nothing(shards, tmp_path, capsys):
    assert "text: no sample has json:words" in refusal(capsys, tmp_path / "c", shards, "--text", "json:words")
    assert "split: no sample has json:part" in refusal(capsys, tmp_path / "c", shards, "--split-by", "json:part")
    half = write_tar(tmp_path / "half.tar", [("a.wav", sound(0)), ("a.txt", b"train"), ("b.wav", sound(1))])
    assert "--split-by txt: 1 of 2 samples have no such field" in refusal(
        capsys, tmp_path / "c", half, "--split-by", "txt"
    )
    own = tmp_path / "own"
    write_tar(own / "train-000000.tar", utterances(range(2)))
    assert "a shard that is no link" in refusal(capsys, own, shards)


def test_a_server_has_no_say_in_where_shards_lie(corpus, tmp_path, monkeypatch):
    """Links are followed where the corpus is uploaded; `corpus.json` names plain files as ever."""
    import fsspec

    monkeypatch.setenv("WAVLM_CACHE", str(tmp_path / "cache"))
    fsspec.filesystem("memory").put(str(corpus.directory), "/foreign/c", recursive=True)
    theirs = Corpus.open("memory://foreign/c")
    assert all(not path.is_symlink() for path in theirs.directory.rglob("*"))
    for (key, ours, meta), (other, waveform, said) in zip(
        corpus.split("train").utterances(), theirs.split("train").utterances(), strict=True
    ):
        assert key == other and np.array_equal(ours, waveform) and meta == said
    body = json.loads((corpus.directory / "corpus.json").read_text())
    for change in ({"name": "../000.tar"}, {"modified_ns": "now"}):
        body["splits"]["train"]["shards"][0] |= change
        with pytest.raises(UserError, match=r"not a plain file name|not a time"):
            Corpus(corpus.directory, body)


def labelled(made: Corpus) -> Corpus:
    source = MfccFeatures()
    centroids = np.random.default_rng(0).normal(size=(8, 39)).astype("f4")
    label_corpus(made, Codebook(centroids, source.rate, source.describe(), {}), "k8", jobs=1)
    return made


def resumes_exactly(folder: Path, made: Corpus, steps: int, stop: int, workers: int) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint
    from test_pretraining_runs import fit, module

    def data() -> PretrainingData:
        settings = {"batch_seconds": 5.0, "max_seconds": 1.0, "min_seconds": 0.3, "num_workers": workers}
        return PretrainingData(str(made.directory), "k8", **settings)

    saver = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=stop, save_top_k=-1)
    model = module()
    whole = fit(model, data(), steps, callbacks=[saver])
    resumed = module()
    rest = fit(resumed, data(), steps, folder / f"step={stop}.ckpt")
    assert rest.batches == whole.batches[stop:] and rest.losses == whole.losses[stop:]
    final = model.state_dict()
    assert all(torch.equal(value, final[name]) for name, value in resumed.state_dict().items())
    fresh = module().state_dict()
    assert any(not torch.equal(value, fresh[name]) for name, value in final.items())


def test_pretraining_on_foreign_shards_resumes_exactly(shards, tmp_path):
    resumes_exactly(tmp_path, labelled(index(tmp_path / "c", shards)), steps=6, stop=4, workers=0)


@pytest.mark.slow
def test_a_thousand_foreign_files_train_with_exact_resume(tmp_path):
    for part in range(10):
        write_tar(tmp_path / "s" / f"{part:03d}.tar", utterances(range(100 * part, 100 * part + 100), speakers=20))
    made = labelled(index(tmp_path / "c", f"{tmp_path}/s/{{000..009}}.tar"))
    assert sum(len(made.split(name)) for name in made.splits) == 1000
    resumes_exactly(tmp_path, made, steps=60, stop=35, workers=2)  # within the first epoch or later: some of each
