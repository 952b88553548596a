"""Kaldi data directories become the corpus that `wavlm prepare folder` makes of the same audio, or are refused in a sentence."""

import sys

import numpy as np
import pytest
import soundfile
from spoken_files import content, prepare_foreign, without_split

from wavlm_lightning.cli import main
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.folder import FolderRecipe
from wavlm_lightning.data.foreign.pipes import parse_commands, plain_reading
from wavlm_lightning.system.errors import UserError


def write_kaldi(folder, spoken, rows=None):
    """A data directory; utterances are named as the keys of `prepare folder` are."""
    folder.mkdir(parents=True)
    rows = spoken.rows if rows is None else rows
    names = [row["path"].removesuffix(".wav") for row in rows]
    lists = {
        "wav.scp": [f"{name} {spoken.folder / row['path']}" for name, row in zip(names, rows, strict=True)],
        "text": [f"{name} {row['text']}" for name, row in zip(names, rows, strict=True)],
        "utt2spk": [f"{name} {row['speaker']}" for name, row in zip(names, rows, strict=True)],
        "utt2lang": [f"{name} {row['language']}" for name, row in zip(names, rows, strict=True)],
        "spk2gender": sorted({f"{row['speaker']} {row['gender'][0]}" for row in rows}),
    }
    for name, lines in lists.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def prepare(*arguments):
    return prepare_foreign("kaldi", *arguments)


def replace_in(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_directory_is_the_corpus_of_its_files(spoken, tmp_path, capsys):
    folder = write_kaldi(tmp_path / "train", spoken)
    assert main(["prepare", "kaldi", str(folder), "--out", str(tmp_path / "c"), "--workers", "1"]) == 0
    assert content(Corpus.open(tmp_path / "c")) == spoken.reference(tmp_path / "reference")
    assert "4 speakers, 2 to train, 1 to valid, 1 to test; no speaker is in two splits" in capsys.readouterr().out


def test_folders_are_splits_and_commands_that_only_read_are_read(spoken, tmp_path):
    write_kaldi(tmp_path / "k" / "data" / "train", spoken, spoken.rows[:5])
    dev = write_kaldi(tmp_path / "k" / "data" / "dev", spoken, spoken.rows[5:])
    replace_in(dev / "wav.scp", f"u05 {spoken.folder}/u05.wav", f"u05 cat {spoken.folder}/u05.wav |")
    prepare(tmp_path / "k", "--out", tmp_path / "c")
    corpus = Corpus.open(tmp_path / "c")
    assert corpus.splits == ["dev", "train"] and [len(corpus.split(name)) for name in corpus.splits] == [3, 5]
    assert without_split(content(corpus)) == without_split(spoken.reference(tmp_path / "reference"))
    prepare(tmp_path / "k", "--split", "train=data/train", "valid=data/dev", "--out", tmp_path / "named")
    assert Corpus.open(tmp_path / "named").splits == ["train", "valid"]


def test_segments_are_stretches_and_an_archive_holds_wav(spoken, tmp_path):
    """The segments of a recording that lies in an archive equal the same stretches of the file."""
    folder = tmp_path / "k"
    folder.mkdir()
    audio = (spoken.folder / "u07.wav").read_bytes()
    (tmp_path / "wav.ark").write_bytes(b"first " + audio + b"second " + audio)
    (folder / "wav.scp").write_text(f"rec {tmp_path}/wav.ark:{len(audio) + 13}\nunused {spoken.folder}/u06.wav\n")
    (folder / "segments").write_text("a rec 0.0 0.25\nb rec 0.25 0.5\nc rec 0.1 -1\n")
    (folder / "utt2spk").write_text("a s1\nb s2\nc s3\n")
    prepare(folder, "--out", tmp_path / "c")
    (tmp_path / "m.csv").write_text("path,start,end,speaker\nu07.wav,0,0.25,s1\nu07.wav,0.25,0.5,s2\nu07.wav,0.1,,s3\n")
    FolderRecipe(spoken.folder, tmp_path / "f", tmp_path / "m.csv").prepare(workers=1)
    waveforms = [
        {meta["speaker"]: w.tobytes() for split in c.splits for _, w, meta in c.split(split).utterances()}
        for c in (Corpus.open(tmp_path / "c"), Corpus.open(tmp_path / "f"))
    ]
    assert waveforms[0] == waveforms[1] and len(waveforms[0]) == 3
    assert Corpus.open(tmp_path / "c").body["source"]["left_out_by_reason"] == {
        "recordings without a segment": ["unused"]
    }


def test_two_channels_of_a_call(tmp_path):
    """Where two recordings share a file, each gets its channel."""
    rng = np.random.default_rng(0)
    both = rng.uniform(-0.3, 0.3, (8000, 2)).astype("f4")
    soundfile.write(tmp_path / "call.wav", both, 16_000, subtype="FLOAT")
    folder = tmp_path / "k"
    folder.mkdir()
    (folder / "wav.scp").write_text(f"call-A {tmp_path}/call.wav\ncall-B {tmp_path}/call.wav\n")
    (folder / "reco2file_and_channel").write_text("call-A call A\ncall-B call B\n")
    (folder / "utt2spk").write_text("call-A anna\ncall-B ben\n")
    other = tmp_path / "other"
    other.mkdir()
    soundfile.write(tmp_path / "other.wav", rng.uniform(-0.3, 0.3, 8000), 16_000)
    (other / "wav.scp").write_text(f"x {tmp_path}/other.wav\n")
    prepare(tmp_path, "--split", "train=k", "valid=other", "--out", tmp_path / "c")
    found = {key: waveform for key, waveform, _ in Corpus.open(tmp_path / "c").split("train").utterances()}
    for place, key in enumerate(("call-A", "call-B")):
        np.testing.assert_allclose(found[key], both[:, place], atol=2**-15)


def test_commands_run_only_when_allowed_and_within_their_time(spoken, tmp_path, capsys):
    folder = write_kaldi(tmp_path / "k", spoken)
    file = spoken.folder / "u00.wav"
    copy = f'{sys.executable} -c \'import sys;sys.stdout.buffer.write(open("{file}","rb").read())\' | cat |'
    replace_in(folder / "wav.scp", f"u00 {file}", f"u00 {copy}")
    with pytest.raises(UserError, match=r"1 recordings from a command .* run only with --allow-pipes \(u00\)"):
        prepare(folder, "--out", tmp_path / "refused")
    prepare(folder, "--allow-pipes", "--out", tmp_path / "c")
    assert (
        f"runs 1 commands without a shell, 60 s each at most; the first: ['{sys.executable}'" in capsys.readouterr().err
    )
    found, reference = (content(Corpus.open(tmp_path / "c")), spoken.reference(tmp_path / "reference"))
    assert sorted(w for _, w, _ in found.values()) == sorted(w for _, w, _ in reference.values())
    for command, message in (("sleep 60 |", "takes more than 0.5 s"), ("false |", "ends with status 1")):
        (folder / "wav.scp").write_text((folder / "wav.scp").read_text().replace(f"u00 {copy}", f"u00 {command}"))
        with pytest.raises(UserError, match=message):
            prepare(folder, "--allow-pipes", "--pipe-seconds", "0.5", "--out", tmp_path / "late")
        copy = command


@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("cat a.wav |", ("a.wav", None)),
        ("flac -c -d -s 'a b.flac' |", ("a b.flac", None)),
        ("/opt/flac -dcs a.flac |", ("a.flac", None)),
        ("sph2pipe -f wav -p -c 2 a.sph |", ("a.sph", 1)),
        ("sph2pipe -f wav -t 1:2 a.sph |", None),
        ("flac -c -d --skip=100 a.flac |", None),
        ("cat a.wav b.wav |", None),
        ("sox a.wav -t wav - |", None),
        ("cat a.wav | sox -t wav - -t wav - speed 2 |", None),
    ],
)
def test_what_only_reads(command, file):
    assert plain_reading(parse_commands(command, "wav.scp, line 1")) == file


@pytest.mark.parametrize(
    "command", ["cat $X |", "cat a.wav; rm b |", "cat < a.wav |", "cat `x` |", "cat *.wav |", "a || b |"]
)
def test_what_needs_a_shell_is_refused(command):
    with pytest.raises(UserError, match=r"needs a shell|stands on either side"):
        parse_commands(command, "wav.scp, line 1")


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("wav.scp", "u01 ", "u00 ", r"wav.scp, line 2: 'u00' stands in line 1, too"),
        ("wav.scp", "u01.wav", "gone.wav", r"1 recordings whose file is not there .* \(u01\)"),
        ("wav.scp", "u01.wav", "u01.wav[0:3]", r"a range of another"),
        (
            "text",
            "u03 ",
            "u99 ",
            r"1 lines of text without an utterance \(u99\); 1 utterances without a line in text \(u03\)",
        ),
        ("utt2spk", "u03 s3", "u03 s9", r"1 utterances of a speaker without a line in spk2gender \(u03\)"),
        ("spk2gender", "s0 m", "s0 x", r"spk2gender, line 1: 'x' is neither f nor m"),
    ],
)
def test_lists_that_contradict_each_other(spoken, tmp_path, name, old, new, message):
    folder = write_kaldi(tmp_path / "k", spoken)
    replace_in(folder / name, old, new)
    with pytest.raises(UserError, match=message):
        prepare(folder, "--out", tmp_path / "c")


def test_what_is_skipped_is_listed_by_reason(spoken, tmp_path, capsys):
    folder = write_kaldi(tmp_path / "k", spoken)
    replace_in(folder / "text", "u03 ", "u99 ")
    (folder / "reco2dur").write_text("u04 9.5\nu05 0.5\n")
    options = ["--out", str(tmp_path / "c"), "--on-error", "skip", "--workers", "1"]
    assert main(["prepare", "kaldi", str(folder), *options]) == 0
    said = capsys.readouterr().out
    assert "left out 1 utterances without a line in text (u03)" in said
    assert "left out 1 recordings whose file is longer or shorter than reco2dur says (u04)" in said
    kept = {key for split in ("train", "valid", "test") for key in Corpus.open(tmp_path / "c").split(split).keys}
    assert kept == {f"u{n:02d}" for n in range(8)} - {"u03", "u04"}


def test_one_utterance_in_two_splits_is_refused_before_reading(spoken, tmp_path):
    write_kaldi(tmp_path / "k" / "train", spoken)
    write_kaldi(tmp_path / "k" / "train_hires", spoken)
    with pytest.raises(UserError, match=r"8 utterances are the same audio in two splits \(u00 in train and "):
        prepare(tmp_path / "k", "--out", tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_one_listed_channel_of_a_call(tmp_path):
    """Also where no recording takes the other channel; a file of one channel is read whatever the list calls it."""
    rng = np.random.default_rng(0)
    both = rng.uniform(-0.3, 0.3, (8000, 2)).astype("f4")
    soundfile.write(tmp_path / "call.wav", both, 16_000, subtype="FLOAT")
    for name in ("one", "other"):
        soundfile.write(tmp_path / f"{name}.wav", rng.uniform(-0.3, 0.3, 8000), 16_000)
    for name, lines in {"k": ["call-B call", "one-A one"], "other": ["x other"]}.items():
        (tmp_path / name).mkdir()
        listed = [line.split() for line in lines]
        (tmp_path / name / "wav.scp").write_text("".join(f"{key} {tmp_path}/{file}.wav\n" for key, file in listed))
    (tmp_path / "k" / "reco2file_and_channel").write_text("call-B call B\none-A one B\n")
    prepare(tmp_path, "--split", "train=k", "valid=other", "--out", tmp_path / "c")
    found = {key: waveform for key, waveform, _ in Corpus.open(tmp_path / "c").split("train").utterances()}
    np.testing.assert_allclose(found["call-B"], both[:, 1], atol=2**-15)
    assert len(found["one-A"]) == 8000
