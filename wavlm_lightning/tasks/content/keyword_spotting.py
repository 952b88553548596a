"""KS: keyword spotting in one-second clips (SUPERB; Speech Commands)."""

from wavlm_lightning.tasks.classification import UtteranceClassification


class KeywordSpotting(UtteranceClassification):
    """Twelve classes: ten words, `_unknown_`, `_silence_`; accuracy.

    Three settings follow s3prl's `downstream/speech_commands`. Recordings get -3 dB (`data.gain_db`). Classes are drawn
    evenly in training (`data.balance: keyword`) and, with `protocol: superb`, in validation too, which makes that value a
    resampled one (`fixed` validates on every utterance once). The long noise recordings are in both training and
    validation and are cropped anew in every epoch (`data.max_seconds: 1`).

    Reads `keyword` of each utterance and the corpus' `keywords`. See `UtteranceClassification` for the arguments.
    """

    name = "KS"
    inventory = "keywords"
    field = "keyword"
