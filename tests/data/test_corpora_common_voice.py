"""`wavlm prepare common_voice` on a miniature of a release."""

import numpy as np
import pytest
import soundfile

from wavlm_lightning.cli import main
from wavlm_lightning.data.corpus import Corpus

COLUMNS = ["client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accents", "locale", "segment"]
ROWS = {
    "train": [("aa" * 64, "1", '"Hola, dijo.'), ("aa" * 64, "2", '"Una ""cita"" entera"'), ("bb" * 64, "3", "Adiós")],
    "dev": [("cc" * 64, "4", "¿Qué?")],
    "test": [("dd" * 64, "5", "Fin")],
}


@pytest.fixture
def release(tmp_path):
    base = tmp_path / "cv-corpus-11.0-2022-09-21"
    (base / "es" / "clips").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, rows in ROWS.items():
        lines = ["\t".join(COLUMNS)]
        for client, number, sentence in rows:
            clip = f"common_voice_es_{number}.mp3"
            soundfile.write(base / "es" / "clips" / clip, rng.uniform(-0.3, 0.3, 16000), 32000, format="MP3")
            lines.append("\t".join([client, clip, sentence, "2", "0", "", "", "", "es", ""]))
        (base / "es" / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return base


def prepare(root, out, *more):
    arguments = ["prepare", "common_voice", str(root), "--out", str(out), "--language", "es", "--workers", "1"]
    return main([*arguments, *more])


@pytest.mark.parametrize("inside", [True, False])
def test_clips_of_a_language(release, tmp_path, inside):
    assert prepare(release / "es" if inside else release, tmp_path / "c") == 0
    corpus = Corpus.open(tmp_path / "c")
    metas = {split: corpus.split(split).metas() for split in corpus.splits}
    # A quotation mark at the beginning of a sentence must not swallow the rows behind it.
    assert {split: [meta["text"] for meta in part] for split, part in metas.items()} == {
        "train": ['"Hola, dijo.', 'Una "cita" entera', "Adiós"],
        "valid": ["¿Qué?"],
        "test": ["Fin"],
    }
    assert corpus.split("train").keys == [f"common_voice_es_{number}" for number in (1, 2, 3)]
    speakers = [meta["speaker"] for meta in metas["train"]]
    assert speakers[0] == speakers[1] != speakers[2] and len(speakers[0]) == 16
    assert len(corpus.inventory("speakers")) == 4 and corpus.inventory("languages") == ["es"]
    assert corpus.body["source"]["release"] == "cv-corpus-11.0-2022-09-21"
    assert all(7000 <= samples <= 11000 for samples in corpus.split("train").samples)  # an encoder pads its frames


def test_missing_clips_and_tables(release, tmp_path, capsys):
    (release / "es" / "clips" / "common_voice_es_2.mp3").unlink()
    assert prepare(release, tmp_path / "c") == 2
    assert "train has 2 clips instead of 3" in capsys.readouterr().err
    assert prepare(release, tmp_path / "c", "--allow-partial") == 0
    assert Corpus.open(tmp_path / "c").split("train").keys == ["common_voice_es_1", "common_voice_es_3"]
    (release / "es" / "dev.tsv").write_text("client_id\tpath\ttext\n")
    assert prepare(release, tmp_path / "c") == 2
    assert "no column `sentence`" in capsys.readouterr().err
    (release / "es" / "dev.tsv").unlink()
    assert prepare(release, tmp_path / "c") == 2
    assert "dev.tsv: no such file; it should be a table of Common Voice in es" in capsys.readouterr().err
