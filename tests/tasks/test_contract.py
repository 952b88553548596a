"""A task and a data module meet in one place: what the one asks for, and what the other hands it."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from head_helpers import brief_trainer
from quiet import quiet_trainer

import wavlm_lightning
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import (
    KeywordSpotting,
    PhonemeRecognition,
    SpeakerDiarization,
    SpeakerVerification,
    SpeechRecognition,
    TaskData,
)
from wavlm_lightning.tasks.joint.many_heads import ManyHeads
from wavlm_lightning.upstreams import Fbank

PACKAGE = Path(wavlm_lightning.__file__).parent


def test_nothing_else_reaches_through_the_trainer():
    wrong = []
    for path in [path for name in ("tasks", "data", "pretraining") for path in (PACKAGE / name).rglob("*.py")]:
        found = re.findall(r"\bdatamodule\b|trainer\.lightning_module", path.read_text())
        if found and path.name != "contract.py":
            wrong.append((path.name, found))
    for name in ("results", "wandb"):
        if "datamodule" in (PACKAGE / "callbacks" / f"{name}.py").read_text():
            wrong.append((name, "datamodule"))
    assert not wrong


def test_needs_say_what_the_class_says():
    upstream = Fbank(cmvn=False)
    verification = SpeakerVerification(upstream).needs()
    assert (verification.name, verification.cache_level, verification.framewise) == ("SV", "frame", False)
    assert verification.selection_split("a", "b") == "b" and verification.resamples
    assert not KeywordSpotting(upstream, protocol="fixed", normalize=True).needs().resamples
    assert KeywordSpotting(upstream, normalize=True).needs().normalize
    assert SpeakerDiarization(upstream).needs().framewise
    assert PhonemeRecognition(upstream).needs().transcribes and not verification.transcribes


def test_what_is_served_reaches_every_head(tiny):
    upstream = Fbank(cmvn=False)
    heads = {"pr": PhonemeRecognition(upstream, 1e-2), "asr": SpeechRecognition(upstream, 1e-2, hidden=8)}
    data = TaskData(str(tiny / "pr"), batch_size=4)
    trainer, many = brief_trainer(2), ManyHeads(heads)
    trainer.fit(many, data)
    assert [each.name for each in data.needs] == ["PR", "ASR"]
    for head in heads.values():
        assert head.data is heads["pr"].data
        assert head.data.opened.keys() == {"train", "valid"}
    trainer.test(many, data, verbose=False)
    served = heads["asr"].data
    assert served.opened.keys() == {"test"} and served.splits["test"] == "test"
    assert len(list(served.loader("test"))) == len(list(data.test_dataloader())) > 0
    assert served.corpus.name == Corpus.open(tiny / "pr").name


class Older(pl.LightningDataModule):
    """A data module outside the repository: it has a `corpus` and knows no contract."""

    def __init__(self, corpus: Path) -> None:
        super().__init__()
        self.inner = TaskData(str(corpus), batch_size=4)
        self.corpus = Corpus.open(corpus)

    def setup(self, stage: str) -> None:
        self.inner.trainer = self.trainer
        self.inner.serve(stage, (self.trainer.lightning_module.needs(),))

    def train_dataloader(self):
        return self.inner.train_dataloader()


def test_a_data_module_with_a_corpus_still_works(tiny, tmp_path):
    task = KeywordSpotting(Fbank(cmvn=False), learning_rate=1e-2)
    trainer = quiet_trainer(max_steps=2, limit_val_batches=0)
    trainer.fit(task, Older(tiny / "ks"))
    assert task.labels == list(Corpus.open(tiny / "ks").inventory("keywords"))
    assert task.data.opened == {} and len(list(task.data.loader("train"))) > 1
    trainer.save_checkpoint(tmp_path / "head.ckpt")
    kept = torch.load(tmp_path / "head.ckpt", weights_only=True)["task"]["processing"]
    assert kept == {
        name: value for name, value in task.data.corpus.body["source"].items() if name in ("gain_db", "trim")
    }


def test_what_an_earlier_data_module_served_is_forgotten(tiny):
    task = KeywordSpotting(Fbank(cmvn=False), learning_rate=1e-2)
    quiet_trainer(max_steps=1, limit_val_batches=0).fit(task, TaskData(str(tiny / "ks")))
    assert task.data.opened
    quiet_trainer(max_steps=1, limit_val_batches=0).fit(task, Older(tiny / "ks"))
    assert not task.data.opened


def test_a_trainer_without_data_module_is_one_sentence(tiny):
    task = KeywordSpotting(Fbank(cmvn=False), learning_rate=1e-2)
    with pytest.raises(UserError, match="KS: the trainer has no data module with a corpus"):
        quiet_trainer(max_steps=1).fit(task, torch.utils.data.DataLoader([0]))


def test_a_module_that_is_no_task_is_one_sentence(tiny):
    with pytest.raises(UserError, match="TaskData serves tasks, not BoringModel; for pre-training use PretrainingData"):
        from lightning.pytorch.demos.boring_classes import BoringModel

        quiet_trainer(max_steps=1).fit(BoringModel(), TaskData(str(tiny / "ks")))


def test_a_copy_of_a_task_does_not_bring_the_data_along(tiny):
    task = KeywordSpotting(Fbank(cmvn=False), learning_rate=1e-2)
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    trainer.fit(task, TaskData(str(tiny / "ks"), batch_size=4))
    assert task.data is not None
    for again in (pickle.loads(pickle.dumps(task)), copy.deepcopy(task)):
        assert again.data is None and again.labels == task.labels
