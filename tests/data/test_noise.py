"""Noise from corpora: stretches from random places, for pre-training and for transforms."""

import numpy as np
import pytest

from wavlm_lightning.augment.transforms import AddNoise, AddRoom, ChangeGain, Draw, OneOf
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.noise import CorpusNoise, open_transforms
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.system.errors import UserError


@pytest.fixture
def noises(tmp_path) -> Corpus:
    """Three utterances that say which they are and where a stretch lies: number / 4 + a ramp of 2^-15 a sample."""
    writer = CorpusWriter(tmp_path / "noise", "noise", "CC0", {}, shard_seconds=0.1)
    ramps = [(number / 4 + np.arange(1000 * (number + 1)) / 2**15).astype("f4") for number in range(3)]
    writer.write_split("train", [Utterance(f"n{n}", ramp, {}) for n, ramp in enumerate(ramps)])
    writer.write_split("test", [Utterance("t", ramps[0] + 0.1, {})])
    return writer.finish({})


def test_stretches_are_of_any_utterance_from_any_place(noises):
    read = CorpusNoise(noises.split("train"))
    starts: dict[int, set[int]] = {}
    for seed in range(200):
        found = read(np.random.default_rng(seed), 900)
        assert found.dtype == np.float32 and len(found) == 900
        number = int(found[0] * 4)
        starts.setdefault(number, set()).add(round((found[0] - number / 4) * 2**15))
        np.testing.assert_allclose(np.diff(found), 2**-15, atol=1e-7)
    assert set(starts) == {0, 1, 2} and max(starts[0]) < 100 and max(starts[2]) > 1_800
    assert {len(read(np.random.default_rng(seed), 2_500)) for seed in range(20)} == {1_000, 2_000, 2_500}
    assert {len(read(np.random.default_rng(seed))) for seed in range(20)} == {1_000, 2_000, 3_000}


def test_transforms_get_the_split_they_name_and_a_run_its_hash(noises):
    train = AddNoise(corpus=str(noises.directory), snr_db=(0, 0))
    test = AddRoom(corpus=str(noises.directory), corpus_split="test")
    common = open_transforms([ChangeGain(), OneOf(transforms=[train, test])])
    assert common == [
        ["ChangeGain", {}],
        [
            "OneOf",
            {"transforms": [train.describe(), ["AddRoom", {"corpus": True, "corpus_split": "test"}]]},
        ],
        noises.sha256,
        noises.sha256,
    ]
    heard = np.sin(np.arange(5_000)).astype("f4")
    for transform in (train, test):
        first, again = (transform(heard, Draw(np.random.default_rng(0), lambda: heard)) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert len(first) == 5_000 and not np.array_equal(first, heard)


def test_a_corpus_that_is_not_there_is_named(noises, tmp_path):
    with pytest.raises(UserError, match="gone: no corpus"):
        open_transforms([AddNoise(corpus=str(tmp_path / "gone"))])
    with pytest.raises(UserError, match="no split 'valid'; it has train, test"):
        open_transforms([AddNoise(corpus=str(noises.directory), corpus_split="valid")])
