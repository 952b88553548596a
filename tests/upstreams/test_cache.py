"""The feature cache: training on it is training on the upstream."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from quiet import quiet_trainer

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import Layers
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import KeywordSpotting, PhonemeRecognition, SpeakerIdentification, TaskData
from wavlm_lightning.tasks.utterances import LabelledUtterances
from wavlm_lightning.upstreams import Fbank, Upstream, WavLMUpstream
from wavlm_lightning.upstreams import cache as feature_cache
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
    assert (weights[0] - weights[1]).abs().max() <= tolerance * (1 if task.cache_level == "utterance" else 10)


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
        need, missing = cache.check_budget(split.shards)
        assert need == missing == pytest.approx(cache.estimate_gib(split.samples))
        size = sum(path.stat().st_size for shard in split.shards for path in cache.fill(shard))
        assert size / 2**30 == pytest.approx(need, rel=0.15)
        assert cache.check_budget(split.shards) == (need, 0)


def test_budget_and_impossible_caches_are_refused(tiny, tmp_path):
    cache = str(tmp_path)
    with pytest.raises(UserError, match="cache_gib"):
        fit(KeywordSpotting(WavLMUpstream("tiny")), TaskData(str(tiny / "ks"), cache=cache, cache_gib=1e-6), 1)
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

    shard = Shard([4000] * 3)
    caches = [FeatureCache(tmp_path, Slow(), "frame") for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda cache: cache.fill(shard), caches))
    assert paths[0] == paths[1] and Slow.calls == 1
    assert torch.equal(caches[0].read(shard, 1), caches[1].read(shard, 1))


class Shard:
    """A shard of noise, as `FeatureCache` sees one."""

    path, sha256 = Path("train-000000.tar"), "0" * 64

    def __init__(self, samples: list[int], loudness: float = 0.3) -> None:
        self.samples, self.loudness, self.read = samples, loudness, []
        self.keys = [f"u{place}" for place in range(len(samples))]

    def waveform(self, place: int) -> np.ndarray:
        self.read.append(place)
        rng = np.random.default_rng(place)
        return rng.uniform(-self.loudness, self.loudness, self.samples[place]).astype("f4")


class Echo(Upstream):
    """Frames of 10 samples, as they are."""

    label, dim, num_layers, frame_rate = "Echo", 10, 2, 1600.0

    def layers(self, waveforms, lengths):
        frames = waveforms.unfold(1, 10, 10)
        return Layers(torch.stack([frames, -frames]), lengths // 10, self.frame_rate)


@pytest.fixture
def small_pieces(monkeypatch):
    """Files of a second of audio."""
    monkeypatch.setattr(feature_cache, "PIECE_SECONDS", 1.0)


@pytest.mark.parametrize("level", ["utterance", "frame"])
def test_what_is_read_is_what_the_upstream_says(tmp_path, small_pieces, level):
    samples = np.random.default_rng(0).integers(10, 9000, 40).tolist()
    shard, cache = Shard(samples), FeatureCache(tmp_path, Echo(), level, factor=0.5)
    assert len(cache.fill(shard, batch_seconds=0.7)) == len(cache.fill(shard)) > 5
    rows = [cache.read(shard, place) for place in (7, 0, 39, 7)]
    stacked = cache.layers(rows)
    for row, place in enumerate((7, 0, 39, 7)):
        wanted = Echo()(torch.from_numpy(shard.waveform(place))[None] * 0.5, torch.tensor([samples[place]]))
        hidden = wanted.mean_over_time()[:, 0, None] if level == "utterance" else wanted.hidden[:, 0]
        assert stacked.lengths[row] == hidden.shape[1]
        found = stacked.hidden[:, row, : hidden.shape[1]]
        assert torch.allclose(found, hidden, atol=1e-6 if level == "utterance" else 1e-4)
        assert not stacked.hidden[:, row, hidden.shape[1] :].any()


def test_a_killed_build_goes_on_where_it_stopped(tmp_path, small_pieces):
    shard, cache = Shard([8000] * 12), FeatureCache(tmp_path, Echo(), "frame")

    class Killed(Shard):
        def waveform(self, place):
            if len(self.read) == 7:
                raise KeyboardInterrupt
            return super().waveform(place)

    killed = Killed(shard.samples)
    with pytest.raises(KeyboardInterrupt):
        cache.fill(killed, batch_seconds=0.5)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3  # two utterances each, and the seventh is lost
    FeatureCache(tmp_path, Echo(), "frame").fill(shard)
    assert sorted(shard.read) == [6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize("harm", ["cut off", "cut off in the header", "altered", "renamed", "empty"])
def test_a_damaged_file_is_named_and_made_again(tmp_path, small_pieces, harm):
    shard = Shard([8000] * 8)
    paths = FeatureCache(tmp_path, Echo(), "frame").fill(shard)
    content = paths[2].read_bytes()
    place = len(content) - 100
    paths[2].write_bytes(
        {
            "cut off": content[:-10],
            "cut off in the header": content[:20],
            "altered": content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :],
            "renamed": paths[1].read_bytes(),
            "empty": b"",
        }[harm]
    )
    shard.read.clear()
    again = FeatureCache(tmp_path, Echo(), "frame")
    with pytest.warns(UserWarning, match=rf"{paths[2].name}: damaged"):
        again.fill(shard)
    assert sorted(shard.read) == [4, 5]
    assert all(np.abs(again.read(shard, place)[0].flatten() - shard.waveform(place)).max() < 1e-3 for place in range(8))


def test_other_audio_and_other_settings_are_other_files(tmp_path):
    shard, other = Shard([4000]), Shard([4000])
    other.sha256 = "1" * 64
    caches = [
        FeatureCache(tmp_path, Echo(), "frame"),
        FeatureCache(tmp_path, Echo(), "utterance"),
        FeatureCache(tmp_path, Echo(), "frame", factor=0.7),
        FeatureCache(tmp_path, Echo(), "frame", precision="bf16-mixed"),
        FeatureCache(tmp_path, Fbank(), "frame"),
    ]
    assert len({cache.path(one, 0) for cache in caches for one in (shard, other)}) == 10


def test_corpora_that_share_audio_and_select_other_utterances_share_no_file(tmp_path):
    one, other = Shard([4000, 6000, 8000]), Shard([4000, 6000, 8000])
    other.keys = ["other-0", "other-1", "other-2"]  # such as by another import of the same tar
    for level in ("frame", "utterance"):
        first, second = FeatureCache(tmp_path, Echo(), level), FeatureCache(tmp_path, Echo(), level)
        first.fill(one)
        second.fill(other)
        assert first.path(one, 0) != second.path(other, 0)
        one.read.clear()
        FeatureCache(tmp_path, Echo(), level).fill(one)
        assert one.read == []  # still there
        assert all(torch.equal(first.read(one, place), second.read(other, place)) for place in range(3))


def test_values_beyond_half_precision_are_kept_in_bfloat16(tmp_path):
    shard, cache = Shard([400, 400], loudness=1e6), FeatureCache(tmp_path, Echo(), "frame")
    cache.fill(shard)
    row = cache.read(shard, 1)
    assert row.dtype == torch.bfloat16
    found = cache.layers([row]).hidden[0, 0].flatten()
    assert torch.allclose(found, torch.from_numpy(shard.waveform(1)), rtol=2**-8)


def test_a_full_disk_is_noticed_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="free some"):
        FeatureCache(tmp_path, Echo(), "frame").check_budget([Shard([8000])])


@pytest.mark.parametrize(
    ("task", "name", "tolerance"), [(SpeakerIdentification, "sid", 1e-5), (PhonemeRecognition, "pr", 2e-3)]
)
def test_what_is_cropped_is_not_cached_and_training_stays_the_same(
    tiny, tmp_path, monkeypatch, caplog, task, name, tolerance
):
    samples = Corpus.open(tiny / name).split("train").samples
    seconds = float(np.median(samples)) / 16000
    kinds = []
    honest = LabelledUtterances.__getitem__

    def read(self, items):
        batch = honest(self, items)
        kinds.append(type(batch.inputs).__name__)
        return batch

    monkeypatch.setattr(LabelledUtterances, "__getitem__", read)
    monkeypatch.setattr(task, "crop_target", lambda self, target, start, samples: target)
    runs, weights = [], []
    for cache in (None, str(tmp_path / "cache")):
        kinds.clear()
        model = task(WavLMUpstream("tiny"), learning_rate=1e-3)
        runs.append(fit(model, TaskData(str(tiny / name), batch_size=8, max_seconds=seconds, cache=cache), 3))
        weights.append(
            torch.cat([p.detach().flatten() for n, p in model.named_parameters() if not n.startswith("upstream")])
        )
    assert {"Layers", "PartlyCached"} <= set(kinds)
    assert np.abs(np.array(runs[0]) - np.array(runs[1])).max() <= tolerance * max(runs[0])
    assert (weights[0] - weights[1]).abs().max() <= tolerance * (1 if task.cache_level == "utterance" else 10)
    said = caplog.text
    assert f"{(samples > round(seconds * 16000)).sum()} of {len(samples)} utterances are longer" in said
    assert "GiB of features" in said
