"""Detection of speech and of overlap: regions from frame scores, and their errors. Read `regions`, then `detection_rates`.

Tests: `tests/metrics/test_detection.py`.
"""

from wavlm_lightning.metrics.detection.detection_rates import (
    EVENTS,
    SETTINGS,
    DetectionCounts,
    DetectionErrors,
    DetectionSetting,
)
from wavlm_lightning.metrics.detection.regions import Region, regions_of_scores, regions_of_turns, smoothed

__all__ = [
    "EVENTS",
    "SETTINGS",
    "DetectionCounts",
    "DetectionErrors",
    "DetectionSetting",
    "Region",
    "regions_of_scores",
    "regions_of_turns",
    "smoothed",
]
