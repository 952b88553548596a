"""A corpus behind an unreliable server, and a cache of its own."""

import numpy as np
import pytest
from unreliable import unreliable_server

from wavlm_lightning.data.corpus import CorpusWriter
from wavlm_lightning.data.shards import Utterance


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WAVLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("WAVLM_CACHE_GIB", raising=False)
    return tmp_path / "cache" / "corpora"


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A folder with a corpus `c` of three shards of about 1.1 MiB."""
    folder = tmp_path_factory.mktemp("origin")
    rng = np.random.default_rng(0)
    writer = CorpusWriter(
        folder / "c", "test", "CC0", {"recipe": "test", "trial_lists": {"train": ["hard"]}}, shard_seconds=40
    )
    noise = [Utterance(f"u{n:02d}", rng.uniform(-0.9, 0.9, 160_000).astype("f4"), {}) for n in range(12)]
    writer.write_split("train", noise)
    corpus = writer.finish({}, trials={"train": [(0, "u00", "u01")], "train_hard": [(1, "u00", "u02")]})
    assert len(corpus.body["splits"]["train"]["shards"]) == 3
    return folder


@pytest.fixture
def server(origin, cache):
    with unreliable_server(origin) as server:
        yield server
