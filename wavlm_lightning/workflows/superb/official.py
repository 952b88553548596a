"""Whether a SUPERB result may be compared with the published rows: corpus, test, protocol and training."""

from __future__ import annotations

from typing import Any

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.subset import open_splits
from wavlm_lightning.reports.aggregate import joined_hash
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
    content = configuration(card.task.lower(), mini=False)
    if reason := (
        _other_test(card, content["data"], splits)
        or _other_content(card, corpus)
        or _other_training(card, splits.get("train"))
    ):
        return reason
    steps = content["trainer"].get("max_steps", 0)
    if card.steps != steps:
        return f"{card.task} was trained for {card.steps} updates instead of {steps}"
    if card.updates is not None and card.updates < steps:
        return f"the training of {card.task} was stopped after {card.updates} of {steps} updates"
    return None


def _other_test(card: ResultCard, data: dict[str, Any], splits: dict[str, int]) -> str | None:
    """Why the tested utterances are not SUPERB's: another split, or a part of it, which the name of the split says."""
    tested = card.corpus["split"]
    if data["class_path"].endswith("FoldData"):
        if sorted(tested.split(", ")) != sorted(splits):
            return f"{card.task} was tested on {tested} instead of all {len(splits)} folds"
        return None
    wanted = data["init_args"].get("test_split", "test")
    return None if tested == wanted else f"{card.task} was tested on {tested} instead of {wanted}"


def _other_content(card: ResultCard, corpus: Corpus) -> str | None:
    """Why the test was not of what the corpus holds now; older cards do not say what it was of."""
    if (tested := card.corpus.get("sha256")) is None:
        return None
    hashes = [open_splits(corpus, name).version() for name in card.corpus["split"].split(", ")]
    if tested != (hashes[0] if len(hashes) == 1 else joined_hash(hashes)):
        return f"{card.task} was tested on other recordings or labels than its corpus has, or with data.eval_transforms"
    return None


def _other_training(card: ResultCard, utterances: int | None) -> str | None:
    """Why the head was not trained as SUPERB's are: on a frozen encoder, from fresh weights, on all `utterances`."""
    if card.upstream.get("trained"):
        return f"the encoder of {card.task} was trained with the head"
    if card.started or card.averaged:
        return f"the head of {card.task} " + (
            "began with other weights" if card.started else "is a mean of checkpoints"
        )
    if card.pseudo_labelled:
        return f"{card.task} was trained on pseudo-labels"
    # Older cards do not say how many.
    labelled = card.labelled.get("utterances")
    if None not in (labelled, utterances) and labelled != utterances:
        return f"{card.task} was trained on {labelled} utterances instead of {utterances}"
    return None
