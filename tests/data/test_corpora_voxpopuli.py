"""`wavlm prepare voxpopuli` on miniatures of what the official tools leave."""

import gzip

import numpy as np
import pytest
import soundfile

from wavlm_lightning.cli import main
from wavlm_lightning.data.corpus import Corpus

EVENTS = ["20090112-0900-PLENARY_fr", "20180507-0900-PLENARY_fr", "20180507-0900-PLENARY_en", "20190101-1200-BUDG_fr"]
TRANSCRIPTS = {
    "train": [("20090112-0900-PLENARY-4-fr_a", '"Bonjour.', "bonjour", "7"), ("20100101-x-fr_b", "Oui.", "oui", "8")],
    "dev": [("20110101-y-fr_c", "", "", "9"), ("20110101-y-fr_d", "Non!", "non", "9")],
    "test": [("20120101-z-fr_e", "Merci", "merci", "10")],
}


def sound(path, seconds):
    path.parent.mkdir(parents=True, exist_ok=True)
    audio = np.random.default_rng(len(path.name)).uniform(-0.1, 0.1, round(seconds * 16000))
    soundfile.write(path, audio, 16000, format="OGG", subtype="VORBIS")


@pytest.fixture
def root(tmp_path):
    base = tmp_path / "voxpopuli"
    lines = ["event_id\tsegment_no\tstart\tend"]
    for event in EVENTS:
        sound(base / "raw_audios" / event[-2:] / event[:4] / f"{event}.ogg", 1.0)
        lines += [f"{event}\t{number}\t{number * 0.5}\t{number * 0.5 + 0.4}" for number in range(2)]
    (base / "unlabelled_data").mkdir()
    with gzip.open(base / "unlabelled_data" / "unlabelled_v2.tsv.gz", "wt") as file:
        file.write("\n".join(lines) + "\n")
    columns = ["id", "raw_text", "normalized_text", "speaker_id", "split", "gender", "is_gold_transcript", "accent"]
    for name, rows in TRANSCRIPTS.items():
        folder = base / "transcribed_data" / "fr"
        for key, *_ in rows:
            sound(folder / key[:4] / f"{key}.ogg", 0.3)
        body = ["\t".join([*row, name, "female", "False", "None"]) for row in rows]
        (folder / f"asr_{name}.tsv").write_text("\n".join(["\t".join(columns), *body]) + "\n")
    return base


def prepare(root, out, kind, *more, language="fr"):
    arguments = ["prepare", "voxpopuli", str(root), "--out", str(out), "--kind", kind, "--language", language]
    return main([*arguments, "--workers", "1", *more])


def test_unlabelled_segments_of_one_language(root, tmp_path):
    assert prepare(root, tmp_path / "c", "unlabelled", "--valid", "0.3") == 0
    corpus = Corpus.open(tmp_path / "c")
    keys = {split: corpus.split(split).keys for split in corpus.splits}
    events = {split: {key.rsplit("_", 1)[0] for key in part} for split, part in keys.items()}
    assert set(keys) == {"train", "valid"} and not events["train"] & events["valid"]
    wanted = [f"{event}_{number}" for event in EVENTS if event.endswith("fr") for number in range(2)]
    assert sorted(keys["train"] + keys["valid"]) == sorted(wanted)
    assert all(samples == 6400 for split in keys for samples in corpus.split(split).samples)
    meta = corpus.split("train").metas()[0]
    assert meta["language"] == "fr" and meta["event"] in EVENTS
    assert corpus.inventory("languages") == ["fr"]


def test_transcribed_utterances(root, tmp_path):
    assert prepare(root, tmp_path / "c", "asr") == 0
    corpus = Corpus.open(tmp_path / "c")
    metas = {split: corpus.split(split).metas() for split in corpus.splits}
    # A quotation mark in one row must not swallow the next, and what has no text is no use.
    assert {split: [meta["text"] for meta in part] for split, part in metas.items()} == {
        "train": ["bonjour", "oui"],
        "valid": ["non"],
        "test": ["merci"],
    }
    assert corpus.split("train").keys[0] == "20090112-0900-PLENARY-4-fr_a"
    assert metas["train"][0] == {"text": "bonjour", "language": "fr", "speaker": "7"}
    assert corpus.inventory("speakers") == ["10", "7", "8", "9"]
    assert corpus.body["source"]["without_text"] == 1


def test_missing_audio_is_refused_unless_allowed(root, tmp_path, capsys):
    (root / "raw_audios" / "fr" / "2018" / f"{EVENTS[1]}.ogg").unlink()
    assert prepare(root, tmp_path / "c", "unlabelled") == 2
    assert "fr has 4 segments with their audio instead of 6" in capsys.readouterr().err
    assert prepare(root, tmp_path / "c", "unlabelled", "--allow-partial") == 0
    assert sum(len(Corpus.open(tmp_path / "c").split(split)) for split in ("train", "valid")) == 4
    (root / "transcribed_data" / "fr" / "2010" / "20100101-x-fr_b.ogg").unlink()
    assert prepare(root, tmp_path / "asr", "asr") == 2
    assert "train has 1 utterances with their audio instead of 2" in capsys.readouterr().err
    assert prepare(root, tmp_path / "asr", "asr", "--allow-partial") == 0
    assert len(Corpus.open(tmp_path / "asr").split("train")) == 1


def test_wrong_trees(root, tmp_path, capsys):
    assert prepare(root, tmp_path / "c", "unlabelled", language="xx") == 2
    assert "no segment in 'xx'" in capsys.readouterr().err
    assert prepare(root, tmp_path / "c", "unlabelled", "--valid", "1") == 2
    assert "would hold out all 3 events" in capsys.readouterr().err
    assert prepare(root, tmp_path / "c", "asr", language="de") == 2
    assert "asr_train.tsv: no such file; make it with get_asr_data" in capsys.readouterr().err
    (root / "transcribed_data" / "fr" / "asr_train.tsv").write_text("id\ttext\n")
    assert prepare(root, tmp_path / "c", "asr") == 2
    assert "no column `normalized_text`" in capsys.readouterr().err
    (root / "unlabelled_data" / "unlabelled_v2.tsv.gz").unlink()
    assert prepare(root, tmp_path / "c", "unlabelled") == 2
    assert "unlabelled_v2.tsv.gz: no such file; get_unlabelled_data" in capsys.readouterr().err
