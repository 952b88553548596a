"""The feature cache: training on it is training on the upstream."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from quiet import quiet_trainer

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.errors import UserError
from wavlm_lightning.tasks import KeywordSpotting, PhonemeRecognition, TaskData
from wavlm_lightning.upstreams import Fbank, Upstream, WavLMUpstream
from wavlm_lightning.upstreams.cache import FeatureCache


class Count(pl.Callback):
    """How often the upstream runs, and the losses of a run."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.losses.append(float(outputs["loss"]))


def fit(task, data, epochs: int) -> list[float]:
    count = Count()
    quiet_trainer(max_epochs=epochs, callbacks=[count]).fit(task, data)
    return count.losses


@pytest.mark.parametrize(
    ("task", "name", "tolerance"), [(KeywordSpotting, "ks", 1e-5), (PhonemeRecognition, "pr", 2e-3)]
)
def test_three_epochs_equal_with_and_without(tiny, tmp_path, task, name, tolerance):
    """Exact for means in fp32; frames are kept in half precision, hence the wider margin."""
    runs, weights = [], []
    for cache in (None, str(tmp_path / "cache")):
        model = task(WavLMUpstream("tiny"), learning_rate=1e-3)
        runs.append(fit(model, TaskData(str(tiny / name), batch_size=8, cache=cache), 3))
        weights.append(
            torch.cat([p.detach().flatten() for n, p in model.named_parameters() if not n.startswith("upstream")])
        )
    assert len(runs[0]) > 5
    assert np.abs(np.array(runs[0]) - np.array(runs[1])).max() <= tolerance * max(runs[0])
    assert (weights[0] - weights[1]).abs().max() <= 10 * tolerance


def test_a_second_run_does_not_touch_the_upstream(tiny, tmp_path, monkeypatch):
    data = {"batch_size": 8, "cache": str(tmp_path)}
    fit(KeywordSpotting(WavLMUpstream("tiny")), TaskData(str(tiny / "ks"), **data), 1)

    def refuse(self: Upstream, *_: object) -> None:
        raise AssertionError("the upstream ran although its features are cached")

    monkeypatch.setattr(WavLMUpstream, "layers", refuse)
    fit(KeywordSpotting(WavLMUpstream("tiny")), TaskData(str(tiny / "ks"), **data), 1)
    with pytest.raises(AssertionError, match="the upstream ran"):
        fit(KeywordSpotting(WavLMUpstream("tiny", seed=1)), TaskData(str(tiny / "ks"), **data), 1)


def test_auto_is_the_users_cache_folder(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("WAVLM_CACHE", str(tmp_path))
    fit(KeywordSpotting(WavLMUpstream("tiny")), TaskData(str(tiny / "ks"), batch_size=8, cache="auto"), 1)
    assert len(list((tmp_path / "features").rglob("*.safetensors"))) == 2


def test_estimate_is_the_size_on_disk(tiny, tmp_path):
    split = Corpus.open(tiny / "ks").split("train")
    for level in ("utterance", "frame"):
        cache = FeatureCache(tmp_path, WavLMUpstream("tiny"), level)
        size = 0
        for shard in split.shards:
            path = cache.fill(shard.path.stem, shard.sha256, shard.keys, shard.samples, shard.waveform)
            size += path.stat().st_size
        assert size / 2**30 == pytest.approx(cache.estimate_gib(split.samples), rel=0.15)


def test_budget_and_impossible_caches_are_refused(tiny, tmp_path):
    cache = str(tmp_path)
    with pytest.raises(UserError, match="cache_gib"):
        fit(KeywordSpotting(WavLMUpstream("tiny")), TaskData(str(tiny / "ks"), cache=cache, cache_gib=1e-6), 1)
    with pytest.raises(UserError, match=r"longer than 0\.5 s"):
        fit(KeywordSpotting(WavLMUpstream("tiny")), TaskData(str(tiny / "ks"), cache=cache, max_seconds=0.5), 1)
    with pytest.raises(UserError, match="frozen: false"):
        fit(KeywordSpotting(WavLMUpstream("tiny", frozen=False)), TaskData(str(tiny / "ks"), cache=cache), 1)
    with pytest.raises(UserError, match="every frame"):
        fit(KeywordSpotting(WavLMUpstream("tiny"), normalize=True), TaskData(str(tiny / "ks"), cache=cache), 1)
    assert list(Path(cache).rglob("*.safetensors")) == []


def test_two_heads_at_once_compute_features_once(tmp_path):
    """The second waits for the first, and reads what that one wrote."""

    class Slow(Fbank):
        calls = 0

        def layers(self, waveforms, lengths):
            Slow.calls += 1
            time.sleep(0.2)
            return super().layers(waveforms, lengths)

    waveforms = [np.random.default_rng(i).uniform(-0.3, 0.3, 4000).astype("f4") for i in range(3)]
    caches = [FeatureCache(tmp_path, Slow(), "frame") for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda c: c.fill("s", "0" * 64, list("abc"), [4000] * 3, waveforms.__getitem__), caches))
    assert paths[0] == paths[1] and Slow.calls == 1
    assert torch.equal(caches[0].read(paths[0], "b"), caches[1].read(paths[1], "b"))
