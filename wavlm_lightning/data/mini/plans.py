"""The plan of a data set (utterances, labels, trials), and the sizes of the mini corpus."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wavlm_lightning.data.mini.scripted_utterance import ComposedUtterance, ScriptedUtterance

Trial = tuple[int, str, str]


@dataclass(frozen=True)
class Plan:
    """A whole data set before any sample exists.

    Attributes:
        splits: Utterances to be rendered, by split, in the order they are written.
        inventories: Label sets for `corpus.json`.
        trials: For a split, rows of (1 same speaker or 0, key, key).
    """

    splits: Mapping[str, Sequence[ScriptedUtterance | ComposedUtterance]]
    inventories: dict[str, Any]
    trials: dict[str, list[Trial]] = field(default_factory=dict)


@dataclass(frozen=True)
class Size:
    """Size of each data set; three numbers are train, valid and test.

    Attributes:
        speakers: Speakers in train, valid and test of every set with unseen test speakers.
        pretrain: Utterances of two sentences in train and valid.
        pretrain_speakers: Speakers of `pretrain`'s train split.
        pr: Sentences.
        ks: One-second clips of each of the 12 classes.
        ic: Commands.
        sid_speakers: Closed set of speakers.
        sid: Sentences of each of them.
        sv: Sentences of each speaker.
        sv_speakers: Speakers in train, valid and test.
        sv_trials: Trials of valid and test.
        sd: Dialogues.
        sd_seconds: Shortest and longest dialogue.
        er_texts: Texts, each read by every speaker in every emotion.
        er_speakers: Speakers of each of the five folds.
        qbe: Documents, and queries of each of the two query splits.
        sf: Requests.
    """

    speakers: tuple[int, int, int] = (80, 20, 20)
    pretrain: tuple[int, int] = (692, 60)
    pretrain_speakers: int = 80
    pr: tuple[int, int, int] = (600, 100, 100)
    ks: tuple[int, int, int] = (60, 20, 40)
    ic: tuple[int, int, int] = (480, 80, 120)
    sid_speakers: int = 60
    sid: tuple[int, int, int] = (9, 3, 5)
    sv: tuple[int, int, int] = (8, 10, 20)
    sv_speakers: tuple[int, int, int] = (80, 10, 20)
    sv_trials: tuple[int, int] = (600, 4000)
    sd: tuple[int, int, int] = (60, 15, 30)
    sd_seconds: tuple[float, float] = (15.0, 20.0)
    er_texts: int = 10
    er_speakers: int = 2
    qbe: tuple[int, int] = (200, 40)
    sf: tuple[int, int, int] = (480, 80, 120)


SIZES: dict[str, Size] = {
    # About seven minutes in all, for the tests: every label occurs, but nothing is learnt well.
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
        er_texts=1,
        er_speakers=1,
        qbe=(6, 3),
        sf=(8, 3, 3),
    ),
    "mini": Size(),
    # 20 hours to pre-train on, with more speakers from the same variants.
    "pretrain": Size(pretrain=(15_100, 60), pretrain_speakers=400),
}

SPLITS = ("train", "valid", "test")
