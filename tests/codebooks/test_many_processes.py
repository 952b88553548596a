"""Labels and codebooks are the same, byte by byte, however the work was shared and whichever process was stopped."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from wavlm_lightning.cli import main
from wavlm_lightning.codebooks import Codebook, LabelSet, LayerFeatures, MfccFeatures, fit_kmeans, label_corpus
from wavlm_lightning.codebooks.audio_progress import HoursBar
from wavlm_lightning.codebooks.extraction import UtteranceSample
from wavlm_lightning.codebooks.job_shards import JobShard, jobs_for_audio
from wavlm_lightning.codebooks.kmeans import extract_part
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.worker_pool import in_order

pytestmark = pytest.mark.usefixtures("quick_processes")
SHARDS = 7


def noise(number: int, samples: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=samples).astype("f4") * 0.05


def write(folder, shards: int, a_shard: int, seconds: float) -> Corpus:
    writer = CorpusWriter(folder, "many", "CC0", {}, shard_seconds=a_shard * seconds)
    utterances = (
        Utterance(f"u{number}", noise(number, int(seconds * 16_000) + 37 * (number % 5)), {"speaker": "s"})
        for number in range(shards * a_shard)
    )
    writer.write_split("train", utterances)
    return writer.finish({})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    """Seven shards of three short utterances."""
    written = write(tmp_path_factory.mktemp("many"), SHARDS, 3, 1.0)
    assert len(written.split("train").shards) == SHARDS
    return written


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoder")
    WavLM(WavLMConfig.tiny()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["mfcc", "layer"])
def codebook(request, corpus, encoder) -> Codebook:
    source = MfccFeatures() if request.param == "mfcc" else LayerFeatures(encoder, 2)
    return fit_kmeans(corpus, source, 12, restarts=1)


def files(corpus: Corpus, name: str) -> dict[str, bytes]:
    """All but what the command adds when everything is labelled."""
    folder = corpus.directory / "labels" / name
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "usage.json"}


@pytest.mark.slow
def test_any_number_of_jobs_and_parts_gives_the_same_labels(corpus, codebook):
    kind = codebook.features["kind"]
    assert label_corpus(corpus, codebook, f"{kind}-1") == SHARDS
    whole = files(corpus, f"{kind}-1")
    assert len(whole) == SHARDS + 1
    assert label_corpus(corpus, codebook, f"{kind}-2", jobs=2) == SHARDS
    assert files(corpus, f"{kind}-2") == whole
    done = [label_corpus(corpus, codebook, f"{kind}-p", part=JobShard(number, 3)) for number in (2, 0, 1)]
    assert sorted(done) == [2, 2, 3]
    assert files(corpus, f"{kind}-p") == whole
    assert label_corpus(corpus, codebook, f"{kind}-p", jobs=2, part=JobShard(0, 2)) == 0
    assert len(LabelSet.open(corpus, f"{kind}-p", "train").rows) == 21


@pytest.mark.slow
def test_any_number_of_jobs_and_parts_gives_the_same_codebook(corpus, codebook, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("wavlm_lightning.codebooks.extraction.GROUP_SECONDS", 4.0)
    kind = codebook.features["kind"]
    source = MfccFeatures() if kind == "mfcc" else LayerFeatures(encoder, 2)
    share = {"share": 0.8, "memory_gib": 1.0, "seed": 4}
    alone = fit_kmeans(corpus, source, 12, restarts=1, **share)
    assert fit_kmeans(corpus, source, 12, restarts=1, jobs=2, **share).sha256 == alone.sha256
    groups = [extract_part(corpus, source, JobShard(number, 2), tmp_path, **share) for number in (1, 0)]
    assert sum(groups) == len(list(tmp_path.glob("*/*.safetensors"))) >= 4

    def refuse(*_):
        raise AssertionError("read again")

    expected = UtteranceSample.make(corpus, source, "train", 0.8, 1.0, 4).features()
    monkeypatch.setattr(type(source), "__call__", refuse)
    assert np.array_equal(UtteranceSample.make(corpus, source, "train", 0.8, 1.0, 4).features(keep=tmp_path), expected)
    assert fit_kmeans(corpus, source, 12, restarts=1, keep=tmp_path, **share).sha256 == alone.sha256


def test_features_are_in_the_order_of_the_draw(corpus):
    source = MfccFeatures()
    draw = UtteranceSample.make(corpus, source, "train", 1.0, 1.0, 0)
    assert not np.array_equal(draw.numbers, np.sort(draw.numbers))
    utterances = list(corpus.split("train").utterances())
    expected = np.concatenate([source(utterances[number][1]) for number in draw.numbers])
    assert np.abs(draw.features() - expected).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.long
def test_a_piece_that_is_stopped_leaves_whole_shards_and_goes_on(tmp_path, encoder, number):
    corpus = write(tmp_path / "corpus", 12, 4, 10.0)
    codebook = fit_kmeans(corpus, LayerFeatures(encoder, 4), 5, restarts=1, share=0.1)
    codebook.save(tmp_path / "book")
    command = [sys.executable, "-m", "wavlm_lightning", "codebook", "apply", str(tmp_path / "book")]
    command += [str(corpus.directory), "--name", "k", "--jobs", "2", "--part", "1/2"]
    folder = corpus.directory / "labels" / "k"

    def listen() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it

    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=listen, process_group=0)
        deadline = time.monotonic() + 120
        while not list(folder.glob("train-*.safetensors")) and time.monotonic() < deadline:
            time.sleep(0.01)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # a terminal sends it to all
        else:
            process.kill()
        status = process.wait(timeout=60)
        # No process is left behind: the group ends with its first process.
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                break
            time.sleep(0.05)
        else:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError("processes were left behind")
    said = (tmp_path / "log").read_text()
    assert status == (130 if number == signal.SIGINT else -signal.SIGKILL), said[-2000:]
    assert "Traceback" not in said
    finished = list(folder.glob("train-*.safetensors"))
    assert 1 <= len(finished) < 6
    before = {path: path.stat().st_mtime_ns for path in finished}
    assert label_corpus(corpus, codebook, "k", part=JobShard(0, 2)) == 6 - len(finished)
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    assert label_corpus(corpus, codebook, "k", part=JobShard(1, 2)) == 6
    assert label_corpus(corpus, codebook, "again") == 12
    again = files(corpus, "again")
    assert {name: body for name, body in files(corpus, "k").items() if not name.endswith(".tmp")} == again


@pytest.mark.slow
@pytest.mark.long
def test_two_of_the_same_piece_at_once_do_not_collide(corpus, codebook, tmp_path):
    codebook.save(tmp_path / "book")
    shutil.copytree(corpus.directory, tmp_path / "c", ignore=shutil.ignore_patterns("labels"))
    command = [sys.executable, "-m", "wavlm_lightning", "codebook", "apply", str(tmp_path / "book")]
    command += [str(tmp_path / "c"), "--name", "both", "--part"]
    both = [
        subprocess.Popen([*command, part], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for part in ("1/1", "1/1", "2/2")
    ]
    said = [process.communicate(timeout=120)[1] for process in both]
    *same, other = [process.returncode for process in both]
    assert other == 0 and sorted(same) in ([0, 2], [0, 0])  # the second one may begin after the first one's end
    assert 2 not in same or "another `wavlm codebook apply` writes there" in said[same.index(2)]
    label_corpus(corpus, codebook, f"alone-{codebook.features['kind']}")
    assert files(Corpus.open(tmp_path / "c"), "both") == files(corpus, f"alone-{codebook.features['kind']}")


def test_a_file_without_content_is_made_again(corpus, codebook):
    name = f"power-{codebook.features['kind']}"
    label_corpus(corpus, codebook, name)
    path = corpus.directory / "labels" / name / "train-000003.safetensors"
    whole = path.read_bytes()
    path.write_bytes(b"")
    assert label_corpus(corpus, codebook, name) == 1
    assert path.read_bytes() == whole


class Killed:
    """A worker that kills its process at the third task."""

    def __init__(self, device: str | None) -> None:
        pass

    def __call__(self, task: int) -> int:
        if task == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return task


@pytest.mark.slow  # 15 s, processes
def test_a_process_that_is_killed_stops_the_others_with_one_sentence():
    began = time.monotonic()
    with pytest.raises(UserError, match="one of 2 processes was killed"):
        list(in_order(Killed, range(100), 2))
    assert time.monotonic() - began < 60


def test_results_come_in_order():
    class Square:
        def __call__(self, task: int) -> int:
            return task**2

    assert list(in_order(lambda _: Square(), range(5), 1)) == [0, 1, 4, 9, 16]
    assert list(in_order(lambda _: Square(), [], 4)) == []


def test_jobs_by_cores_ranks_and_audio(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16), raising=False)
    assert jobs_for_audio("mfcc", 0.9) == 1
    assert jobs_for_audio("mfcc", 20.0) == 4
    assert jobs_for_audio("mfcc", 1000.0) == 16
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert jobs_for_audio("layer", 1000.0) == 8
    assert jobs_for_audio("mfcc", 1000.0) == 16
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert jobs_for_audio("layer", 1000.0) == 1


def test_the_bar_counts_hours_an_hour_without_what_was_there(capsys, monkeypatch):
    clock = iter([0.0, *[2.0] * 20])
    monkeypatch.setattr("wavlm_lightning.codebooks.audio_progress.time.monotonic", lambda: next(clock))
    with HoursBar(4 * 3600 * 16_000, 2 * 3600 * 16_000, "labels") as bar:
        bar.add(3600 * 16_000)
        assert bar.speed == 1800.0
    said = capsys.readouterr().err
    assert re.search(r"labels: +75%.*3\.00/4\.00 h of audio \[.*1,800 h/h\]", said.split("\r")[-1])


def test_parts_on_the_command_line(corpus, tmp_path, capsys):
    book, fit = tmp_path / "book", ["codebook", "fit", str(corpus.directory), "--clusters", "9", "--restarts", "1"]
    fit += ["--out", str(book)]
    assert main([*fit, "--part", "1/2"]) == 2
    assert "--part needs --memory GIB" in capsys.readouterr().err
    for part in ("1/2", "2/2"):
        assert main([*fit, "--memory", "1", "--part", part]) == 0
    assert "the same command without --part fits" in capsys.readouterr().out
    assert list(book.glob("features/*/*.safetensors")) and not (book / "codebook.json").exists()
    assert main([*fit, "--memory", "1"]) == 0
    assert not (book / "features").exists()
    assert Codebook.load(book).sha256 == fit_kmeans(corpus, MfccFeatures(), 9, restarts=1).sha256
    assert main([*fit, "--precision", "bf16"]) == 2
    assert "--precision is for layers" in capsys.readouterr().err
    apply = ["codebook", "apply", str(book), str(corpus.directory), "--name", "cli"]
    assert main([*apply, "--part", "3/2"]) == 2
    assert main([*apply, "--part", "2/2", "--jobs", "2"]) == 0
    assert "3 shards of part 2/2 labelled now" in capsys.readouterr().out
