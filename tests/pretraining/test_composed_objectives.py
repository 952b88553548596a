"""Objectives in one run: several label sets, several layers, none of either."""

import shutil

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from quiet import quiet_trainer
from test_pretraining_runs import SMALL, codebooks, data, fit, module

from wavlm_lightning.codebooks import LayerFeatures, fit_kmeans, label_corpus
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.pretraining import ContrastivePrediction, FeaturePenalty, MaskedPrediction, PretrainingData
from wavlm_lightning.system.errors import UserError


def test_several_label_sets_at_once(tiny, tmp_path):
    """A set at 100 Hz and one at 50 Hz, each with its own objective; both are on the frame grid."""
    corpus = tmp_path / "pretrain"
    shutil.copytree(tiny / "pretrain", corpus)
    module().encoder.save_pretrained(tmp_path / "encoder")
    opened = Corpus.open(corpus)
    label_corpus(opened, fit_kmeans(opened, LayerFeatures(tmp_path / "encoder", 1), 7, restarts=1), "l1")
    source = PretrainingData(str(corpus), ["mfcc100", "l1"], batch_seconds=5.0, max_seconds=2.0, min_seconds=1.0)
    objectives = [
        MaskedPrediction(final_dim=16),
        MaskedPrediction(final_dim=8, labels="l1"),
        MaskedPrediction(final_dim=8, labels="l1", layer=1),
    ]
    model = module(objectives=objectives)
    fit(model, source, 2)
    batch = next(iter(source.train_dataloader()))
    assert list(batch.labels) == ["mfcc100", "l1"] and batch.labels["l1"].max() < 7 <= batch.labels["mfcc100"].max()
    assert [len(objective.codewords) for objective in model.objectives] == [24, 11, 11]


def test_resume_with_label_sets_in_another_order_is_refused(tiny, tmp_path):
    """The first one is what an objective without a name reads."""
    for name in ("first", "second"):
        shutil.copytree(tiny / "pretrain" / "labels" / "mfcc100", tmp_path / "pretrain" / "labels" / name)
    for path in (tiny / "pretrain").glob("*.*"):
        shutil.copy(path, tmp_path / "pretrain")
    saver = ModelCheckpoint(tmp_path, filename="x", every_n_train_steps=1)
    settings = {"batch_seconds": 5.0, "max_seconds": 2.0, "min_seconds": 1.0}
    fit(module(), PretrainingData(str(tmp_path / "pretrain"), ["first", "second"], **settings), 1, callbacks=[saver])
    other = PretrainingData(str(tmp_path / "pretrain"), ["second", "first"], **settings)
    with pytest.raises(UserError, match="resume: the checkpoint was trained on labels of another codebook"):
        fit(module(), other, 2, tmp_path / "x.ckpt")


def test_layers_that_nobody_would_train_are_refused(tiny):
    with pytest.raises(UserError, match="none reads the last layer, so layers 2 to 2 would never be trained"):
        fit(module(encoder_overrides={**SMALL, "layers": 2}, objectives=[MaskedPrediction(layer=1)]), data(tiny), 1)


def test_several_label_sets_need_their_objective(tiny):
    with pytest.raises(UserError, match=r"wants labels 'other', but data\.labels names mfcc100"):
        fit(module(objectives=[MaskedPrediction(labels="other")]), data(tiny), 1)


def test_contrastive_objective_alone_needs_no_labels(tiny):
    source = PretrainingData(str(tiny / "pretrain"), None, batch_seconds=5.0, max_seconds=2.0, min_seconds=1.0)
    objectives = [ContrastivePrediction(final_dim=16, entries=8, negatives=10), FeaturePenalty()]
    model = module(objectives=objectives)
    first = fit(model, source, 4).losses
    assert all(torch.isfinite(torch.tensor(first)))
    scores = quiet_trainer().validate(model, source, verbose=False)[0]
    assert {"valid/loss", "valid/masked_accuracy", "valid/code_perplexity"} <= set(scores)
    again = module(objectives=[ContrastivePrediction(final_dim=16, entries=8, negatives=10), FeaturePenalty()])
    assert fit(again, source, 4).losses == first


def test_objectives_of_one_kind_add_up(tiny):
    """Two half-weighted copies with the same weights are one whole."""
    source = data(tiny)
    source.setup("fit")
    batch = next(iter(source.train_dataloader()))
    whole = module(objectives=[MaskedPrediction(final_dim=16)])
    halves = module(
        objectives=[MaskedPrediction(final_dim=16, weight=0.25), MaskedPrediction(final_dim=16, weight=0.75)]
    )
    losses = []
    for model in (whole, halves):
        model.build(codebooks(source))
        model.trainer = quiet_trainer(max_steps=1, log_every_n_steps=1000)
        for objective in model.objectives:
            objective.load_state_dict(whole.objectives[0].state_dict())
        losses.append(model.training_step(batch, 0).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    halves.objectives[1].codewords.data.neg_()  # or the second could be left out unnoticed
    assert halves.training_step(batch, 0).item() != pytest.approx(losses[0], rel=1e-3)
