"""The material of `experiments/day_one` is what `wavlm prepare` reads, with the same texts and speakers in every format."""

from __future__ import annotations

import os
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


def test_other_updates_or_recordings_need_another_folder(tmp_path):
    """The steps of the first command would be taken for those of the second, and the heads be named after its updates."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "speech").mkdir()
    for name in ("wavlm", "python"):
        command = tmp_path / "bin" / name
        command.write_text("#!/bin/sh\necho no more; exit 7\n")
        command.chmod(0o755)

    def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", **variables}
        line = ["bash", str(ROOT / "experiments" / "day_one" / "run.sh"), str(tmp_path / "out"), *words]
        return subprocess.run(line, env=environment, capture_output=True, text=True, check=False)

    for _ in range(2):  # the same command goes on, here to the same first error
        assert "no more" in run(UPDATES="10").stdout
    (tmp_path / "out" / "done" / "tables").touch()
    for said in (run(UPDATES="1000"), run(str(tmp_path / "speech"), UPDATES="10")):
        assert said.returncode == 1 and not said.stdout
        assert "out holds steps with UPDATES=10, SPEECH=, and these are UPDATES=" in said.stderr
