"""Downstream tasks: LightningModules that put a head on an upstream, one file per task.

Reading order:

1. `base`: `Task`, the contract that every task implements; `checkpoint` stores the head without its upstream.
2. `contract`: what a task asks of its data and what it is handed, and the one place where they meet. Then `data`,
   `utterances`, `augmentation`: `TaskData`, which makes the batches, from audio or from cached features.
3. `classification`, `text` with `ctc` and `encoder_decoder`, `waveform`, `enrolled`: what tasks of one kind share.
4. The tasks by SUPERB's own kinds: `content/`, `speaker/`, `semantics/`, `paralinguistics/`, `generation/`.
5. `components/`: networks and decoders that heads share. `search/`: dynamic time warping for query by example.
   `joint/`: many heads on one forward pass of the upstream. `huggingface/`: heads to and from the transformers library.

Imports `encoder`, `audio`, `metrics`, `augment`, `system`, `data`, `upstreams` and `training`, never `pretraining`.
Tests: `tests/tasks/`.
"""

from wavlm_lightning.tasks.base import Task, Unit
from wavlm_lightning.tasks.classification import UtteranceClassification
from wavlm_lightning.tasks.components.beam_search import LanguageModel
from wavlm_lightning.tasks.content.attention_recognition import AttentionRecognition
from wavlm_lightning.tasks.content.fine_tuned_recognition import FineTunedRecognition
from wavlm_lightning.tasks.content.keyword_spotting import KeywordSpotting
from wavlm_lightning.tasks.content.noisy_attention_recognition import NoisyAttentionRecognition
from wavlm_lightning.tasks.content.noisy_recognition import NoisyRecognition
from wavlm_lightning.tasks.content.out_of_domain_recognition import OutOfDomainRecognition
from wavlm_lightning.tasks.content.phoneme_recognition import PhonemeRecognition
from wavlm_lightning.tasks.content.query_by_example import QueryByExample
from wavlm_lightning.tasks.content.speech_recognition import SpeechRecognition
from wavlm_lightning.tasks.ctc import CtcTask
from wavlm_lightning.tasks.data import TaskData
from wavlm_lightning.tasks.encoder_decoder import EncoderDecoderTask
from wavlm_lightning.tasks.enrolled import EnrolledTask
from wavlm_lightning.tasks.generation.any_to_one import AnyToOneConversion
from wavlm_lightning.tasks.generation.content_conversion import ContentConversion
from wavlm_lightning.tasks.generation.enhancement import Enhancement
from wavlm_lightning.tasks.generation.front_end import FrontEndTask
from wavlm_lightning.tasks.generation.front_end_enhancement import FrontEndEnhancement
from wavlm_lightning.tasks.generation.knn_conversion import KnnConversion
from wavlm_lightning.tasks.generation.separation import Separation
from wavlm_lightning.tasks.generation.vocoder import Vocoder
from wavlm_lightning.tasks.paralinguistics.emotion_recognition import EmotionRecognition, FoldData
from wavlm_lightning.tasks.paralinguistics.quality_by_listeners import ListenerQualityPrediction
from wavlm_lightning.tasks.paralinguistics.quality_prediction import QualityPrediction
from wavlm_lightning.tasks.semantics.intent_classification import IntentClassification
from wavlm_lightning.tasks.semantics.slot_filling import SlotFilling
from wavlm_lightning.tasks.semantics.speech_translation import SpeechTranslation
from wavlm_lightning.tasks.speaker.ecapa_verification import EcapaVerification
from wavlm_lightning.tasks.speaker.meeting_diarization import MeetingDiarization
from wavlm_lightning.tasks.speaker.overlap_detection import OverlapDetection
from wavlm_lightning.tasks.speaker.personal_activity import PersonalActivity
from wavlm_lightning.tasks.speaker.speaker_diarization import SpeakerDiarization
from wavlm_lightning.tasks.speaker.speaker_identification import SpeakerIdentification
from wavlm_lightning.tasks.speaker.speaker_verification import SpeakerVerification
from wavlm_lightning.tasks.speaker.target_extraction import TargetExtraction
from wavlm_lightning.tasks.speaker.target_recognition import TargetRecognition
from wavlm_lightning.tasks.waveform import WaveformTask

__all__ = [
    "AnyToOneConversion",
    "AttentionRecognition",
    "ContentConversion",
    "CtcTask",
    "EcapaVerification",
    "EmotionRecognition",
    "EncoderDecoderTask",
    "Enhancement",
    "EnrolledTask",
    "FineTunedRecognition",
    "FoldData",
    "FrontEndEnhancement",
    "FrontEndTask",
    "IntentClassification",
    "KeywordSpotting",
    "KnnConversion",
    "LanguageModel",
    "ListenerQualityPrediction",
    "MeetingDiarization",
    "NoisyAttentionRecognition",
    "NoisyRecognition",
    "OutOfDomainRecognition",
    "OverlapDetection",
    "PersonalActivity",
    "PhonemeRecognition",
    "QualityPrediction",
    "QueryByExample",
    "Separation",
    "SlotFilling",
    "SpeakerDiarization",
    "SpeakerIdentification",
    "SpeakerVerification",
    "SpeechRecognition",
    "SpeechTranslation",
    "TargetExtraction",
    "TargetRecognition",
    "Task",
    "TaskData",
    "Unit",
    "UtteranceClassification",
    "Vocoder",
    "WaveformTask",
]
