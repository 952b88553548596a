"""From a codebook made with labels to the model card: every step says which labels the encoder has seen."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml

from wavlm_lightning.cli import main
from wavlm_lightning.codebooks import Codebook, LabelSet
from wavlm_lightning.codebooks.labelling import label_corpus
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.reports.cards import ResultCard

CPU = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
SEEN = {"utterances": 7, "seconds": 1440.0, "corpus": "mini/pr"}


@pytest.fixture(scope="module")
def labelled(tiny, tmp_path_factory):
    """A folder with a corpus whose labels come from a codebook that has seen transcripts."""
    folder = tmp_path_factory.mktemp("seen")
    corpus = shutil.copytree(tiny / "pretrain", folder / "corpus")
    shutil.rmtree(corpus / "labels")
    codebook = Codebook.load(tiny / "codebook")
    codebook.fitted["labelled"] = SEEN
    label_corpus(Corpus.open(corpus), codebook, "mfcc100")
    return folder


@pytest.fixture(scope="module")
def run(labelled):
    """The same folder with `run`, an encoder that was pre-trained on these labels."""
    folder, corpus = labelled, labelled / "corpus"
    options = [
        "--data.corpus",
        str(corpus),
        "--trainer.default_root_dir",
        str(folder / "run"),
        "--trainer.max_steps",
        "2",
    ]
    options += ["--model.encoder_overrides", "{layers: 1, dim: 48, heads: 2, ffn_dim: 48}"]
    objective = "[{class_path: wavlm_lightning.pretraining.objectives.MaskedPrediction}]"
    options += ["--model.objectives", objective, "--trainer.val_check_interval", "2"]
    assert main(["fit", "-c", "configs/pretrain/tiny_waveform.yaml", *options, *CPU]) == 0
    return folder


def test_label_sets(tiny, labelled):
    assert json.loads((labelled / "corpus" / "labels" / "mfcc100" / "labels.json").read_text())["labelled"] == [SEEN]
    opened = LabelSet.open(Corpus.open(labelled / "corpus"), "mfcc100", "train")
    assert opened.labelled == (SEEN,) and opened.codebook()["labelled"] == [SEEN]
    assert LabelSet.join([opened, opened]).labelled == (SEEN,)
    assert "labelled" not in LabelSet.open(Corpus.open(tiny / "pretrain"), "mfcc100", "train").codebook()


@pytest.mark.slow
def test_the_model_card_never_says_self_supervised(run, tmp_path):
    assert main(["export", str(run / "run"), str(tmp_path / "hf")]) == 0
    assert torch.load(run / "run" / "checkpoints" / "last.ckpt", weights_only=True)["labelled"] == [SEEN]
    card = (tmp_path / "hf" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert "self-supervised" not in front["tags"] and "supervised" not in card.replace("## Labels seen", "")
    assert "## Labels seen" in card and "mini/pr: 24 min, 7 utterances" in card
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["wavlm_lightning"]["labelled"] == [SEEN]


@pytest.mark.slow
def test_heads_cards_and_the_report(tiny, run, tmp_path, capsys):
    ks = tmp_path / "ks"
    common = [
        "--data.corpus",
        str(tiny / "ks"),
        "--model.upstream.source",
        str(run / "run"),
        "--trainer.max_steps",
        "2",
    ]
    common += ["--data.cache", "null", "--trainer.val_check_interval", "1", *CPU]
    frozen = ["fit", "-c", "configs/superb/mini/ks.yaml", *common, "--trainer.default_root_dir", str(ks)]
    assert main(frozen) == 0 and main(["test", str(ks), *CPU]) == 0
    card = ResultCard.read(ks)
    assert card.upstream["labelled"] == [SEEN], "what the encoder has seen"
    assert card.labelled["corpus"] == Corpus.open(tiny / "ks").name and card.labelled["utterances"] > 0, (
        "what the head has"
    )
    assert "labelled" not in torch.load(ks / "checkpoints" / "best.ckpt", weights_only=True)
    # Fine-tuning shows the encoder further labels.
    tuned = tmp_path / "tuned"
    more = ["--model.upstream.frozen", "false", "--trainer.default_root_dir", str(tuned)]
    assert (
        main(["fit", "-c", "configs/superb/mini/ks.yaml", *common, *more]) == 0
        and main(["test", str(tuned), *CPU]) == 0
    )
    seen = ResultCard.read(tuned).upstream["labelled"]
    assert (
        seen[0] == SEEN and seen[1]["corpus"] == card.labelled["corpus"] and seen[1]["task"] == "KS" and len(seen) == 2
    )
    assert main(["report", str(run / "run"), str(ks), str(tuned), "-o", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.md").read_text()
    assert "labels seen" in page and "24 min (mini/pr)" in page
    # A codebook on a layer of it has seen them, too.
    folder = tmp_path / "codebook"
    fit = ["codebook", "fit", str(tiny / "pretrain"), "--encoder", str(tuned), "--layer", "1", "--clusters", "4"]
    assert main([*fit, "--out", str(folder), "--restarts", "1"]) == 0
    assert json.loads((folder / "codebook.json").read_text())["fitted"]["labelled"] == seen
