"""Labels that an encoder has seen: how they are counted, and that files say so."""

from __future__ import annotations

import json

import torch

from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.encoder.checkpoints.labels_seen import entries_of, joined, labels_seen, said

SMALL = WavLMConfig.preset("tiny", layers=1, dim=32, ffn_dim=32, heads=2)
TEN = {"utterances": 2, "seconds": 600.0, "corpus": "a"}


def test_one_entry_a_corpus():
    other = {"utterances": 1, "seconds": 30.0, "corpus": "b"}
    assert joined([TEN], {**TEN, "seconds": 5.0}, [other], None, {}) == [TEN, other]
    assert joined({**TEN, "seconds": 5.0}, TEN) == [TEN]
    assert entries_of("much") == entries_of([1, {}]) == entries_of({"corpus": "a"}) == []
    assert said([TEN, other, {"seconds": 36000.0, "corpus": "c"}]) == "10 min (a), 30 s (b), 10 h (c)"
    assert said([]) == ""
    unknown = {
        "utterances": None,
        "seconds": None,
        "corpus": "a",
    }  # a released recogniser, whose labels nobody has counted
    assert entries_of(unknown) == joined(unknown) == [unknown] and said([unknown]) == "an unknown amount (a)"
    assert joined(unknown, TEN) == joined(TEN, unknown) == [TEN]


def test_an_exported_encoder_says_so_and_one_without_says_nothing(tmp_path):
    encoder = WavLM(SMALL)
    encoder.save_pretrained(tmp_path / "plain")
    assert "labelled" not in json.loads((tmp_path / "plain" / "config.json").read_text())["wavlm_lightning"]
    assert WavLM.from_pretrained(tmp_path / "plain").labelled == []
    encoder.labelled = [TEN]
    encoder.save_pretrained(tmp_path / "seen")
    again = WavLM.from_pretrained(tmp_path / "seen")
    assert again.labelled == labels_seen(tmp_path / "seen") == [TEN]
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_a_run_folder_is_read_by_its_newest_checkpoint(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    torch.save({"labelled": [TEN], "state_dict": {}}, tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert labels_seen(tmp_path / "run") == [TEN]
    assert labels_seen(tmp_path / "run" / "checkpoints" / "last.ckpt") == [TEN]
    assert labels_seen(tmp_path) == labels_seen(tmp_path / "none.ckpt") == []
