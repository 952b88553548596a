"""The plan of a data set (utterances, labels, trials), and the sizes of the mini corpus."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wavlm_lightning.data.mini.scripted_utterance import ComposedUtterance, ScriptedUtterance

Trial = tuple[int, str, str]


@dataclass(frozen=True)
class Plan:
    """A whole data set before any sample exists: utterances by split, in the order they are written, and its labels."""

    splits: Mapping[str, Sequence[ScriptedUtterance | ComposedUtterance]]
    inventories: dict[str, Any]  # label sets for `corpus.json`
    trials: dict[str, list[Trial]] = field(default_factory=dict)  # by split, (1 same speaker or 0, key, key)


@dataclass(frozen=True)
class Size:
    """Size of each data set; three numbers are train, valid and test."""

    speakers: tuple[int, int, int] = (80, 20, 20)  # of every set with unseen test speakers
    pretrain: tuple[int, int] = (692, 60)  # utterances of two sentences in train and valid
    pretrain_speakers: int = 80  # of its train split
    pr: tuple[int, int, int] = (600, 100, 100)  # sentences
    ks: tuple[int, int, int] = (60, 20, 40)  # one-second clips of each of the 12 classes
    ic: tuple[int, int, int] = (480, 80, 120)  # commands
    sid_speakers: int = 60  # a closed set
    sid: tuple[int, int, int] = (9, 3, 5)  # sentences of each speaker
    sv: tuple[int, int, int] = (8, 10, 20)  # sentences of each speaker
    sv_speakers: tuple[int, int, int] = (80, 10, 20)
    sv_trials: tuple[int, int] = (600, 4000)  # of valid and test
    sd: tuple[int, int, int] = (60, 15, 30)  # dialogues
    sd_seconds: tuple[float, float] = (15.0, 20.0)  # shortest and longest dialogue
    meetings: tuple[int, int, int] = (60, 15, 30)  # meetings of two, three and four speakers in turn
    meeting_seconds: tuple[float, float] = (25.0, 35.0)  # shortest and longest meeting
    er_texts: int = 10  # each read by every speaker in every emotion
    er_speakers: int = 2  # of each of the five folds
    qbe: tuple[int, int] = (200, 40)  # documents, and queries of each of the two query splits
    sf: tuple[int, int, int] = (480, 80, 120)  # requests
    target: tuple[int, int, int] = (300, 40, 60)  # mixtures, each asked for both of its talkers
    mos: tuple[int, int, int, int] = (8, 2, 6, 2)  # clips of each system in train, valid, test and known
    mos_severities: int = 6  # of each degradation: 49 systems in training, 25 in the test
    accents: tuple[int, int, int] = (480, 60, 30)  # sentences; those of the test in each of its eight conditions
    enhancement: tuple[int, int, int] = (480, 40, 64)  # sentences in noise
    noisy: tuple[int, int, int] = (480, 60, 30)  # sentences, of which the test has each in 14 conditions
    separation: tuple[int, int, int] = (480, 40, 60)  # mixtures of two talkers
    translation: tuple[int, int, int] = (1200, 90, 150)  # sentences
    voices: int = 5  # targets of voice conversion
    voice_sentences: int = 140  # of each target in train: five minutes at least
    voice_sources: tuple[int, int] = (2, 4)  # other speakers in valid and test
    voice_pairs: tuple[int, int] = (4, 4)  # sentences of each of them in valid and test, for every target


SIZES: dict[str, Size] = {
    # About ten minutes in all, for the tests: every label occurs, but nothing is learnt well.
    "tiny": Size(
        speakers=(8, 4, 4),
        pretrain=(10, 3),
        pretrain_speakers=8,
        pr=(10, 4, 4),
        ks=(2, 1, 1),
        ic=(10, 3, 3),
        sid_speakers=4,
        sid=(3, 1, 1),
        sv=(1, 2, 3),
        sv_speakers=(8, 2, 4),
        sv_trials=(4, 16),
        sd=(2, 1, 1),
        sd_seconds=(6.0, 8.0),
        meetings=(3, 2, 2),
        meeting_seconds=(8.0, 12.0),
        er_texts=1,
        er_speakers=1,
        qbe=(6, 3),
        sf=(8, 3, 3),
        target=(3, 1, 1),
        mos=(1, 1, 1, 0),
        mos_severities=1,
        accents=(6, 2, 1),
        enhancement=(6, 2, 2),
        noisy=(6, 2, 1),
        separation=(6, 2, 2),
        translation=(8, 3, 6),
        voice_sentences=2,
        voice_sources=(1, 1),
        voice_pairs=(1, 1),
    ),
    "mini": Size(),
    # Three and 20 hours to pre-train on, with more speakers from the same variants.
    "medium": Size(pretrain=(2_265, 60), pretrain_speakers=200),
    "pretrain": Size(pretrain=(15_100, 60), pretrain_speakers=400),
}

SPLITS = ("train", "valid", "test")
