"""Runs of each kind of target on one corpus: two runs are equal, a resumed run is exact, other soft labels are refused."""

import shutil

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from test_pretraining_runs import fit, module

from wavlm_lightning.codebooks import Codebook, MfccFeatures, fit_kmeans, label_corpus
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.pretraining import MaskedCtc, MaskedPrediction, PretrainingData
from wavlm_lightning.system.errors import UserError

SWITCHES = {
    "ctc": ("mfcc100", lambda: [MaskedCtc(final_dim=16, unmasked_weight=1.0)]),
    "logits": ("mfcc100", lambda: [MaskedPrediction(similarity="logits")]),
    "soft": ("soft", lambda: [MaskedPrediction(final_dim=16, soft=True)]),
    "two": (
        ["mfcc100", "slow"],
        lambda: [MaskedPrediction(final_dim=16), MaskedPrediction(final_dim=8, labels="slow")],
    ),
    "all": (
        ["soft", "slow"],
        lambda: [MaskedPrediction(final_dim=16, soft=True), MaskedCtc(final_dim=8, labels="slow")],
    ),
}
"""Label sets and objectives."""


@pytest.fixture(scope="module")
def corpus(tiny, tmp_path_factory):
    """The tiny corpus with soft labels, and with seven clusters at 50 Hz beside the twenty at 100 Hz."""
    folder = tmp_path_factory.mktemp("switches") / "pretrain"
    shutil.copytree(tiny / "pretrain", folder)
    opened = Corpus.open(folder)
    label_corpus(opened, Codebook.load(tiny / "codebook"), "soft", soft=4)
    label_corpus(opened, Codebook.load(tiny / "codebook"), "softer", soft=4, temperature=9999.0)
    label_corpus(opened, fit_kmeans(opened, MfccFeatures(rate=50.0), 7, restarts=1), "slow")
    return folder


def data(corpus, labels, **changes):
    settings = {"batch_seconds": 5.0, "max_seconds": 2.0, "min_seconds": 1.0, **changes}
    return PretrainingData(str(corpus), labels, **settings)


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_resumed_run_is_exact(corpus, tmp_path, switch):
    labels, objectives = SWITCHES[switch]
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    model = module(objectives=objectives())
    whole = fit(model, data(corpus, labels), 4, callbacks=[saver])
    resumed = module(objectives=objectives())
    rest = fit(resumed, data(corpus, labels), 4, tmp_path / "step=2.ckpt")
    assert (rest.batches, rest.losses) == (whole.batches[2:], whole.losses[2:])
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in resumed.state_dict().items())
    assert fit(module(objectives=objectives()), data(corpus, labels, num_workers=0), 2).losses == whole.losses[:2]


def test_hard_labels_train_as_without_soft_ones(corpus):
    """A label set with soft labels gives plain masked prediction the same run to the bit."""
    runs = [
        fit(module(objectives=[MaskedPrediction(final_dim=16)]), data(corpus, name), 2) for name in ("mfcc100", "soft")
    ]
    assert runs[0].losses == runs[1].losses


def test_what_does_not_fit_is_refused(corpus, tmp_path):
    def soft():
        return module(objectives=[MaskedPrediction(final_dim=16, soft=True)])

    with pytest.raises(UserError, match="soft: true wants soft labels, and the label set 'mfcc100' has none"):
        fit(soft(), data(corpus, "mfcc100"), 1)
    saver = ModelCheckpoint(tmp_path, filename="x", every_n_train_steps=1)
    fit(soft(), data(corpus, "soft"), 1, callbacks=[saver])
    other = tmp_path / "pretrain"  # the same names, with posteriors at another temperature
    shutil.copytree(corpus, other)
    shutil.rmtree(other / "labels" / "soft")
    (other / "labels" / "softer").rename(other / "labels" / "soft")
    with pytest.raises(
        UserError, match=r"resume: the checkpoint was trained on other soft labels than data\.labels names"
    ):
        fit(soft(), data(other, "soft"), 2, tmp_path / "x.ckpt")
