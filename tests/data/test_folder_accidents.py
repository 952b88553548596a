"""Folders and manifests as people have them by accident: nothing is bent to fit, left out or mixed up without a word."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wavlm_lightning.cli import main
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.finding import find_audio
from wavlm_lightning.data.folder import FolderRecipe
from wavlm_lightning.data.transcripts import visible
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_json, read_table, read_text
from wavlm_lightning.tasks.components.spoken_text import spoken_text


def record(path: Path, seed: int, seconds: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    waveform = np.random.default_rng(seed).integers(-9_000, 9_000, round(16_000 * seconds), dtype=np.int16)
    soundfile.write(path, waveform, 16_000, format="FLAC" if path.suffix == ".flac" else "WAV")


@pytest.fixture
def ten(tmp_path):
    for number in range(10):
        record(tmp_path / "rec" / f"u{number}.wav", number)
    return tmp_path / "rec"


def prepare(folder: Path, manifest: str | bytes | None = None, **options) -> Corpus:
    path = None
    if manifest is not None:
        path = folder.parent / "m.csv"
        path.write_bytes(manifest if isinstance(manifest, bytes) else manifest.encode())
    return FolderRecipe(folder, folder.parent / "c", path, **options).prepare(workers=1)


ROWS = "".join(f"u{number}.wav,s{number % 2},ROW {number}\n" for number in range(10))


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("path,speaker,text\n" + ROWS.replace("ROW 3", "UP TOWN, JOE"), "line 5: 4 fields under 3 columns"),
        ("path,text,split\n" + "u0.wav,HELLO, WORLD,train\n", "line 2: 4 fields under 3 columns"),
        ("path,speaker,text\n" + ROWS.replace("s1,ROW 3", "ROW 3"), "line 5: 2 fields under 3 columns"),
        ("path,speaker,text\n" + ROWS.replace("ROW 3", '"HELLO HE SAID'), "line 5: a double quote is not closed"),
        ("path,speaker,text\n" + ROWS.replace("ROW 3", '"HELLO" HE SAID'), "line 5: "),
        ("path,text,text\n", "two columns are named `text`"),
        (b"path,text\nu0.wav,caf\xe9\n", "m.csv: not text in UTF-8 (line 2, byte 0xe9); save it as UTF-8"),
        ("path,text\nu0.wav,caf\u00e9\n".encode("utf-16"), "not text in UTF-8 (line 1, byte 0xff)"),
        ("path,start,end\nu0.wav,0.1,x\n", "line 2, column `end`: 'x' is not a number of seconds"),
        ("path,start,end\nu0.wav,0.4,0.2\n", "line 2: the stretch ends at 0.2 s, before it begins"),
        ("path,text\nu0.wav,a\nu0.wav,b\n", "u0.wav is listed twice"),
    ],
)
def test_a_row_of_another_shape_is_refused_with_its_line(ten, manifest, message):
    with pytest.raises(UserError) as caught:
        prepare(ten, manifest)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (ten.parent / "c" / "corpus.json").exists()


def test_headers_with_blanks_a_byte_order_mark_and_quoted_commas_are_read(ten):
    rows = "".join(f'u{number}.wav,"ONE, TWO {number}"\n' for number in range(10))
    corpus = prepare(ten, "\ufeffpath , text\n" + rows, valid=0.1, test=0.1)
    assert sorted(meta["text"] for split in corpus.splits for meta in corpus.split(split).metas())[0] == "ONE, TWO 0"


def test_start_and_end_cut_stretches(ten):
    corpus = prepare(ten, "path,start,end\nu0.wav,0.1,0.3\nu0.wav,0.3,\nu1.wav,,\n", valid=0, test=0)
    split = corpus.split("train")
    whole, _ = soundfile.read(ten / "u0.wav", dtype="float32")
    found = {key: waveform for key, waveform, _ in split.utterances()}
    assert list(found) == ["u0-00000100", "u0-00000300", "u1"]
    assert np.abs(found["u0-00000100"] - whole[1600:4800]).max() < 1e-4
    assert np.abs(found["u0-00000300"] - whole[4800:]).max() < 1e-4


def test_linked_folders_are_searched_once_and_other_files_are_counted(ten, tmp_path, capsys):
    record(tmp_path / "other" / "deep" / "x.wav", 99)
    (ten / "linked").symlink_to(tmp_path / "other")
    (ten / "loop").symlink_to(ten)
    for name in ("a.mp4", "b.mp4", "notes.txt", ".DS_Store"):
        (ten / name).write_text("x")
    assert main(["prepare", "folder", str(ten), "--out", str(tmp_path / "c"), "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert "left out 3 files" in out and ".mp4 2" in out and ".txt 1" in out
    corpus = Corpus.open(tmp_path / "c")
    assert sum(len(corpus.split(split)) for split in corpus.splits) == 11
    assert corpus.body["source"]["left_out"] == {".mp4": 2, ".txt": 1}
    assert len(find_audio(ten).files) == 11


def test_a_take_in_two_formats_is_named(ten):
    record(ten / "u3.flac", 3)
    with pytest.raises(UserError, match=r"1 recordings are there in two formats \(.*u3\.flac and .*u3\.wav\)"):
        prepare(ten)
    corpus = prepare(ten, on_error="skip")
    assert sum(len(corpus.split(split)) for split in corpus.splits) == 10


def test_the_same_sound_in_two_splits_is_refused_whatever_its_name(ten):
    record(ten / "copy.flac", 3)
    rows = "".join(f"u{number}.wav,train\n" for number in range(10))
    with pytest.raises(UserError, match=r"u3\.wav in train and copy\.flac in test"):
        prepare(ten, f"path,split\n{rows}copy.flac,test\n")
    corpus = prepare(ten, f"path,split\n{rows}copy.flac,train\n")
    assert corpus.body["source"]["twice_in_a_split"] == {"train": 1}
    # Again, from the shards that are there: the same verdict.
    with pytest.raises(UserError, match="the same sound in two splits"):
        prepare(ten, f"path,split\n{rows}copy.flac,test\n")


def test_a_name_that_is_not_utf8_is_read(ten):
    name = os.fsdecode(b"caf\xe9.wav")
    record(ten / "x.wav", 50)
    (ten / "x.wav").rename(ten / name)
    corpus = prepare(ten)
    files = [meta["file"] for split in corpus.splits for meta in corpus.split(split).metas()]
    assert "caf\\xe9.wav" in files and len(files) == 11


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("ka\u200bra \ufeffto\u00admo", "kara tomo"),
        ("cafe\u0301", "caf\u00e9"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
        ("\u0915\u094d\u200d\u0937", "\u0915\u094d\u200d\u0937"),
        ("a \u200c b\u200d", "a b"),
        ("two\u00a0 \t words\u2028here", "two words here"),
        ("plain text", "plain text"),
        ("", ""),
    ],
)
def test_texts_that_look_equal_are_equal(text, seen):
    assert visible(text) == seen and visible(seen) == seen
    assert spoken_text(text) == spoken_text(seen)


def test_a_text_is_stored_as_it_is_seen(ten):
    rows = ROWS.replace("ROW", "ka\u200bra")
    corpus = prepare(ten, "path,speaker,text\n" + rows, valid=0.1, test=0.1)
    assert all("\u200b" not in meta["text"] for split in corpus.splits for meta in corpus.split(split).metas())


def test_readers_of_text_name_what_is_wrong(tmp_path):
    path = tmp_path / "x"
    for content, message in (
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5000, "x: not readable as a card"),
        (b"[1]", "it holds list, not dict"),
        (b"{", "x: not readable as a card"),
        (b"\xff\xfe{}", "not text in UTF-8"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match="x: ") as caught:
            read_json(path, "a card")
        assert message in str(caught.value) and len(str(caught.value)) < 400
    with pytest.raises(UserError, match="no such file"):
        read_text(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="not a file"):
        read_text(tmp_path / "pipe")
    path.write_text("a\tb\n1\tx\u2028y\n")
    assert list(read_table(path, "a table", ["a"], "\t", quoted=False)) == [(2, {"a": "1", "b": "x\u2028y"})]
