"""Long recordings in validation and test: heard in windows, alone in a batch, and left within seconds on SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from quiet import quiet_trainer

from wavlm_lightning.data.corpus import CorpusWriter
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import SpeakerDiarization, SpeakerIdentification, TaskData
from wavlm_lightning.tasks.windows import LONGEST_WHOLE, WINDOW_SECONDS, is_long, long_outputs
from wavlm_lightning.upstreams import Fbank


def corpus_with(folder: Path, seconds: float) -> str:
    """Two speakers in recordings of a second, and one recording of `seconds` in validation and test."""
    rng = np.random.default_rng(0)

    def said(key: str, length: float, speaker: str) -> Utterance:
        wave = 0.1 * rng.standard_normal(round(length * 16_000)).astype("f4")
        return Utterance(key, wave, {"speaker": speaker, "turns": [[speaker, 0.0, length / 2]]})

    writer = CorpusWriter(folder, "long", "CC0", {})
    writer.write_split("train", [said(f"t{n}", 1.0, "ab"[n % 2]) for n in range(8)])
    for split in ("valid", "test"):
        writer.write_split(
            split, [*(said(f"{split}{n}", 1.0, "ab"[n % 2]) for n in range(4)), said(split, seconds, "a")]
        )
    writer.finish(inventories={"speakers": ["a", "b"]})
    return str(folder)


@pytest.mark.parametrize("task", [SpeakerIdentification, SpeakerDiarization])
def test_a_long_recording_is_heard_in_windows(tmp_path, task, monkeypatch):
    heard: list[tuple[int, int]] = []
    upstream = Fbank()
    forward = upstream.forward

    def noted(audio, lengths):
        heard.append(tuple(audio.shape))
        return forward(audio, lengths)

    monkeypatch.setattr(upstream, "forward", noted)
    head = task(upstream, **({"hidden": 8} if task is SpeakerDiarization else {}))
    data = TaskData(corpus_with(tmp_path / "c", 200.0), batch_size=4, eval_batch_seconds=10)
    trainer = quiet_trainer(max_steps=1, val_check_interval=1)
    trainer.fit(head, data)
    assert max(samples for _, samples in heard) <= WINDOW_SECONDS * 16_000
    (found,) = trainer.test(head, data, verbose=False)
    assert np.isfinite(list(found.values())).all()
    # The plan gives it a batch of its own, and the others do not fill up a budget of its length.
    batches = list(data.test_dataloader())
    assert [len(batch.keys) for batch in batches] == [4, 1] and is_long(batches[-1].inputs)
    # The answer is that of `wavlm predict`.
    waveform = batches[-1].inputs.audio[0]
    with torch.no_grad():
        ours, theirs = head.eval().answers(batches[-1].inputs), long_outputs(head, waveform, WINDOW_SECONDS)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_the_limit_is_above_all_published_corpora_and_a_cache_is_refused(tmp_path):
    assert LONGEST_WHOLE > 145
    data = TaskData(corpus_with(tmp_path / "c", 200.0), batch_size=4, cache=str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"data.cache: split valid has a recording of 200 s"):
        quiet_trainer(max_steps=1, val_check_interval=1).fit(SpeakerIdentification(Fbank()), data)


def test_several_heads_share_it(tmp_path):
    from wavlm_lightning.tasks.joint.many_heads import ManyHeads

    upstream = Fbank()
    heads = ManyHeads({str(rate): SpeakerIdentification(upstream, rate) for rate in (1e-2, 1e-3)})
    data = TaskData(corpus_with(tmp_path / "c", 200.0), batch_size=4)
    trainer = quiet_trainer(max_steps=1, val_check_interval=1)
    trainer.fit(heads, data)
    alone = SpeakerIdentification(Fbank(), 1e-2)
    quiet_trainer(max_steps=1, val_check_interval=1).fit(alone, data)
    assert trainer.callback_metrics["0.01/valid/loss"] == pytest.approx(
        float(alone.trainer.callback_metrics["valid/loss"]), rel=1e-5
    )


def test_the_window_is_that_of_predict():
    assert f"default={WINDOW_SECONDS}" in Path("wavlm_lightning/cli/predict.py").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "number"), [("fit", signal.SIGINT), ("test", signal.SIGTERM)])
@pytest.mark.long
def test_a_quarter_of_an_hour_ends_and_is_left_within_seconds(tmp_path, verb, number):
    corpus = corpus_with(tmp_path / "c", 900.0)
    words = [sys.executable, "-m", "wavlm_lightning", verb, "--model", "SpeakerIdentification"]
    words += ["--model.upstream", "WavLMUpstream", "--model.upstream.source", "tiny", "--data", "TaskData"]
    words += ["--data.corpus", corpus, "--trainer.accelerator", "cpu", "--trainer.devices", "1", "--threads", "1"]
    words += ["--trainer.default_root_dir", str(tmp_path / "run"), "--trainer.num_sanity_val_steps", "0"]
    fits = [word if word != verb else "fit" for word in words]
    steps = ["--trainer.max_steps", "1"]
    if verb == "test":
        done = subprocess.run([*fits, *steps], capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr[-3000:]
        assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()
        words += ["--ckpt_path", "best"]
    else:
        words += steps
    listen = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    log = tmp_path / "log"
    with log.open("w") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out, preexec_fn=listen)
    deadline = time.monotonic() + 200
    sign = "scored in windows"
    while sign not in log.read_text() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(3)
    begin = time.monotonic()
    os.kill(process.pid, number)
    try:
        status = process.wait(timeout=60)
    finally:
        process.kill()
    assert time.monotonic() - begin < 15 and status != 0 and "Traceback" not in log.read_text(), log.read_text()[-2000:]
    if verb == "fit":
        done = subprocess.run([*fits, *steps, "--ckpt_path", "last"], capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr[-3000:]
        assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()  # the validation was made up
