"""Labels from the features that the fit of a codebook holds are those of a second pass, byte by byte, and cost none."""

from __future__ import annotations

import shutil

import pytest
import torch

from wavlm_lightning.cli import main
from wavlm_lightning.codebooks import Codebook, ContextFeatures, LayerFeatures, MfccFeatures
from wavlm_lightning.codebooks.kmeans import fit_and_hold
from wavlm_lightning.codebooks.labelling import label_corpus
from wavlm_lightning.codebooks.projection import Projection
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.remote.mirror import NOTE
from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.workflows.codebook import apply_codebook, fit_codebook


@pytest.fixture
def corpus(tiny, tmp_path) -> Corpus:
    shutil.copytree(tiny / "pretrain", tmp_path / "pretrain")
    return Corpus.open(tmp_path / "pretrain")


def files(corpus: Corpus, name: str) -> dict[str, bytes]:
    folder = corpus.directory / "labels" / name
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "usage.json"}


@pytest.mark.parametrize("kind", ["mfcc", "context", "layer"])
def test_the_labels_are_those_of_a_second_pass(corpus, tmp_path, monkeypatch, kind):
    """The context has a map. Utterances of other splits alone are heard again, and soft labels come from the same distances."""
    source = {"mfcc": MfccFeatures, "context": ContextFeatures}.get(kind, lambda: layer_of(tmp_path))()
    projection = Projection("pca", 6) if kind == "context" else None
    codebook, held = fit_and_hold(corpus, source, 9, restarts=1, projection=projection)
    label_corpus(corpus, codebook, "again", soft=3)
    heard, whole = [], type(source).__call__
    monkeypatch.setattr(type(source), "__call__", lambda self, wave: heard.append(len(wave)) or whole(self, wave))
    others = sum(len(corpus.split(split)) for split in corpus.splits if split != "train")
    assert label_corpus(corpus, codebook, "once", held=held) == len(list(corpus.directory.glob("*.tar")))
    assert len(heard) == others
    label_corpus(corpus, codebook, "soft", soft=3, temperature=100.0, held=held)
    label_corpus(corpus, codebook, "plain", soft=3, temperature=100.0)
    label_corpus(corpus, codebook, "twice")
    assert files(corpus, "once") == files(corpus, "twice")
    assert files(corpus, "soft") == files(corpus, "plain")


def layer_of(folder) -> LayerFeatures:
    torch.manual_seed(0)
    shape = {"layers": 1, "conv_channels": [8, 8, 8, 8, 16, 16, 32], "dim": 32, "heads": 2, "ffn_dim": 64}
    WavLM(WavLMConfig.preset("tiny", **shape)).save_pretrained(folder / "encoder")
    return LayerFeatures(folder / "encoder", 1)


def test_shards_that_are_not_held_whole_are_read_again(corpus):
    codebook, held = fit_and_hold(corpus, MfccFeatures(), 9, restarts=1, share=0.6)
    assert not all(held.all_of(shard) for shard in corpus.split("train").shards)
    assert not any(held.all_of(shard) for shard in corpus.split("valid").shards)
    label_corpus(corpus, codebook, "once", held=held)
    label_corpus(corpus, codebook, "twice")
    assert files(corpus, "once") == files(corpus, "twice")


def test_the_command_labels_at_once(corpus, tmp_path, capsys):
    options = ["--clusters", "9", "--restarts", "1", "--out", str(tmp_path / "book"), "--jobs", "1"]
    assert main(["codebook", "fit", str(corpus.directory), *options, "--apply", "once"]) == 0
    assert "labelled as 'once'; next: wavlm codebook score" in capsys.readouterr().out
    done = apply_codebook(tmp_path / "book", corpus.directory, "once", jobs=1)
    assert done.shards == 0 and done.quality["train"].pnmi > 0
    assert Codebook.load(tmp_path / "book").size == 9
    with pytest.raises(UserError, match="--apply and --part: a part makes no codebook"):
        fit_codebook(corpus.directory, tmp_path / "other", 9, part="1/2", memory_gib=1.0, apply="once")
    with pytest.raises(UserError, match="the name of a label set"):  # before anything is computed
        fit_codebook(corpus.directory, tmp_path / "other", 9, apply="a/b")
    assert not (tmp_path / "other").exists()
    (corpus.directory / NOTE).write_text("{}")  # as if behind a URL
    with pytest.raises(UserError, match="not possible on a server"):
        fit_codebook(corpus.directory, tmp_path / "other", 9, apply="twice")
