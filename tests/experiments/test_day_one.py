"""The material of `experiments/day_one` is what `wavlm prepare` reads, with the same texts and speakers in every format."""

from __future__ import annotations

import subprocess
import sys

import pytest
from documented_commands import ROOT

from wavlm_lightning.cli import main
from wavlm_lightning.data.corpus import Corpus

PREPARED = {
    "kaldi": ("kaldi", "foreign/kaldi"),
    "lhotse": ("lhotse", "foreign/lhotse"),
    "nemo": ("folder", "recordings", "--manifest", "foreign/nemo.jsonl"),
    "webdataset": ("webdataset", "foreign/webdataset/{000..002}.tar"),
    "audiofolder": ("huggingface", "foreign/audiofolder"),
    "parquet": ("huggingface", "foreign/parquet"),
}


@pytest.mark.slow
def test_every_format_holds_the_same(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("datasets")
    script = [sys.executable, str(ROOT / "experiments" / "day_one" / "material.py")]
    steps = (
        ["unpack", str(tiny / "pretrain"), "recordings"],
        ["tables", "recordings", "."],
        ["foreign", "recordings", "foreign"],
    )
    for step in steps:
        subprocess.run([*script, *step], check=True)
    found = {}
    for name, (kind, place, *options) in PREPARED.items():
        assert main(["prepare", kind, place, *options, "--out", name, "--split-by", "file", "--workers", "1"]) == 0
        corpus = Corpus.open(tmp_path / name)
        rows = [meta for split in corpus.splits for _, _, meta in corpus.split(split).utterances()]
        found[name] = sorted((meta["speaker"], meta["text"]) for meta in rows)
    assert found["kaldi"] and all(each == found["kaldi"] for each in found.values())
    assert main(["prepare", "folder", "recordings", "--manifest", "english.csv", "--out", "english"]) == 0
    assert all(meta["phones"] for _, _, meta in Corpus.open(tmp_path / "english").split("train").utterances())
    assert main(["prepare", "rttm", "foreign/rttm/all.rttm", "--audio", "foreign/rttm/audio", "--out", "meetings"]) == 0
