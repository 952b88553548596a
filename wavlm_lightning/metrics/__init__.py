"""Metrics that torchmetrics and pyannote.metrics lack or only have for one recording, each as the field computes it.

- `diarization`, `diarization_rate`, `rttm`: segments, diarization and Jaccard error, the RTTM format (SD, DIAR).
- `slots`: F1 of slot types, CER of slot values (SF). `term_detection`: MTWV (QbE). `verification`: EER, minDCF (SV).
- `enhancement`: SI-SDR, its improvement, STOI, as means over utterances. `speech/`: voice conversion and its judges.
- `text/`: BLEU and chrF of translations (ST).
- `superb`: SUPERB's Score, Rank and published leaderboard.
- `intervals`: bootstrap intervals and paired comparisons.
- `class_recall`: unweighted accuracy (ER).
- `cluster_quality`, `effective_rank`: quality of pre-training labels and of representations.
- `abx`, `boundaries`, `stability`: units and features without any training (`wavlm units`).

Imports `system` at most. Tests: `tests/metrics/`. Importing the package loads only numpy; modules that need scipy or
torchmetrics are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from wavlm_lightning.metrics.cluster_quality import ClusterQuality, cluster_quality
from wavlm_lightning.metrics.rttm import parse_rttm, rttm_lines
from wavlm_lightning.metrics.superb import SuperbEntry
from wavlm_lightning.metrics.term_detection import MTWV, false_alarm_weight, maximum_term_weighted_value, z_normalise
from wavlm_lightning.metrics.verification import equal_error_rate

if TYPE_CHECKING:
    from wavlm_lightning.metrics.diarization import (
        DiarizationErrors,
        PyannoteErrors,
        diarization_errors,
        frames_to_segments,
        pyannote_errors,
    )
    from wavlm_lightning.metrics.diarization_rate import (
        SETTINGS,
        DiarizationErrorRate,
        DiarizationSetting,
        SystemErrors,
    )
    from wavlm_lightning.metrics.effective_rank import EffectiveRank
    from wavlm_lightning.metrics.slots import SlotTypeF1, SlotValueCER, parse_slots, slot_type_f1, slot_value_cer

_HEAVY = {
    "diarization": (
        "DiarizationErrors",
        "PyannoteErrors",
        "diarization_errors",
        "frames_to_segments",
        "pyannote_errors",
    ),
    "diarization_rate": ("SETTINGS", "DiarizationErrorRate", "DiarizationSetting", "SystemErrors"),
    "effective_rank": ("EffectiveRank",),
    "slots": ("SlotTypeF1", "SlotValueCER", "parse_slots", "slot_type_f1", "slot_value_cer"),
}

__all__ = [
    "MTWV",
    "SETTINGS",
    "ClusterQuality",
    "DiarizationErrorRate",
    "DiarizationErrors",
    "DiarizationSetting",
    "EffectiveRank",
    "PyannoteErrors",
    "SlotTypeF1",
    "SlotValueCER",
    "SuperbEntry",
    "SystemErrors",
    "cluster_quality",
    "diarization_errors",
    "equal_error_rate",
    "false_alarm_weight",
    "frames_to_segments",
    "maximum_term_weighted_value",
    "parse_rttm",
    "parse_slots",
    "pyannote_errors",
    "rttm_lines",
    "slot_type_f1",
    "slot_value_cer",
    "z_normalise",
]


def __getattr__(name: str) -> Any:
    for module, names in _HEAVY.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
