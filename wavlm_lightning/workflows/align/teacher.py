"""The head behind an alignment: the hash of its weights, and the labels that it has learned from."""

from __future__ import annotations

import hashlib
from pathlib import Path

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.subset import open_splits
from wavlm_lightning.encoder.checkpoints.labels_seen import LABELLED, Entry, joined
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import sha256
from wavlm_lightning.system.run_folder import BEST, checkpoint, init_args, require_run_config
from wavlm_lightning.tasks.decoding import DecodedTask


def labels_of_head(task: DecodedTask, run: Path) -> list[Entry]:
    """The labels that a head, its encoder and its teachers have learned from, an entry a corpus."""
    return joined(task.labels_behind, None if task.trained.get(LABELLED) else _labels_of_run(run))


def _labels_of_run(run: Path) -> Entry:
    """The labels of a run whose checkpoint does not name them: amounts are null if its corpus is no longer there."""
    unknown = {"utterances": None, "seconds": None, "corpus": str(run)}
    if not checkpoint(run, BEST).exists():  # a folder of transformers
        return unknown
    data = init_args(require_run_config(run), "data")
    try:
        corpus = Corpus.open(data["corpus"])
        split = open_splits(corpus, data.get("train_split") or "train")
    except (UserError, KeyError):
        return {**unknown, "corpus": str(data.get("corpus", run))}
    seconds = min(split.seconds, data.get("train_seconds") or split.seconds)
    utterances = len(split) if seconds == split.seconds else None
    return {"utterances": utterances, "seconds": round(seconds, 3), "corpus": corpus.name}


def teacher_hash(run: Path) -> str:
    """Hash of the weights of a head, and of what a folder of transformers says of them."""
    best = checkpoint(run, BEST)
    files = [best] if best.exists() else sorted(run.glob("*.safetensors")) + sorted(run.glob("*.json"))
    digest = hashlib.sha256()
    for file in files:
        for part in sorted(each for each in file.rglob("*") if each.is_file()) if file.is_dir() else [file]:
            digest.update(sha256(part, "a trained head").encode())
    return digest.hexdigest()
