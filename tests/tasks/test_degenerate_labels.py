"""Label sets from which nothing can be learned are refused in one sentence before training."""

from __future__ import annotations

import json
import shutil

import pytest
from quiet import quiet_trainer

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import (
    EmotionRecognition,
    IntentClassification,
    KeywordSpotting,
    PhonemeRecognition,
    SlotFilling,
    SpeakerIdentification,
    SpeakerVerification,
    SpeechRecognition,
    TaskData,
)
from wavlm_lightning.tasks.components.beam_search import WORD_END
from wavlm_lightning.tasks.content.letters import SPECIAL
from wavlm_lightning.tasks.paralinguistics.emotion_recognition import FoldData
from wavlm_lightning.upstreams import Fbank

ONE = {
    KeywordSpotting: ("ks", "keywords"),
    SpeakerIdentification: ("sid", "speakers"),
    SpeakerVerification: ("sv", "speakers"),
    EmotionRecognition: ("er", "emotions"),
    IntentClassification: ("ic", "intents"),
    PhonemeRecognition: ("pr", "phones"),
}


def with_inventory(tiny, folder, name: str, change) -> str:
    shutil.copytree(tiny / name, folder / name)
    path = folder / name / "corpus.json"
    body = json.loads(path.read_text())
    change(body["inventories"])
    path.write_text(json.dumps(body))
    return str(folder / name)


def train(task, corpus: str) -> None:
    data = FoldData if task is EmotionRecognition else TaskData
    quiet_trainer(max_steps=1, limit_val_batches=1).fit(task(Fbank()), data(corpus, batch_size=4))


@pytest.mark.parametrize("task", ONE, ids=lambda task: task.__name__)
def test_one_class(tiny, tmp_path, task):
    name, inventory = ONE[task]

    def one(inventories) -> None:
        found = inventories[inventory]
        if task is SpeakerVerification and isinstance(found, dict):
            inventories[inventory] = {**found, "train": found["train"][:1]}
        elif isinstance(found, dict):
            inventories[inventory] = {slot: values[:1] for slot, values in found.items()}
        else:
            inventories[inventory] = found[:1]

    with pytest.raises(UserError, match=rf"{task.name}: the corpus has 1 of .*at least two"):
        train(task, with_inventory(tiny, tmp_path, name, one))


@pytest.mark.parametrize("task", [*ONE, SlotFilling], ids=lambda task: task.__name__)
def test_no_labels(tiny, tmp_path, task):
    name, inventory = ONE.get(task, ("sf", "slots"))
    corpus = with_inventory(tiny, tmp_path, name, lambda inventories: inventories.pop(inventory))
    with pytest.raises(UserError, match=f"this corpus has no '{inventory}' labels"):
        train(task, corpus)


def test_an_alphabet_of_one_letter(tiny):
    head = SpeechRecognition(Fbank(), alphabet="corpus")
    with pytest.raises(UserError, match=r"ASR: the corpus has 1 of letters"):
        head.check_labels([*SPECIAL, WORD_END, "A"])


def test_two_classes_train(tiny, tmp_path):
    head = KeywordSpotting(Fbank())
    head.check_labels(["yes", "no"])
