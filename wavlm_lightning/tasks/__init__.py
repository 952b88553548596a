"""Downstream tasks: one file, one task, one LightningModule."""

from wavlm_lightning.tasks.base import Task
from wavlm_lightning.tasks.classification import UtteranceClassification
from wavlm_lightning.tasks.data import TaskData
from wavlm_lightning.tasks.keyword_spotting import KeywordSpotting
from wavlm_lightning.tasks.phoneme_recognition import PhonemeRecognition
from wavlm_lightning.tasks.speaker_identification import SpeakerIdentification

__all__ = [
    "KeywordSpotting",
    "PhonemeRecognition",
    "SpeakerIdentification",
    "Task",
    "TaskData",
    "UtteranceClassification",
]
