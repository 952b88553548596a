"""SID: speaker identification in a closed set (SUPERB; VoxCeleb1)."""

from wavlm_lightning.tasks.classification import UtteranceClassification


class SpeakerIdentification(UtteranceClassification):
    """One class for each speaker; accuracy.

    SUPERB crops training utterances to 8 s (`data.max_seconds`) and tests on whole recordings. `protocol` makes no difference.

    Reads `speaker` of each utterance and the corpus' `speakers`. See `UtteranceClassification` for the arguments.
    """

    name = "SID"
    inventory = "speakers"
    field = "speaker"
