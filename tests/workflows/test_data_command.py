"""`wavlm data`: what is in a corpus, and whatever can be wrong with it is found and named."""

import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from wavlm_lightning.cli import main
from wavlm_lightning.data.alignments import AlignmentWriter, Segment
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.workflows.corpus import check as data_check
from wavlm_lightning.workflows.corpus.info import histogram


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A corpus of five small shards, made by no recipe of ours."""
    folder = tmp_path_factory.mktemp("whole") / "c"
    rng = np.random.default_rng(0)
    writer = CorpusWriter(folder, "test", "CC0", {"recipe": "librispeech", "subsets": "small"}, shard_seconds=2.0)
    for split, count in (("train", 12), ("valid", 3)):
        voices = [{"speaker": f"s{n % 4}"} for n in range(count)]
        writer.write_split(
            split,
            [
                Utterance(f"u{n:02d}", rng.uniform(-0.5, 0.5, 12_000).astype("f4"), voice)
                for n, voice in enumerate(voices)
            ],
        )
    writer.finish({"speakers": ["s0", "s1", "s2", "s3"]})
    assert len(list(folder.glob("train-*.tar"))) == 4
    return folder


@pytest.fixture
def corpus(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "c"))


def flip(path: Path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)


def cut_at_a_member(path: Path) -> None:
    """What webdataset reads without a word."""
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-2]
    path.write_bytes(path.read_bytes()[: last.offset] + bytes(1024))


def swap(one: Path, other: Path) -> None:
    for a, b in ((one, other), (one.with_suffix(".index.json"), other.with_suffix(".index.json"))):
        content = a.read_bytes()
        a.write_bytes(b.read_bytes())
        b.write_bytes(content)


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_whole_corpus(corpus, capsys):
    assert main(["data", "check", str(corpus)]) == 0
    assert "5 shards are whole" in capsys.readouterr().out
    assert main(["data", "check", str(corpus), "--quick"]) == 0
    assert "5 shards have the right size" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "line", "sentence"),
    [
        (lambda c: flip(c / "train-000001.tar"), "sha256 differs", "damaged shards: train-000001.tar;"),
        (lambda c: cut_at_a_member(c / "train-000001.tar"), "truncated, ", "damaged shards: train-000001.tar;"),
        (lambda c: (c / "train-000001.tar").unlink(), "missing", "missing shards: train-000001.tar;"),
        (
            lambda c: (c / "train-000001.index.json").unlink(),
            "its index is missing",
            "missing shards: train-000001.tar;",
        ),
        (
            lambda c: swap(c / "train-000001.tar", c / "train-000002.tar"),
            "train-000001.tar: swapped: it is train-000002.tar under another name",
            "swapped shards: train-000001.tar, train-000002.tar;",
        ),
        (
            lambda c: shutil.copy(c / "train-000002.index.json", c / "train-000001.index.json"),
            "its index belongs to another shard",
            "damaged shards: train-000001.tar;",
        ),
        (
            lambda c: edit(c / "train-000001.index.json", lambda index: index["audio"].reverse()),
            "its index has 'u03' in another place than the tar",
            "damaged shards: train-000001.tar;",
        ),
        (
            lambda c: edit(c / "train-000001.index.json", lambda index: index["keys"].pop()),
            "its index lists 2 utterances, corpus.json counts 3",
            "damaged shards: train-000001.tar;",
        ),
        (
            lambda c: edit(c / "train-000001.index.json", lambda index: index.update(samples=[12_001, 11_999, 12_000])),
            "utterance 'u03' has 12,000 samples, its index says 12,001",
            "damaged shards: train-000001.tar;",
        ),
        (
            lambda c: (c / "train-000001.index.json").write_text('{"keys": ["u0'),
            "its index cannot be used",
            "damaged shards: train-000001.tar;",
        ),
    ],
)
def test_damage_is_named_with_what_to_run(corpus, capsys, damage, line, sentence):
    damage(corpus)
    assert main(["data", "check", str(corpus)]) == 2
    out, err = capsys.readouterr()
    assert line in out
    error = err.splitlines()[-1]
    assert sentence in error
    assert (
        f"remove them and prepare the corpus again as before, `wavlm prepare librispeech DIR --out {corpus}`" in error
    )
    assert '"subsets": "small"' in error


def test_quick_sees_sizes_only(corpus, capsys):
    flip(corpus / "train-000001.tar")
    assert main(["data", "check", str(corpus), "--quick"]) == 0
    cut_at_a_member(corpus / "train-000003.tar")
    assert main(["data", "check", str(corpus), "--quick"]) == 2
    assert "damaged shards: train-000003.tar;" in capsys.readouterr().err


@pytest.mark.usefixtures("quick_processes")
def test_processes_find_the_same(corpus, capsys, monkeypatch):
    monkeypatch.setattr(data_check, "LITTLE", 0)
    flip(corpus / "train-000002.tar")
    (corpus / "valid-000000.tar").unlink()
    assert main(["data", "check", str(corpus), "--jobs", "2"]) == 2
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("train-000002.tar: ") and out.splitlines()[1] == "valid-000000.tar: missing"
    assert "damaged shards: train-000002.tar; missing shards: valid-000000.tar;" in err


def test_a_system_without_a_set_of_usable_cores(corpus, monkeypatch):
    """macOS has no `os.sched_getaffinity`."""
    monkeypatch.setattr(data_check, "LITTLE", 0)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert main(["data", "check", str(corpus)]) == 0


def test_the_file_of_lengths(corpus, capsys):
    flip(corpus / "train.lengths.npy", 0.99)
    assert main(["data", "check", str(corpus)]) == 2
    assert "train.lengths.npy is damaged; remove them and prepare" in capsys.readouterr().err


def test_labels_are_checked_too(tiny, tmp_path, capsys):
    corpus = Path(shutil.copytree(tiny / "pretrain", tmp_path / "pretrain"))
    assert main(["data", "check", str(corpus)]) == 0
    assert "with the labels mfcc100" in capsys.readouterr().out
    path = corpus / "labels" / "mfcc100" / "train-000000.safetensors"
    content = path.read_bytes()
    again = f"remove the files named and run `wavlm codebook apply CODEBOOK {corpus} --name mfcc100`"

    def refused(line: str) -> None:
        assert main(["data", "check", str(corpus)]) == 2
        out, err = capsys.readouterr()
        assert f"labels/mfcc100/train-000000.safetensors: {line}" in out
        assert "wrong labels mfcc100: train-000000.tar; for labels: " in err and again in err

    path.write_bytes(content[:-100])
    refused("damaged")
    path.write_bytes((path.parent / "valid-000000.safetensors").read_bytes())
    refused("these labels were made from another version of train-000000.tar")
    path.write_bytes(content)
    tensors = load_file(path)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    tensors["labels"][7] = 20
    save_file(tensors, path, metadata=header)
    refused("damaged (its labels are not those that were written")
    del header["content_sha256"]  # as older versions wrote it
    save_file(tensors, path, metadata=header)
    refused("damaged (it holds label 20 of a codebook of 20)")
    # A split without any labels is one that was not to be labelled.
    for file in (corpus / "labels" / "mfcc100").glob("train-*"):
        file.unlink()
    assert main(["data", "check", str(corpus)]) == 0


def test_alignments_are_checked_and_counted(tiny, tmp_path, capsys):
    corpus = Path(shutil.copytree(tiny / "pretrain", tmp_path / "pretrain"))
    opened = Corpus.open(corpus)
    with AlignmentWriter(
        opened, "forced", {"kind": "forced", "teacher": "0" * 64, "settings": {}}, ["valid"]
    ) as writer:
        for shard in opened.split("valid").shards:
            rows = [[Segment(*row) for row in shard.meta(place)["phones"]] for place in range(shard.utterances)]
            writer.write(shard, [None, *rows[1:]])
    path = corpus / "alignments" / "forced" / "valid-000000.jsonl"
    content, count = path.read_bytes(), len(opened.split("valid"))
    assert main(["data", "check", str(corpus)]) == 0
    assert capsys.readouterr().out.rstrip().endswith("with the labels mfcc100, with the alignments forced")
    assert main(["data", "info", str(corpus)]) == 0
    assert f"alignments forced: forced, {count - 1} of {count} utterances of valid (" in capsys.readouterr().out

    def refused(line: str) -> None:
        assert main(["data", "check", str(corpus)]) == 2
        out, err = capsys.readouterr()
        assert f"alignments/forced/valid-000000.jsonl: {line}" in out
        assert "wrong alignments forced: valid-000000.tar; for alignments: remove the files named" in err

    path.write_bytes(content[:-100])
    refused("damaged (its lines are not those that were written)")
    head, _, lines = content.partition(b"\n")
    path.write_bytes(json.dumps({**json.loads(head), "shard_sha256": "0" * 64}).encode() + b"\n" + lines)
    refused("these alignments were made from another version of valid-000000.tar")
    path.write_bytes(json.dumps({**json.loads(head), "aligned": count}).encode() + b"\n" + lines)
    refused(f"{count - 1} of {count} utterances are aligned, and its first line says {count} of {count}")
    path.unlink()
    refused("missing")


def test_a_mini_corpus_is_made_again_as_a_whole(tiny, tmp_path, capsys):
    corpus = Path(shutil.copytree(tiny / "ks", tmp_path / "ks"))
    flip(corpus / "train-000000.tar")
    assert main(["data", "check", str(corpus)]) == 2
    again = f"`wavlm prepare mini --size tiny --seed 0 --datasets ks --out {tmp_path}`"
    assert f"remove the folder and prepare the corpus again: {again}" in capsys.readouterr().err


def test_info_shows_hours_speakers_lengths_and_labels(tiny, corpus, capsys, monkeypatch):
    assert main(["data", "info", str(tiny / "pretrain")]) == 0
    out = capsys.readouterr().out
    head = json.loads((tiny / "pretrain" / "labels" / "mfcc100" / "labels.json").read_text())
    assert f"frame labels mfcc100: 20 units at 100 a second, codebook {head['codebook_sha256'][:12]}" in out
    assert "seconds    utterances" in out
    assert main(["data", "info", str(corpus)]) == 0
    assert "train: 12 utterances, 0.003 h, 4 speakers, 4 shards; length 0.75 to 0.75 s" in capsys.readouterr().out
    monkeypatch.setattr("wavlm_lightning.workflows.corpus.info.FEW", 5)
    assert main(["data", "info", str(corpus)]) == 0
    out = capsys.readouterr().out
    assert "0.003 h, 4 shards" in out and "valid: 3 utterances, 0.001 h, 3 speakers" in out
    assert main(["data", "info", str(corpus), "--speakers"]) == 0
    assert "0.003 h, 4 speakers" in capsys.readouterr().out


def test_histogram_counts_every_utterance_once():
    rng = np.random.default_rng(0)
    seconds = np.concatenate([rng.gamma(4, 3, 5000), [400.0]])
    lines = histogram(seconds)[1:]
    assert len(lines) <= 12
    rows = [line.split("#")[0].split() for line in lines]
    assert sum(int(row[3].replace(",", "")) for row in rows) == len(seconds)
    assert sum(float(row[4].replace(",", "")) for row in rows) == pytest.approx(seconds.sum() / 3600, abs=0.01)
    assert max(line.count("#") for line in lines) == 40 and float(rows[-1][2]) == 400
    for begin, end in [(float(row[0]), float(row[2])) for row in rows[:-1]]:
        index = [float(row[0]) for row in rows].index(begin)
        assert int(rows[index][3].replace(",", "")) == ((seconds >= begin) & (seconds < end)).sum()


def test_check_and_info_of_a_remote_corpus(corpus, tmp_path, monkeypatch, capsys):
    import fsspec

    monkeypatch.setenv("WAVLM_CACHE", str(tmp_path / "cache"))
    fsspec.filesystem("memory").put(str(corpus), "/checked/c", recursive=True)
    assert main(["data", "info", "memory://checked/c"]) == 0
    assert "train: 12 utterances, 0.003 h, 4 shards" in capsys.readouterr().out
    assert main(["data", "check", "memory://checked/c"]) == 0
    assert "5 shards are whole" in capsys.readouterr().out
    (mirrored,) = (tmp_path / "cache").rglob("train-000001.tar")
    flip(mirrored)
    assert main(["data", "check", "memory://checked/c"]) == 2
    assert "damaged shards: train-000001.tar; remove them: they are downloaded again" in capsys.readouterr().err


@pytest.fixture
def noisy(tmp_path) -> Path:
    """A corpus whose utterances have a `clean` reference, all but the first."""
    rng = np.random.default_rng(0)
    writer = CorpusWriter(tmp_path / "noisy", "test", "CC0", {"recipe": "test"}, shard_seconds=2.0)
    heard = [rng.uniform(-0.5, 0.5, 12_000).astype("f4") for _ in range(6)]
    writer.write_split(
        "train",
        [Utterance(f"u{n}", each, {}, audio={"clean": each / 2} if n else {}) for n, each in enumerate(heard)],
    )
    writer.write_split("valid", [Utterance("v", heard[0], {})])
    writer.finish({})
    return tmp_path / "noisy"


def test_further_audio_is_shown_and_read_here_and_behind_a_url(noisy, tmp_path, monkeypatch, capsys):
    import fsspec

    monkeypatch.setenv("WAVLM_CACHE", str(tmp_path / "cache"))
    fsspec.filesystem("memory").put(str(noisy), "/noisy/c", recursive=True)
    for where in (str(noisy), "memory://noisy/c"):
        assert main(["data", "info", where]) == 0
        train, valid = (line for line in capsys.readouterr().out.splitlines() if " utterances, " in line)
        assert train.endswith("; further audio: clean") and "further" not in valid
        assert main(["data", "check", where]) == 0
        assert "3 shards are whole" in capsys.readouterr().out
        shard, place = Corpus.open(where).split("train").locate(1)
        assert np.abs(shard.waveform(place, 10, 20, member="clean") * 2 - shard.waveform(place, 10, 20)).max() < 1e-4


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda index: index["further"]["clean"].reverse(), "its index has 'u0.clean' in another place than the tar"),
        (lambda index: index["further"]["clean"].pop(), "its index does not have an entry of further audio for each"),
        (lambda index: index.pop("further"), "its index has the further audio none, corpus.json clean"),
        (lambda index: index["further"]["clean"].__setitem__(1, None), "holds 8 files for 3 utterances"),
        (
            lambda index: index["further"]["clean"][1].__setitem__(2, 11_999),
            "utterance 'u1.clean' has 12,000 samples, its index says 11,999",
        ),
    ],
)
def test_damaged_further_audio_is_named(noisy, capsys, damage, line):
    edit(noisy / "train-000000.index.json", damage)
    assert main(["data", "check", str(noisy)]) == 2
    assert line in capsys.readouterr().out
