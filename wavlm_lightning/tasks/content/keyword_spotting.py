"""KS: which of a few words is said, if any (SUPERB; Speech Commands)."""

from wavlm_lightning.tasks.classification import UtteranceClassification


class KeywordSpotting(UtteranceClassification):
    """Twelve classes: ten words, `_unknown_`, `_silence_`; accuracy.

    Three things of s3prl's `downstream/speech_commands`: recordings get -3 dB (`data.gain_db`); classes are drawn evenly
    in training (`data.balance: keyword`) and, with `protocol: superb`, in validation too, which is then a resampled
    figure (`fixed` validates on every utterance once); the long noise recordings are in training and validation alike
    and are cropped anew each time (`data.max_seconds: 1`).

    Reads `keyword` of each utterance and the corpus' `keywords`. See `UtteranceClassification` for the arguments.
    """

    name = "KS"
    inventory = "keywords"
    field = "keyword"
