"""Utterances without a frame, transcripts longer than CTC allows, recordings in which nobody speaks: named and counted."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from quiet import quiet_trainer

from wavlm_lightning.audio import SHORTEST, BadAudio
from wavlm_lightning.cli import main
from wavlm_lightning.codebooks.codebook import Codebook
from wavlm_lightning.codebooks.features import MfccFeatures
from wavlm_lightning.codebooks.labelling import label_corpus
from wavlm_lightning.data import shards
from wavlm_lightning.data.batch import Targets
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.recordings import CorpusPlan, Recording
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.data.writing import write_corpus
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import KeywordSpotting, PhonemeRecognition, SpeakerDiarization, TaskData
from wavlm_lightning.tasks.ctc import alignable, frames_needed
from wavlm_lightning.upstreams import Fbank, WavLMUpstream


def corpus_of(
    folder: Path, metas: dict[str, list[dict]], samples: dict[str, int] | None = None, **inventories
) -> Corpus:
    """A corpus of noise, half a second an utterance or as `samples` (by key) says."""
    writer, rng = CorpusWriter(folder, "made", "CC0", {}), np.random.default_rng(0)
    for split, rows in metas.items():
        keys = [f"{split}-{number}" for number in range(len(rows))]
        lengths = [(samples or {}).get(key, 8_000) for key in keys]
        waveforms = [rng.uniform(-0.3, 0.3, length).astype("f4") for length in lengths]
        writer.write_split(split, [Utterance(*row) for row in zip(keys, waveforms, rows, strict=True)])
    return writer.finish(inventories)


def phones(*counts: int) -> list[dict]:
    return [{"phones": [["a" if place % 2 else "b"] for place in range(count)]} for count in counts]


def trained(corpus: Corpus, task, **settings):
    trainer = quiet_trainer(max_epochs=1, **settings)
    trainer.fit(task, TaskData(str(corpus.directory), batch_size=4))
    return trainer


# Utterances shorter than a frame.


def test_no_corpus_gets_an_utterance_without_a_frame(tmp_path):
    soundfile.write(tmp_path / "short.wav", np.full(SHORTEST - 1, 0.2), 16_000)
    soundfile.write(tmp_path / "right.wav", np.full(SHORTEST, 0.2), 16_000)
    recordings = [Recording(tmp_path / f"{name}.wav", name, {}) for name in ("short", "right")]
    plan = CorpusPlan("made", "CC0", {"train": recordings}, {})
    with pytest.raises(UserError, match=r"short\.wav: too short, 399 samples .*--on-error skip"):
        write_corpus(plan, tmp_path / "c", workers=1)
    corpus = write_corpus(plan, tmp_path / "c", workers=1, on_error="skip")
    assert corpus.split("train").keys == ["right"] and corpus.body["source"]["skipped"][0]["key"] == "short"
    with pytest.raises(BadAudio, match="too short"):
        recordings[0].waveform()
    with pytest.raises(UserError, match="train-0: too short, 100 samples"):
        corpus_of(tmp_path / "api", {"train": [{}]}, {"train-0": 100})


@pytest.fixture
def older(tmp_path, monkeypatch) -> Corpus:
    """A corpus of an older version, with an utterance of 100 samples in each split."""
    with monkeypatch.context() as patched:
        patched.setattr(shards, "check_length", lambda *arguments: None)
        rows = [{"keyword": "no"}, {"keyword": "yes"}, {"keyword": "no"}]
        return corpus_of(
            tmp_path / "older",
            dict.fromkeys(("train", "valid", "test"), rows),
            {f"{split}-1": 100 for split in ("train", "valid", "test")},
            keywords=["no", "yes"],
        )


def test_an_older_corpus_with_one_is_named_everywhere(older, tmp_path, capsys):
    assert main(["data", "check", str(older.directory)]) != 0
    assert "'train-1' (100)" in capsys.readouterr().out
    for upstream in (Fbank(cmvn=False), WavLMUpstream("tiny")):
        with pytest.raises(
            UserError, match=r"train-000000\.tar: utterance 'train-1' .*100 samples.*data\.min_seconds: 0\.025"
        ):
            trained(older, KeywordSpotting(upstream))
    data = TaskData(str(older.directory), batch_size=4, min_seconds=0.025)
    with pytest.raises(UserError, match=r"utterance 'valid-1' of split valid .*--on-error skip"):
        quiet_trainer(max_epochs=1).fit(KeywordSpotting(Fbank(cmvn=False)), data)
    # A codebook has no label for it, and everything else its own.
    rng = np.random.default_rng(0)
    codebook = Codebook(rng.normal(size=(4, 39)).astype("f4"), 100.0, MfccFeatures().describe(), {})
    assert label_corpus(older, codebook, "km") == 3


def test_errors_in_a_batch_name_the_utterance(tmp_path):
    rows = [{"keyword": "no"}, {"keyword": "maybe"}]
    corpus = corpus_of(tmp_path / "c", {"train": rows, "valid": rows}, keywords=["no", "yes"])
    with pytest.raises(UserError, match=r"train-000000\.tar: utterance 'train-1': KS: .*'maybe'"):
        trained(corpus, KeywordSpotting(Fbank(cmvn=False)))

    class Odd(KeywordSpotting):
        def read_target(self, meta):
            return torch.tensor(meta["number"])

        def loss(self, outputs, lengths, targets):
            raise UserError("no loss today")

    with pytest.raises(UserError, match=r"utterance 'train-\d': KeyError: 'number' is missing"):
        trained(corpus, Odd(Fbank(cmvn=False)))
    Odd.read_target = KeywordSpotting.read_target
    rows[1]["keyword"] = "yes"
    corpus = corpus_of(tmp_path / "d", {"train": rows, "valid": rows}, keywords=["no", "yes"])
    with pytest.raises(UserError, match=r"no loss today \(in a batch of the utterances 'train-\d', 'train-\d'\)"):
        trained(corpus, Odd(Fbank(cmvn=False)))


# Targets that CTC cannot align.


def test_frames_needed_and_the_loss_of_what_can_be_aligned():
    values = torch.tensor([[1, 2, 2, 2, 3], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    targets = Targets(values, torch.tensor([5, 2, 0]))
    assert frames_needed(targets).tolist() == [7, 3, 0]
    lengths = torch.tensor([6, 3, 6])
    assert alignable(lengths, targets).tolist() == [False, True, True]
    logits = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))
    task = PhonemeRecognition(Fbank())
    each = torch.nn.functional.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1), values, lengths, targets.lengths, reduction="none"
    )
    assert each.isinf().tolist() == [True, False, False]
    wanted = (each[1] / 2 + each[2]) / 2
    assert task.loss(logits, lengths, targets).item() == pytest.approx(wanted.item(), rel=1e-6)
    assert task.loss(logits[:1], lengths[:1], Targets(values[:1], torch.tensor([5]))).item() == 0.0


def test_some_impossible_transcripts_are_counted_named_and_in_the_card(tmp_path, caplog):
    corpus = corpus_of(
        tmp_path / "c",
        {"train": phones(3, 177, 4, 5, 4, 6), "valid": phones(3, 4), "test": phones(3, 4, 177)},
        phones=["a", "b"],
    )
    task = PhonemeRecognition(Fbank(cmvn=False), hidden=8)
    with caplog.at_level(logging.INFO):
        trainer = trained(corpus, task)
    assert (
        "PR: 1 of 6 utterances of train have more labels than frames (such as 'train-1' with 178 labels and 48"
        in caplog.text
    )
    assert trainer.callback_metrics["valid/loss"] > 0
    kept: dict = {"state_dict": task.state_dict(), "global_step": 2}
    task.on_save_checkpoint(kept)
    assert kept["task"]["targets"] == {"train": {"seen": 6, "impossible": 1, "unknown": 0}}
    json.dumps(kept["task"])
    task.trained = {k: v for k, v in kept["task"].items() if k != "labels"}
    trainer.test(task, TaskData(str(corpus.directory), batch_size=4), verbose=False)
    assert task.details["targets"].keys() == {"train", "test"} and task.details["targets"]["test"]["impossible"] == 1
    # The loss is a mean over the two that can be aligned, the error rate over all that was said.
    assert trainer.callback_metrics["test/loss"] > 1 and trainer.callback_metrics["test/per"] > 0


def test_a_run_of_impossible_transcripts_stops_with_a_sentence(tmp_path):
    corpus = corpus_of(tmp_path / "c", {"train": phones(177, 190, 3), "valid": phones(3)}, phones=["a", "b"])
    with pytest.raises(
        UserError, match=r"PR: 2 of 3 utterances of train .*such as 'train-\d' with 1\d\d labels.*cannot align"
    ):
        trained(corpus, PhonemeRecognition(Fbank(cmvn=False), hidden=8))
    some = corpus_of(tmp_path / "e", {"train": phones(*[177] * 12), "valid": phones(3)}, phones=["a", "b"])
    with pytest.raises(UserError, match="4 of 4 utterances of train"):  # also of an epoch that is not finished
        trained(some, PhonemeRecognition(Fbank(cmvn=False), hidden=8), max_steps=1)
    many = corpus_of(tmp_path / "d", {"train": phones(*[177] * 200), "valid": phones(3)}, phones=["a", "b"])
    with pytest.raises(UserError, match="100 of 100"):
        trained(many, PhonemeRecognition(Fbank(cmvn=False), hidden=8))


def test_labels_that_the_head_lacks_are_counted(tmp_path, caplog):
    rows = phones(3, 4, 5)
    rows[0]["phones"].append(["x"])
    corpus = corpus_of(tmp_path / "c", {"train": rows, "valid": phones(3)}, phones=["a", "b"])
    with caplog.at_level(logging.INFO):
        trained(corpus, PhonemeRecognition(Fbank(cmvn=False), hidden=8))
    assert "PR: 1 of 3 utterances of train have labels that the head lacks" in caplog.text


# Speakers.


@pytest.mark.parametrize(
    ("train", "valid", "said"),
    [
        ([[]], [["s", 0.0, 0.3]], "nobody speaks in the training split"),
        ([["s", 0.0, 0.3]], [], "no recording of split valid has a turn"),
        (
            [["s", 0.3, 0.1]],
            [["s", 0.0, 0.3]],
            r"utterance 'train-0': SD: the turn of 's' from 0.3 to 0.1 s ends before",
        ),
    ],
)
def test_diarization_without_anybody_speaking(tmp_path, train, valid, said):
    rows = {"train": [{"turns": [turn for turn in train if turn]}], "valid": [{"turns": [valid[0]] if valid else []}]}
    corpus = corpus_of(tmp_path / "c", rows)
    with pytest.raises(UserError, match=said):
        trained(corpus, SpeakerDiarization(Fbank(cmvn=False), hidden=4))
