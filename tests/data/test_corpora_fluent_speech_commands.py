"""`wavlm prepare fluent_speech_commands` on a miniature of the archive."""

import csv

import pytest
from miniature import prepare, refusal, sound

from wavlm_lightning.data.corpus import Corpus

ROWS = {
    "train": [("change language", "none", "none"), ("activate", "lights", "kitchen"), ("activate", "music", "none")],
    "valid": [("activate", "lights", "none"), ("change language", "none", "none")],
    "test": [("activate", "music", "kitchen")],
}
COLUMNS = ["", "path", "speakerId", "transcription", "action", "object", "location"]


@pytest.fixture
def archive(tmp_path):
    root = tmp_path / "fluent_speech_commands_dataset"
    (root / "data").mkdir(parents=True)
    for split, rows in ROWS.items():
        with (root / "data" / f"{split}_data.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for number, intent in enumerate(rows):
                path = f"wavs/speakers/Sp{split}/{split}-4474-{number}.wav"
                sound(root / path)
                writer.writerow([number, path, f"Sp{split}", f"Say, {number}", *intent])
    return root


@pytest.mark.parametrize("above", [False, True])
def test_official_splits_and_intents(archive, tmp_path, capsys, above):
    folder = archive.parent if above else archive
    message = refusal(capsys, "fluent_speech_commands", folder, tmp_path / "c")
    assert "train has 3 utterances instead of 23,132" in message and "test has 1 utterances instead of 3,793" in message
    assert prepare("fluent_speech_commands", folder, tmp_path / "c", "--allow-partial") == 0
    corpus = Corpus.open(tmp_path / "c")
    assert {split: len(corpus.split(split)) for split in corpus.splits} == {"train": 3, "valid": 2, "test": 1}
    # In order of first appearance in train, not by alphabet.
    assert corpus.inventory("intents") == {
        "action": ["change language", "activate"],
        "object": ["none", "lights", "music"],
        "location": ["none", "kitchen"],
    }
    meta = corpus.split("train").metas()[1]
    assert meta["intent"] == {"action": "activate", "object": "lights", "location": "kitchen"}
    assert (meta["speaker"], meta["text"]) == ("Sptrain", "Say, 1")
    assert corpus.split("test").keys == ["Sptest-test-4474-0"]


def test_missing_pieces(archive, tmp_path, capsys):
    (archive / "wavs" / "speakers" / "Spvalid" / "valid-4474-0.wav").unlink()
    assert "valid has 1 utterances" in refusal(capsys, "fluent_speech_commands", archive, tmp_path / "c")
    (archive / "data" / "test_data.csv").unlink()
    assert "test_data.csv: no such file" in refusal(capsys, "fluent_speech_commands", archive, tmp_path / "c")
    assert "no such folder" in refusal(capsys, "fluent_speech_commands", archive / "data", tmp_path / "c")
