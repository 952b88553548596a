"""Language identification: a classifier of utterances needs three names only."""

from wavlm_lightning.tasks import UtteranceClassification


class LanguageIdentification(UtteranceClassification):
    """One class for each of the corpus' `languages`; reads `language` of each utterance. See `UtteranceClassification`."""

    name, inventory, field = "LID", "languages", "language"
