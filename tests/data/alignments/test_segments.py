"""Classes of frames from times, and the grids of 50 and 100 Hz."""

import numpy as np
import pytest

from wavlm_lightning.codebooks import MfccFeatures
from wavlm_lightning.data.alignments import Segment, frame_classes
from wavlm_lightning.data.alignments.segments import check_segments, frame_times
from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.system.errors import UserError

CLASSES = {"SIL": 0, "AH": 1, "T": 2, "S": 3}


def drawn(rng: np.random.Generator, seconds: float) -> list[Segment]:
    """Random segments of a few milliseconds to a quarter of a second, some with gaps between them."""
    rows, now = [], 0.0
    while (now := now + rng.choice([0.0, rng.uniform(0, 0.1)])) < seconds:
        rows.append(Segment(str(rng.choice(list(CLASSES))), now, now := now + rng.uniform(0.003, 0.25)))
    return rows


def test_the_class_is_that_of_the_middle_of_the_window():
    """Compared with a search through all segments, one frame at a time."""
    rng = np.random.default_rng(0)
    for rate in (50, 100):
        for _ in range(20):
            rows = drawn(rng, 2.0)
            found = frame_classes(rows, rate * 2, rate, CLASSES, "SIL")
            for frame, number in enumerate(found):
                time = (200 + frame * 16_000 / rate) / 16_000  # samples: half a window, then the hops
                inside = [CLASSES[name] for name, start, end in rows if start <= time < end]
                assert [number] == (inside or [CLASSES["SIL"]])


def test_every_second_frame_at_100_hz_is_the_frame_at_50_hz():
    rng = np.random.default_rng(1)
    for samples in (400, 719, 720, 16_000, 54_321):
        coarse, fine = int(WavLMConfig().frames(samples)), int(MfccFeatures().frames(np.array(samples)))
        assert coarse == (fine + 1) // 2
        rows = drawn(rng, samples / 16_000)
        at_100 = frame_classes(rows, fine, 100, CLASSES)
        assert np.array_equal(frame_classes(rows, coarse, 50, CLASSES), at_100[::2])
        assert np.array_equal(frame_times(coarse, 50), frame_times(fine, 100)[::2])


def test_no_segments_and_names_without_a_class():
    assert frame_classes([], 3, 50, CLASSES).tolist() == [0, 0, 0]
    assert frame_classes([Segment("T", 0, 1)], 0, 50, CLASSES).shape == (0,)
    with pytest.raises(UserError, match="no class 'ZH'; the classes are SIL, AH"):
        frame_classes([Segment("ZH", 0, 1)], 3, 50, CLASSES)
    with pytest.raises(UserError, match="no class 'pau'"):
        frame_classes([], 3, 50, CLASSES, "pau")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (Segment("T", 0.4, 0.6), "'T' begins at 0.4 s, before the segment in front of it ends"),
        (Segment("T", 0.7, 0.6), "no stretch of time"),
        (Segment("T", 0.6, 0.6), "no stretch of time"),
        (Segment("T", 0.6, float("nan")), "not times in seconds"),
        (Segment("T", 0.6, 1.2), "'T' ends at 1.2 s, and the audio at 1 s"),
        (Segment("", 0.6, 0.7), "has the name ''"),
    ],
)
def test_what_is_no_sequence_of_segments(row, said):
    before = [Segment("SIL", 0.0, 0.1), Segment("AH", 0.1, 0.5)]
    check_segments([*before, Segment("T", 0.5, 1.05)], 1.0)  # aligners round the end to frames
    with pytest.raises(ValueError, match=said):
        check_segments([*before, row], 1.0)
