"""Two processes, sharded or not: the gradient of one large batch, the same layers dropped, updates left out, and curve."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import together
from test_pretraining_runs import data, expected_gradient
from two_ranks import STRATEGIES, curve, everything

from wavlm_lightning.codebooks import Codebook, label_corpus
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.loading.batching import BatchPlan
from wavlm_lightning.upstreams.wavlm import load_encoder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def soft(tiny, tmp_path_factory) -> Path:
    """The tiny corpus whose labels `mfcc100` have soft labels beside them."""
    folder = tmp_path_factory.mktemp("soft")
    shutil.copytree(tiny / "pretrain", folder / "pretrain", ignore=lambda *_: ["labels"])
    label_corpus(Corpus.open(folder / "pretrain"), Codebook.load(tiny / "codebook"), "mfcc100", soft=3)
    return folder


@pytest.fixture(scope="module")
def out(tiny, soft, tmp_path_factory) -> Path:
    """What two processes have found; see two_ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    together(2, folder / "log", everything, tiny, soft, folder)
    return folder


@pytest.fixture(scope="module")
def found(out) -> list[dict[str, Any]]:
    """By process."""
    return [torch.load(out / f"rank{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def alone_curve(soft) -> dict[str, Any]:
    """Of one process."""
    return curve(soft, 1)


@pytest.fixture(scope="module")
def large_batch(tiny) -> list[torch.Tensor]:
    """The gradient of the first two micro-batches of both processes, taken at once."""
    source = data(tiny, batch_seconds=2.0)
    source.setup("fit")
    loader = source.train_dataloader()
    crops, sampler = loader.dataset, loader.sampler
    batches = []
    for rank in range(2):
        plan = BatchPlan(sampler.samples, rank=rank, world_size=2, **sampler.plan)
        batches += [(crops[items], rank, index) for index, items in zip(range(2), plan, strict=False)]
    return expected_gradient(source, batches)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_ranks_two_micro_steps(found, large_batch, strategy):
    for each in found:
        for got, wanted in zip(each[strategy]["gradient"], large_batch, strict=True):
            assert torch.allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ranks_drop_the_same_layers_and_skip_together(found, strategy):
    """Without find_unused_parameters: a layer that one rank alone had dropped would leave the other waiting."""
    one, other = (each[strategy]["together"] for each in found)
    assert one["dropped"] == other["dropped"]
    drawn = [layer for layers in one["dropped"] for layer in layers]
    assert any(drawn) and not all(drawn)
    assert one["skipped"] == other["skipped"] == [1, 0]
    for name, value in one["weights"].items():
        assert torch.isfinite(value).all() and torch.equal(value, other["weights"][name])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_rank_and_two_follow_the_same_curve(found, alone_curve, strategy):
    """20 updates in fp32: one process makes two micro-steps of the crops, masks, mixtures and dropouts of two processes."""
    first, second = (each[strategy]["curve"] for each in found)
    micro = alone_curve["micro"]
    assert [step["audio"] for step in micro[::2]] == [step["audio"] for step in first["micro"]]
    assert [step["audio"] for step in micro[1::2]] == [step["audio"] for step in second["micro"]]
    assert [step["dropped"] for step in micro[::2]] == [step["dropped"] for step in second["micro"]]
    assert any(any(step["dropped"]) for step in micro) and len({step["frames"] for step in micro}) > 1
    one = losses(micro[::2], micro[1::2])
    two = losses(first["micro"], second["micro"])
    assert len(one) == 20 and min(one) < one[0]
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-5
    for name, value in alone_curve["weights"].items():
        assert torch.allclose(value, first["weights"][name], atol=1e-4), name


def losses(*shares: list[dict]) -> list[float]:
    """The loss of each update: the sum over its micro-batches, divided by all their masked frames."""
    return [
        sum(step["sum"] for step in steps) / sum(step["frames"] for step in steps)
        for steps in zip(*shares, strict=True)
    ]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_signal_to_one_rank_stops_all_after_the_same_update(out, found, strategy):
    """Or the one that stops would write its checkpoint alone, and the other would wait for it."""
    assert [each[strategy]["stopped"]["at"] for each in found] == [2, 2]
    for each in found:
        straight, resumed = each[strategy]["stopped"]["straight"], each[strategy]["stopped"]["resumed"]
        for name, value in straight.items():
            assert torch.equal(value, resumed[name]), name
    assert (out / strategy / "last.ckpt").is_dir() is (strategy == "fsdp2")
    assert load_encoder(out / strategy / "last.ckpt").config.layers == 1
