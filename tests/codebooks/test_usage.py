"""Clusters in use and perplexity of labels."""

import json

import numpy as np
import pytest

from wavlm_lightning.cli import main
from wavlm_lightning.codebooks.labels import LabelSet
from wavlm_lightning.codebooks.usage import LabelUsage
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.shards import Utterance


def test_perplexity_of_known_shares():
    usage = LabelUsage.of(np.array([5, 5, 0, 5, 5]), 1, 1)
    assert usage.in_use == 4 and usage.perplexity == pytest.approx(4.0)
    assert LabelUsage.of(np.array([9, 0]), 1, 1).perplexity == pytest.approx(1.0)
    assert str(LabelUsage.of(np.array([3, 1]), 1, 4)).endswith("over 4 labels, in 1 of 4 shards so far")


def test_apply_says_and_keeps_them(tmp_path, capsys):
    rng = np.random.default_rng(0)
    writer = CorpusWriter(tmp_path / "c", "test", "CC0", {"recipe": "test"}, shard_seconds=2.0)
    writer.write_split("train", [Utterance(f"u{n}", rng.uniform(-0.5, 0.5, 16_000).astype("f4"), {}) for n in range(6)])
    writer.finish({})
    main(["codebook", "fit", str(tmp_path / "c"), "--clusters", "4", "--out", str(tmp_path / "book")])
    main(["codebook", "apply", str(tmp_path / "book"), str(tmp_path / "c"), "--name", "mfcc"])
    labels = np.concatenate([*LabelSet.open(Corpus.open(tmp_path / "c"), "mfcc", "train").rows])
    counts = np.bincount(labels, minlength=4)
    kept = json.loads((tmp_path / "c" / "labels" / "mfcc" / "usage.json").read_text())
    assert kept["labels"] == len(labels) and kept["in_use"] == int((counts > 0).sum()) and kept["clusters"] == 4
    shares = counts[counts > 0] / len(labels)
    assert kept["perplexity"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    said = f"{kept['in_use']} of 4 clusters in use, perplexity {kept['perplexity']:.1f} over {len(labels):,} labels"
    assert said in capsys.readouterr().out
