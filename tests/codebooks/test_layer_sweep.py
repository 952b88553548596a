"""All layers from one pass are those of single fits; the layer is chosen by PNMI or by its position; labels are counted."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml

from wavlm_lightning.cli import main
from wavlm_lightning.codebooks import Codebook, FeatureSource, LayerFeatures, LayerStack, fit_kmeans, layer_sweep
from wavlm_lightning.codebooks.layer_sweep import BY_PNMI, BY_POSITION, last_third, layer_by_position
from wavlm_lightning.codebooks.quality import quality_of, timed_phones
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.workflows import codebook as codebooks
from wavlm_lightning.workflows.codebook import fit_codebook, labels_behind, score_layers

SIZES = {"layers": 3, "dim": 32, "ffn_dim": 48, "heads": 4, "pos_conv_kernel": 16, "pos_conv_groups": 4}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoder")
    WavLM(WavLMConfig.preset("tiny", **SIZES, conv_channels=[16] * 7)).save_pretrained(folder)
    return folder


def test_layers_of_one_pass_are_those_of_single_passes(encoder):
    waveform = np.random.default_rng(0).normal(size=20_000).astype("f4") * 0.1
    stack = FeatureSource.from_description(json.loads(json.dumps(LayerStack(encoder, [0, 3]).describe())))
    features = stack(waveform)
    assert features.shape[1] == stack.describe()["dim"] == 64
    for layer in (0, 3):
        assert np.array_equal(features[:, stack.columns(layer)], LayerFeatures(encoder, layer)(waveform))
    with pytest.raises(UserError, match="layers 0 to 3, not 4"):
        LayerStack(encoder, [1, 4])


def test_a_sweep_is_the_fits_of_its_layers(tiny, encoder, tmp_path, capsys):
    corpus = Corpus.open(tiny / "pretrain")
    fits = {layer: fit_kmeans(corpus, LayerFeatures(encoder, layer), 12, restarts=2, share=0.3) for layer in (1, 3)}
    score = ["codebook", "score", str(corpus.directory), "--encoder", str(encoder), "--layers", "3", "1"]
    assert (
        main([*score, "--clusters", "12", "--restarts", "2", "--share", "0.3", "--out", str(tmp_path / "sweep")]) == 0
    )
    said = capsys.readouterr().out
    body = json.loads((tmp_path / "sweep" / "scores.json").read_text())
    assert (tmp_path / "sweep" / "layers.png").stat().st_size > 5000
    assert [row["layer"] for row in body["layers"]] == [1, 3]
    for row in body["layers"]:
        book, source = fits[row["layer"]], LayerFeatures(encoder, row["layer"])
        rows = [book.assign(source(waveform)) for _, waveform, _ in corpus.split("valid").utterances()]
        expected = quality_of(zip(timed_phones(corpus, "valid"), rows, strict=True), 50.0)
        assert row["pnmi"] == pytest.approx(expected.pnmi, abs=1e-9)
        assert row["in_use"] == len(np.unique(np.concatenate(rows)))
        assert f"{expected.pnmi:.3f}" in said
    best = max(body["layers"], key=lambda row: row["pnmi"])["layer"]
    assert body["chosen"] == {"layer": best, "rule": BY_PNMI} and f"layer {best} is chosen by" in said
    assert body["scored"]["split"] == "valid" and body["fitted"]["split"] == "train"


def test_a_sweep_of_layers_less_their_mean(tiny, encoder, tmp_path, capsys):
    corpus = str(tiny / "pretrain")
    score = ["codebook", "score", corpus, "--encoder", str(encoder), "--layers", "1", "--clusters", "12"]
    figures = []
    for options in ([], ["--remove-mean"]):
        assert main([*score, "--restarts", "2", *options, "--out", str(tmp_path / "sweep")]) == 0
        body = json.loads((tmp_path / "sweep" / "scores.json").read_text())
        figures.append(body["layers"][0]["pnmi"])
        assert body["fitted"].get("mean_removed", False) == bool(options)
        assert ("--layer 1 --remove-mean --out" in capsys.readouterr().out) == bool(options)
    assert figures[0] != figures[1]
    assert main(["codebook", "fit", corpus, "--remove-mean", "--out", str(tmp_path / "book")]) == 2
    assert "--remove-mean is for layers of an --encoder" in capsys.readouterr().err
    fit = ["codebook", "fit", corpus, "--encoder", str(encoder), "--layer", "1", "--clusters", "12", "--remove-mean"]
    assert main([*fit, "--restarts", "1", "--out", str(tmp_path / "book")]) == 0
    assert json.loads((tmp_path / "book" / "codebook.json").read_text())["features"]["mean_removed"] is True


def test_the_layer_by_position():
    assert last_third(12) == [9, 10, 11, 12] and last_third(24)[0] == 17 and last_third(4) == [3, 4]
    assert [layer_by_position(layers) for layers in (0, 1, 4, 12)] == [0, 1, 3, 9]


def test_layer_auto(tiny, encoder, tmp_path, monkeypatch):
    """By PNMI with phones that have times; without them by position, and no layer is clustered for it."""
    settings = {"encoder": str(encoder), "layer": "auto", "restarts": 1, "share": 0.3}
    made = fit_codebook(tiny / "pretrain", tmp_path / "measured", 8, **settings)
    assert made.fitted["layer_chosen_by"] == BY_PNMI and "labelled" not in made.fitted
    chosen = json.loads((tmp_path / "measured" / "scores.json").read_text())["chosen"]["layer"]
    assert Codebook.load(tmp_path / "measured").features["layer"] == chosen
    monkeypatch.setattr(codebooks, "timed_phones", lambda *_: iter([None]))
    monkeypatch.setattr(codebooks, "sweep_layers", None)
    made = fit_codebook(tiny / "pretrain", tmp_path / "by position", 8, **settings)
    assert (made.features["layer"], made.fitted["layer_chosen_by"]) == (3, BY_POSITION)


def test_a_sweep_without_times_says_so(tiny, encoder, monkeypatch):
    monkeypatch.setattr(layer_sweep, "timed_phones", lambda corpus, split, _: iter([None] * len(corpus.split(split))))
    sweep = score_layers(tiny / "pretrain", str(encoder), "last-third", 4, restarts=1, share=0.3)
    assert [score.layer for score in sweep.scores] == [3] and sweep.scores[0].quality is None
    assert sweep.chosen() == (3, BY_POSITION) and sweep.scored["alignments"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layers", "top"], "give all, last-third, or numbers"),
        (["--layers", "9"], "layers 0 to 3, not 9"),
        (["--clusters", "60000"], "cannot make 60000 clusters"),
        (["--alignments", "none"], "no finished alignments here"),
        (["--share", "0"], "must be above 0"),
    ],
)
def test_mistakes_of_a_sweep(tiny, encoder, capsys, options, message):
    assert main(["codebook", "score", str(tiny / "pretrain"), "--encoder", str(encoder), *options]) == 2
    assert message in capsys.readouterr().err


def test_options_of_layers_are_refused_for_labels(tiny, capsys):
    for option in (["--clusters", "5"], ["--remove-mean"]):
        assert main(["codebook", "score", str(tiny / "pretrain"), "--name", "mfcc100", *option]) == 2
        assert f"{option[0]} is for the layers of an --encoder" in capsys.readouterr().err


@pytest.fixture(scope="module")
def recogniser(tiny, encoder, tmp_path_factory):
    """The run of a recogniser that trained its encoder for two updates on 8 s of labels."""
    run = tmp_path_factory.mktemp("asr") / "run"
    upstream = {"class_path": "WavLMUpstream", "init_args": {"source": str(encoder), "frozen": False}}
    model = {"upstream": upstream, "learning_rate": 0.01}
    data = {"corpus": str(tiny / "pr"), "batch_size": 2, "train_seconds": 8.0}
    trainer = {"max_steps": 2, "val_check_interval": 1, "limit_val_batches": 1, "accelerator": "cpu"}
    config = {
        "model": {"class_path": "FineTunedRecognition", "init_args": model},
        "data": {"class_path": "TaskData", "init_args": data},
        "trainer": {**trainer, "enable_progress_bar": False, "default_root_dir": str(run)},
    }
    path = run.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config))
    assert main(["fit", "-c", str(path)]) == 0
    return run


@pytest.mark.slow
def test_ctc_clustering_takes_the_trained_encoder_and_counts_its_labels(tiny, encoder, recogniser, tmp_path):
    made = fit_codebook(tiny / "pretrain", tmp_path / "book", 8, encoder=str(recogniser), layer="auto", restarts=1)
    state = torch.load(recogniser / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    source = FeatureSource.from_description(made.features)
    for name, value in source.encoder.state_dict().items():
        assert torch.equal(value, state[f"upstream.encoder.{name}"]), name
    assert made.features["encoder_sha256"] != LayerFeatures(encoder, 1).sha256
    [seen] = made.fitted["labelled"]
    assert seen["corpus"] == "mini/pr" and 0 < seen["seconds"] <= 8 and seen["utterances"] >= 1
    assert Codebook.load(tmp_path / "book").fitted["labelled"] == [seen]
    for path in (recogniser / "checkpoints").glob("*.ckpt"):  # as an older version wrote them
        content = torch.load(path, weights_only=True)
        del content["labelled"]
        torch.save(content, path)
    [counted] = labels_behind(recogniser)
    assert {key: seen[key] for key in counted} == counted
    (recogniser / "config.yaml").rename(recogniser / "config.txt")
    with pytest.raises(UserError, match="they cannot be counted now"):
        labels_behind(recogniser)


def test_encoders_without_labels(encoder):
    assert labels_behind(encoder) == labels_behind("random:tiny") == []
