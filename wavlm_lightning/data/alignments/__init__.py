"""Times of phones and words beside a corpus: sets of alignments on disk, other toolkits' files, and classes of frames.

Read `segments` (a phone with its times, classes of frames), `alignment_set` (what is read), `writing` (how a set is made);
`importing` with `renaming` and a reader a format (`text_grid`, `ctm`, `kaldi_frames`). The
folder of a set is `CORPUS/alignments/NAME`: `alignments.json` and a file a shard. Tests: `tests/data/alignments`.
"""

from wavlm_lightning.data.alignments.alignment_set import OWN, Aligned, AlignmentSet, alignment_sets
from wavlm_lightning.data.alignments.importing import Imported, import_alignments
from wavlm_lightning.data.alignments.segments import SILENCE, SPOKEN_NOISE, Segment, frame_classes
from wavlm_lightning.data.alignments.writing import AlignmentWriter

__all__ = [
    "OWN",
    "SILENCE",
    "SPOKEN_NOISE",
    "Aligned",
    "AlignmentSet",
    "AlignmentWriter",
    "Imported",
    "Segment",
    "alignment_sets",
    "frame_classes",
    "import_alignments",
]
