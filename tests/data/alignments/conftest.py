"""A corpus of three short recordings in two shards, whose alignments a test may damage."""

from __future__ import annotations

import numpy as np
import pytest
from three_alignments import SAMPLES, write

from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.shards import Utterance


@pytest.fixture
def corpus(tmp_path):
    rng = np.random.default_rng(0)
    writer = CorpusWriter(tmp_path / "corpus", "three", licence="CC0", source={"recipe": "test"}, shard_seconds=1.0)
    noise = [Utterance(key, rng.normal(size=n).astype("f4") * 0.1, {}) for key, n in SAMPLES.items()]
    writer.write_split("train", noise)
    return writer.finish(inventories={"phones": []})


@pytest.fixture
def aligned(corpus) -> Corpus:
    write(corpus)
    return corpus
