"""`wavlm prepare quesst14` on a miniature of the database's tree."""

import shutil

import numpy as np
import pytest
import soundfile

from wavlm_lightning.audio import load_mono
from wavlm_lightning.cli import main
from wavlm_lightning.data.corpus import Corpus

DOCUMENTS = {"00001": "nnenglish", "00002": "nnenglish", "00003": "czech", "00004": "nnenglish"}
QUERIES = {
    "dev": {"0001": "nnenglish", "0002": "nnenglish", "0003": "czech", "0004": "basque"},
    "eval": {"0001": "nnenglish", "0002": "slovak"},
}
TRUTH = {
    "dev": [("00001", "dev_0001"), ("00001", "dev_0001"), ("00004", "dev_0001"), ("00003", "dev_0003")],
    "eval": [("00004", "eval_0001")],
}


@pytest.fixture
def database(tmp_path):
    base = tmp_path / "quesst14Database"
    rng = np.random.default_rng(0)

    def sound(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.uniform(-0.5, 0.5, 4000), 8000)

    scoring = base / "scoring"
    scoring.mkdir(parents=True)
    lists = {"utterances": [(f"Audio/quesst14_{n}.wav", language) for n, language in DOCUMENTS.items()]}
    for part, queries in QUERIES.items():
        lists[part] = [(f"{part}_queries/quesst14_{part}_{n}.wav", language) for n, language in queries.items()]
    for name, rows in lists.items():
        for path, _ in rows:
            sound(base / path)
        lines = [f"quesst14Database/{path} {language}\n" for path, language in rows]
        (scoring / f"language_key_{name}.lst").write_text("".join(lines))
    for part, places in TRUTH.items():
        folder = scoring / f"groundtruth_quesst14_{part}"
        folder.mkdir()
        lines = [f"SPEAKER quesst14_{document} 1 0.00 9.00 <NA> <NA> speaker <NA>\n" for document, _ in places]
        lines += [
            f"LEXEME quesst14_{document} 1 0.50 0.40 quesst14_{query} lex speaker 0.5\n" for document, query in places
        ]
        lines.append("LEXEME quesst14_00002 1 0.00 1.00 NO_KEYWORD lex speaker 0.5\n")
        (folder / f"quesst14_{part}.rttm").write_text("".join(lines))
    return base


def prepare(folder, out, *more):
    return main(["prepare", "quesst14", str(folder), "--out", str(out), "--workers", "1", *more])


@pytest.mark.parametrize("inside", [True, False])
def test_english_documents_and_queries(database, tmp_path, inside):
    assert prepare(database if inside else database.parent, tmp_path / "c", "--allow-partial") == 0
    corpus = Corpus.open(tmp_path / "c")
    assert corpus.splits == ["documents", "queries-valid", "queries-test"]
    documents = corpus.split("documents")
    assert dict(zip(documents.keys, [meta["terms"] for meta in documents.metas()], strict=True)) == {
        "quesst14_00001": ["quesst14_dev_0001"],
        "quesst14_00002": [],
        "quesst14_00004": ["quesst14_dev_0001", "quesst14_eval_0001"],
    }
    for split, keys in (("queries-valid", ["dev_0001", "dev_0002"]), ("queries-test", ["eval_0001"])):
        assert corpus.split(split).keys == [f"quesst14_{key}" for key in keys]
        assert [meta["term"] for meta in corpus.split(split).metas()] == corpus.split(split).keys
    assert corpus.inventory("terms") == ["quesst14_dev_0001", "quesst14_dev_0002", "quesst14_eval_0001"]
    assert corpus.body["source"]["queries_in_no_document"] == ["quesst14_dev_0002"]
    # All languages count, except for queries that are in no document: dev_0002 and dev_0004, eval_0002.
    assert corpus.inventory("trial_grid") == {
        "queries-valid": {"queries": 2, "documents": 4},
        "queries-test": {"queries": 1, "documents": 4},
    }


def test_audio_is_resampled_and_not_turned_down(database, tmp_path):
    assert prepare(database, tmp_path / "c", "--allow-partial") == 0
    corpus = Corpus.open(tmp_path / "c")
    for split, file in (("documents", "Audio/quesst14_00001"), ("queries-test", "eval_queries/quesst14_eval_0001")):
        ours = corpus.split(split).shards[0].waveform(0)
        assert np.abs(ours - load_mono(database / f"{file}.wav")).max() < 1e-4


def test_counts_lists_and_ground_truth_are_asked_for(database, tmp_path, capsys):
    assert prepare(database, tmp_path / "c") == 2
    assert "documents has 3 utterances instead of 2,438" in capsys.readouterr().err
    truth = database / "scoring" / "groundtruth_quesst14_eval"
    (truth / "quesst14_eval.rttm").write_text("LEXEME quesst14_00001 1 0 1 sws2013_eval_001 lex speaker 0.5\n")
    assert prepare(database, tmp_path / "c", "--allow-partial") == 2
    assert "names none of the listed queries" in capsys.readouterr().err
    shutil.rmtree(truth)
    assert prepare(database, tmp_path / "c", "--allow-partial") == 2
    assert "quesst14_eval.rttm: no such file; it should be the ground truth" in capsys.readouterr().err
    (database / "scoring" / "language_key_dev.lst").unlink()
    assert prepare(database, tmp_path / "c", "--allow-partial") == 2
    assert "language_key_dev.lst: no such file" in capsys.readouterr().err
    assert prepare(tmp_path / "nowhere", tmp_path / "c") == 2
    assert "no such folder" in capsys.readouterr().err
