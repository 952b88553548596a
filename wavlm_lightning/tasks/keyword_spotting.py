"""KS: which of a few words is said, if any (SUPERB; Speech Commands)."""

from wavlm_lightning.tasks.classification import UtteranceClassification


class KeywordSpotting(UtteranceClassification):
    """Twelve classes: ten words, `_unknown_`, `_silence_`; accuracy.

    Reads `keyword` of each utterance and the corpus' `keywords`. See `UtteranceClassification` for the arguments.
    """

    name = "KS"
    inventory = "keywords"
    field = "keyword"
