"""Whether a SUPERB result may be compared with the published rows: corpus, protocol and number of updates."""

from __future__ import annotations

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.workflows.superb.suites import configuration

# Task -> its corpus recipe, and the utterances of each split.
CORPORA: dict[str, tuple[str, dict[str, int]]] = {
    "PR": ("librispeech", {"train": 28_539, "valid": 2_703, "test": 2_620}),
    "ASR": ("librispeech", {"train": 28_539, "valid": 2_703, "test": 2_620}),
    "KS": ("speech_commands", {"train": 51_094, "valid": 6_804, "test": 3_081}),
    "IC": ("fluent_speech_commands", {"train": 23_132, "valid": 3_118, "test": 3_793}),
    "SID": ("voxceleb1", {"train": 138_361, "valid": 6_904, "test": 8_251}),
    "ER": ("iemocap", {"fold1": 1_085, "fold2": 1_023, "fold3": 1_151, "fold4": 1_031, "fold5": 1_241}),
    "QbE": ("quesst14", {"documents": 2_438, "queries-valid": 138, "queries-test": 138}),
    "SF": ("snips", {"train": 104_672, "valid": 2_800, "test": 2_800}),
    "SV": ("voxceleb1", {}),  # the number of utterances after trimming is not published, so the trials are counted
    "SD": ("libri2mix", {"train": 13_900, "valid": 3_000, "test": 3_000}),
}
TRIALS = 37_720  # test trials of SV


def is_official(card: ResultCard) -> str | None:
    """The reason why a result must not be compared with the published rows; None if it may."""
    recipe, splits = CORPORA[card.task]
    corpus = Corpus.open(card.corpus["path"])
    source = corpus.body["source"]
    if source.get("recipe") != recipe or "permuted" in source or source.get("valid_apart"):
        return f"{card.task} was not run on SUPERB's own corpus"
    found = {name: corpus.body["splits"].get(name, {}).get("utterances") for name in splits}
    if found != splits or (card.task == "SV" and card.details.get("trials") != TRIALS):
        return f"the corpus of {card.task} is incomplete"
    if card.protocol != "superb":
        return f"{card.task} was run with protocol: {card.protocol}"
    steps = configuration(card.task.lower(), mini=False)["trainer"].get("max_steps", 0)
    if card.steps != steps:
        return f"{card.task} was trained for {card.steps} updates instead of {steps}"
    return None
