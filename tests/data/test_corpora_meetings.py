"""`wavlm prepare ami|dihard3|alimeeting` on miniatures with the published layouts, and RTTM in a folder."""

import zlib

import numpy as np
import pytest
import soundfile

from wavlm_lightning.cli import main
from wavlm_lightning.data.corpus import Corpus

RATE = 16_000


def audio(path, seconds=3.0, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (round(seconds * RATE), channels) if channels > 1 else round(seconds * RATE)
    soundfile.write(path, np.random.default_rng(zlib.crc32(path.name.encode())).uniform(-0.3, 0.3, shape), RATE)


def rttm(path, name, turns):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"SPEAKER {name} 1 {start} {end - start} <NA> <NA> {who} <NA> <NA>\n" for who, start, end in turns]
    path.write_text("".join(lines))


def prepare(recipe, folder, out, *more):
    return main(["prepare", recipe, str(folder), "--out", str(out), "--workers", "1", *map(str, more)])


@pytest.fixture
def ami(tmp_path):
    setup = tmp_path / "AMI-diarization-setup"
    (setup / "lists").mkdir(parents=True)
    for part, names in {"train": ["ES2002a", "ES2002b"], "dev": ["ES2011a"], "test": ["EN2002a"]}.items():
        (setup / "lists" / f"{part}.meetings.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            audio(tmp_path / "amicorpus" / name / "audio" / f"{name}.Mix-Headset.wav")
            rttm(
                setup / "only_words" / "rttms" / part / f"{name}.rttm",
                name,
                [("FEE005", 0.5, 2.0), ("MEE006", 1.5, 2.5)],
            )
    return tmp_path, setup


def test_ami_follows_the_lists_of_the_setup(ami, tmp_path, capsys):
    folder, setup = ami
    assert prepare("ami", folder, tmp_path / "c", "--setup", setup, "--allow-partial") == 0
    assert "train has 2 meetings instead of 136" in capsys.readouterr().err
    corpus = Corpus.open(tmp_path / "c")
    assert {split: corpus.split(split).keys for split in corpus.splits} == {
        "train": ["ES2002a", "ES2002b"], "valid": ["ES2011a"], "test": ["EN2002a"],
    }  # fmt: skip
    meta = corpus.split("test").metas()[0]
    assert meta["turns"] == [["FEE005", 0.5, 2.0], ["MEE006", 1.5, 2.5]] and meta["speakers"] == ["FEE005", "MEE006"]


def test_ami_in_pieces_cuts_turns_and_a_missing_meeting_is_named(ami, tmp_path, capsys):
    folder, setup = ami
    assert prepare("ami", folder, tmp_path / "c", "--setup", setup, "--allow-partial", "--pieces", "1.5") == 0
    first, second = list(Corpus.open(tmp_path / "c").split("test").metas())
    assert first["turns"] == [["FEE005", 0.5, 1.5]] and first["speakers"] == ["FEE005"]
    assert second["turns"] == [["FEE005", 0.0, 0.5], ["MEE006", 0.0, 1.0]]
    path = folder / "amicorpus" / "EN2002a" / "audio" / "EN2002a.Mix-Headset.wav"
    audio(path, seconds=1.0)
    assert prepare("ami", folder, tmp_path / "d", "--setup", setup, "--allow-partial") == 2
    assert "lasts 1.00 s, but a turn ends at 2.50 s" in capsys.readouterr().err
    assert prepare("ami", folder, tmp_path / "d", "--setup", setup, "--pieces", "0") == 2
    assert "at least 1 second" in capsys.readouterr().err
    path.unlink()
    assert prepare("ami", folder, tmp_path / "d", "--setup", setup) == 2
    assert "no EN2002a.Mix-Headset.wav" in capsys.readouterr().err


def test_dihard3_divides_dev_and_keeps_scored_stretches(tmp_path, capsys):
    for part, count in (("dev", 5), ("eval", 2)):
        folder = (
            tmp_path / {"dev": "third_dihard_challenge_dev", "eval": "LDC2021E02_Third_DIHARD_Evaluation_Data"}[part]
        )
        rows = ["uri in_core lang domain source lang_task channel sr n_speakers"]
        for number in range(count):
            name = f"DH_{part.upper()}_{number:04d}"
            audio(folder / "data" / "flac" / f"{name}.flac")
            rttm(folder / "data" / "rttm" / f"{name}.rttm", name, [("s1", 0.2, 1.0), ("s2", 0.8, 2.9)])
            (folder / "data" / "uem").mkdir(parents=True, exist_ok=True)
            (folder / "data" / "uem" / f"{name}.uem").write_text(f"{name} 1 0.500 2.500\n")
            rows.append(f"{name} {number % 2 == 0} eng {'clinical' if number else 'maptask'} ados x 1 16000 2")
        (folder / "docs").mkdir()
        (folder / "docs" / "recordings.tbl").write_text("\n".join(rows) + "\n")
    assert prepare("dihard3", tmp_path, tmp_path / "c", "--allow-partial") == 0
    corpus = Corpus.open(tmp_path / "c")
    keys = {split: set(corpus.split(split).keys) for split in corpus.splits}
    assert [len(keys[split]) for split in ("train", "valid", "test")] == [4, 1, 2] and not keys["train"] & keys["valid"]
    meta = corpus.split("test").metas()[0]
    assert meta["turns"] == [["s1", 0.0, 0.5], ["s2", 0.3, 2.0]] and meta["domain"] == "maptask"
    assert prepare("dihard3", tmp_path, tmp_path / "core", "--allow-partial", "--core") == 0
    assert len(Corpus.open(tmp_path / "core").split("test").keys) == 1
    capsys.readouterr()
    (tmp_path / "LDC2021E02_Third_DIHARD_Evaluation_Data" / "data" / "uem" / "DH_EVAL_0001.uem").unlink()
    assert prepare("dihard3", tmp_path, tmp_path / "d", "--allow-partial") == 2
    assert "no DH_EVAL_0001.uem" in capsys.readouterr().err


def grid(path, tiers, seconds=3.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        f"xmin = 0\nxmax = {seconds}\ntiers? <exists>",
    ]
    lines += [f"size = {len(tiers)}\nitem []:"]
    for number, (name, rows) in enumerate(tiers.items(), start=1):
        lines += [f'item [{number}]:\nclass = "IntervalTier"\nname = "{name}"\nxmin = 0\nxmax = {seconds}']
        lines += [f"intervals: size = {len(rows)}"]
        for place, (text, start, end) in enumerate(rows, start=1):
            lines += [f'intervals [{place}]:\nxmin = {start}\nxmax = {end}\ntext = "{text}"']
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_alimeeting_takes_turns_from_tiers_and_the_first_channel(tmp_path, capsys):
    for part, folder in (("Train", "."), ("Eval", "Eval_Ali"), ("Test", "Test_Ali")):
        base = tmp_path / folder / f"{part}_Ali_far"
        audio(base / "audio_dir" / "R0001_M0001_MS001.wav", channels=2)
        tiers = {
            "N_F_SPK8013": [("", 0.0, 0.5), ("你好", 0.5, 1.5), ("", 1.5, 3.0)],
            "R0001_M0001_M_SPK8014": [("好", 1.0, 2.0)],
        }
        grid(base / "textgrid_dir" / "R0001_M0001.TextGrid", tiers)
    assert prepare("alimeeting", tmp_path, tmp_path / "c", "--allow-partial") == 0
    corpus = Corpus.open(tmp_path / "c")
    _, waveform, meta = next(iter(corpus.split("valid").utterances()))
    assert meta["turns"] == [["SPK8013", 0.5, 1.5], ["SPK8014", 1.0, 2.0]]
    written = soundfile.read(tmp_path / "Eval_Ali" / "Eval_Ali_far" / "audio_dir" / "R0001_M0001_MS001.wav")[0]
    assert np.allclose(waveform, written[:, 0], atol=1e-4)
    capsys.readouterr()
    (tmp_path / "Test_Ali" / "Test_Ali_far" / "audio_dir" / "R0001_M0001_MS001.wav").unlink()
    assert prepare("alimeeting", tmp_path, tmp_path / "d", "--allow-partial") == 2
    assert "0 files R0001_M0001_*.wav" in capsys.readouterr().err


def test_a_folder_of_rttm_and_audio(tmp_path, capsys):
    for name in ("m1", "m2", "m3", "m4"):
        audio(tmp_path / "in" / f"{name}.wav")
        rttm(tmp_path / "in" / f"{name}.rttm", name, [("anna", 0.0, 1.0)])
    words = ["--out", str(tmp_path / "c"), "--split-by", "file"]
    assert main(["prepare", "rttm", str(tmp_path / "in"), *words]) == 0
    corpus = Corpus.open(tmp_path / "c")
    assert sorted(key for split in corpus.splits for key in corpus.split(split).keys) == ["m1", "m2", "m3", "m4"]
    capsys.readouterr()
    assert main(["prepare", "rttm", str(tmp_path / "in" / "m1.rttm"), "--out", str(tmp_path / "d")]) == 2
    assert "--audio" in capsys.readouterr().err
