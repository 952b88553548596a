"""Shared fixtures: the tiny corpus, made once a session by the package itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("WANDB_MODE", "disabled")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with all tiny corpora; `pretrain` carries labels `mfcc100` of 20 clusters."""
    from wavlm_lightning.codebooks import MfccFeatures, fit_kmeans, label_corpus
    from wavlm_lightning.data.corpus import Corpus
    from wavlm_lightning.data.mini import DATASETS, prepare_mini

    folder = tmp_path_factory.mktemp("tiny")
    prepare_mini(folder, "tiny", list(DATASETS), seed=0, workers=2, progress=False)
    corpus = Corpus.open(folder / "pretrain")
    codebook = fit_kmeans(corpus, MfccFeatures(level_normalised=True), 20, restarts=2)
    codebook.save(folder / "codebook")
    label_corpus(corpus, codebook, "mfcc100")
    return folder
