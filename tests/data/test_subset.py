"""Parts of splits, several splits as one, and corpora with their labels on the wrong utterances."""

from __future__ import annotations

import numpy as np
import pytest

from wavlm_lightning.cli import main
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.subset import Subset, open_splits
from wavlm_lightning.system.errors import UserError


def test_joined_splits_and_subsets_agree_with_their_parts(tiny):
    corpus = Corpus.open(tiny / "er")
    joined = open_splits(corpus, "fold2+fold4")
    parts = [corpus.split("fold2"), corpus.split("fold4")]
    assert joined.keys == [key for part in parts for key in part.keys]
    numbers = [5, 0, 3]
    some = Subset.of(joined, numbers, "in this test")
    assert some.keys == [joined.keys[n] for n in numbers] and len(some) == 3
    assert some.samples.tolist() == joined.samples[numbers].tolist()
    metas = joined.metas()
    assert some.metas() == [metas[n] for n in numbers]
    for (key, waveform, meta), n in zip(some.utterances(), numbers, strict=True):
        shard, place = joined.locate(n)
        assert key == joined.keys[n] and meta == metas[n] and np.array_equal(waveform, shard.waveform(place))
    with pytest.raises(UserError, match="no utterance is left to train on"):
        Subset.of(joined, [], "to train on")


def test_permuted_labels(tiny, tmp_path):
    assert main(["data", "permute", str(tiny / "sv"), "--out", str(tmp_path / "sv"), "--seed", "3"]) == 0
    before, after = Corpus.open(tiny / "sv"), Corpus.open(tmp_path / "sv")
    for name in before.splits:
        one, other = before.split(name), after.split(name)
        assert one.keys == other.keys and one.samples.tolist() == other.samples.tolist()
        texts = [[meta["text"] for meta in split.metas()] for split in (one, other)]
        assert sorted(texts[0]) == sorted(texts[1]) and (len(one) < 5 or texts[0] != texts[1])
    rows = [corpus.trials("test") for corpus in (before, after)]
    assert [row[1:] for row in rows[0]] == [row[1:] for row in rows[1]]
    assert sorted(row[0] for row in rows[0]) == sorted(row[0] for row in rows[1]) and rows[0] != rows[1]
    assert main(["data", "permute", str(tiny / "sv"), "--out", str(tiny / "sv")]) == 2
