"""Log-mel with context, maps in front of the codes, and random codes: against plain loops and scikit-learn."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from wavlm_lightning.audio import log_mel
from wavlm_lightning.cli import main
from wavlm_lightning.codebooks import (
    Codebook,
    ContextFeatures,
    FeatureSource,
    LabelSet,
    MfccFeatures,
    fit_kmeans,
    fit_random_codes,
)
from wavlm_lightning.codebooks import projection as projections
from wavlm_lightning.codebooks.projection import Projection
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.workflows.codebook import fit_codebook

NOISE = np.random.default_rng(0).normal(size=20_000).astype("f4") * 0.1


@pytest.mark.parametrize("around", [0, 3])
def test_context_features_as_a_plain_loop(around):
    mel = log_mel(torch.from_numpy(NOISE)[None], 40, hop=160)[0].numpy()
    mel = mel - mel.mean(0)
    rows = [
        [
            mel[min(max(frame + shift, 0), len(mel) - 1)][band]
            for band in range(40)
            for shift in range(-around, around + 1)
        ]
        for frame in range(len(mel))
    ]
    every = ContextFeatures(100, 10 * around)(NOISE)
    assert np.allclose(every, np.array(rows), atol=1e-5)
    assert np.array_equal(ContextFeatures(50, 10 * around)(NOISE), every[::2])


def test_context_features_of_minutes_are_those_of_pieces():
    long = np.random.default_rng(1).normal(size=160 * 6010).astype("f4") * 0.1
    expected = log_mel(torch.from_numpy(long)[None], 40, hop=160)[0].numpy()
    found = ContextFeatures(100, 0, mean_removed=False)(long)
    assert found.shape == expected.shape and np.allclose(found, expected, atol=1e-4)


def test_removing_the_mean_removes_the_level():
    assert np.allclose(ContextFeatures()(NOISE), ContextFeatures()(0.25 * NOISE), atol=1e-3)
    kept = ContextFeatures(mean_removed=False)
    assert not np.allclose(kept(NOISE), kept(0.25 * NOISE), atol=0.5)


def test_mfcc_at_50_hz_are_every_second_frame_and_older_descriptions_stay():
    assert np.array_equal(MfccFeatures(rate=50)(NOISE), MfccFeatures()(NOISE)[::2])
    assert MfccFeatures().describe() == {"kind": "mfcc", "dim": 39, "level_normalised": False}
    assert FeatureSource.from_description(MfccFeatures(rate=50).describe()).rate == 50.0
    with pytest.raises(UserError, match="at 100 or, every second frame, at 50 Hz"):
        MfccFeatures(rate=25)


@pytest.mark.parametrize("samples", [10, 399, 400, 559, 560, 719, 720, 16_000])
@pytest.mark.parametrize("source", [MfccFeatures(rate=50), ContextFeatures(50), ContextFeatures(100, 0)])
def test_frames_are_known_before_anything_is_read(source, samples):
    features = source(NOISE[:samples])
    assert source.frames(np.array([samples])).tolist() == [len(features)]
    assert features.shape[1] == source.describe()["dim"]


@pytest.mark.parametrize("whiten", [False, True])
def test_a_pca_as_scikit_learn(whiten):
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(0)
    frames = (rng.normal(size=(400, 30)) @ rng.normal(size=(30, 30)) + 5).astype("f4")
    expected = PCA(8, whiten=whiten, svd_solver="full").fit_transform(frames)
    found = Projection("pca", 8, whiten).fit(frames, 0)(frames)
    signs = np.sign((found * expected).sum(0))
    assert np.allclose(found * signs, expected, atol=1e-3)


def test_a_random_projection_sees_standardised_features():
    frames = np.random.default_rng(0).normal(size=(200, 12)).astype("f4")
    scale, offset = np.linspace(0.1, 100, 12).astype("f4"), np.arange(12, dtype="f4")
    random = Projection("random", 4, unit_norm=True)
    moved = random.fit(frames * scale + offset, 3)(frames * scale + offset)
    assert np.allclose(random.fit(frames, 3)(frames), moved, atol=1e-3)
    assert np.allclose(np.linalg.norm(moved, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("kind", ["random", "pca"])
def test_random_codes_as_a_plain_loop(tiny, kind):
    corpus, source = Corpus.open(tiny / "pretrain"), ContextFeatures()
    codebook = fit_random_codes(corpus, source, 32, Projection(kind, 16, kind == "pca", unit_norm=True), seed=5)
    assert (codebook.kind, codebook.size, codebook.fitted["seed"]) == (kind, 32, 5)
    frames = source(next(iter(corpus.split("valid").utterances()))[1])
    expected = []
    for frame in frames:
        mapped = np.array([sum((frame - codebook.map.mean) * column) for column in codebook.map.matrix.T])
        mapped /= np.sqrt((mapped**2).sum())
        expected.append(min(range(32), key=lambda code: ((mapped - codebook.centroids[code]) ** 2).sum()))
    assert codebook.assign(frames).tolist() == expected
    assert np.allclose(np.linalg.norm(codebook.centroids, axis=1), 1)
    again, other = (
        fit_random_codes(corpus, source, 32, Projection(kind, 16, kind == "pca", unit_norm=True), seed=seed)
        for seed in (5, 6)
    )
    assert again.sha256 == codebook.sha256 != other.sha256
    with pytest.raises(UserError, match="give 1 to 65536"):
        fit_random_codes(corpus, source, 70_000, Projection(kind, 16))


def test_labels_come_from_the_file_alone(tiny, tmp_path):
    """The map lies beside the centroids, and its hash in the hash of the codebook."""
    shutil.copytree(tiny / "pretrain", tmp_path / "c", ignore=shutil.ignore_patterns("labels"))
    book = tmp_path / "book"
    made = fit_codebook(tmp_path / "c", book, 16, features="context", restarts=1)
    assert made.map.dim == 24 and made.centroids.shape == (16, 24) and made.rate == 50
    assert main(["codebook", "apply", str(book), str(tmp_path / "c"), "--name", "k16"]) == 0
    loaded = Codebook.load(book)
    assert loaded.sha256 == made.sha256
    source = FeatureSource.from_description(loaded.features)
    corpus = Corpus.open(tmp_path / "c")
    rows = LabelSet.open(corpus, "k16", "valid").rows
    for (_, waveform, _), row in zip(corpus.split("valid").utterances(), rows, strict=True):
        assert np.array_equal(row, made.assign(source(waveform)))
    tensors = load_file(book / "centroids.safetensors")
    tensors["map.mean"] = tensors["map.mean"] + 1
    save_file(tensors, book / "centroids.safetensors")
    with pytest.raises(UserError, match="do not belong together"):
        Codebook.load(book)
    del tensors["map.mean"]
    save_file(tensors, book / "centroids.safetensors")
    with pytest.raises(UserError, match=r"map\.mean"):
        Codebook.load(book)


def test_hashes_of_older_codebooks_stay_valid(tmp_path):
    centroids = np.arange(78, dtype="f4").reshape(2, 39)
    codebook = Codebook(centroids, 100.0, MfccFeatures().describe(), {})
    old = [100.0, {"kind": "mfcc", "dim": 39, "level_normalised": False}]
    assert codebook.sha256 == hashlib.sha256(centroids.tobytes() + json.dumps(old, sort_keys=True).encode()).hexdigest()
    codebook.save(tmp_path)
    assert "map" not in json.loads((tmp_path / "codebook.json").read_text())
    assert Codebook.load(tmp_path).map is None


def test_parts_share_one_map(tiny, tmp_path, monkeypatch):
    """The second part and the fit take the map that the first part has kept; the codebook is that of one process."""
    corpus = tiny / "pretrain"
    whole = fit_codebook(corpus, tmp_path / "whole", 8, features="context", restarts=1)
    settings = {"features": "context", "restarts": 1, "memory_gib": 1.0}
    fit_codebook(corpus, tmp_path / "parts", 8, part="1/2", **settings)
    with monkeypatch.context() as patch:
        patch.setattr(projections.Projection, "fit", None)
        fit_codebook(corpus, tmp_path / "parts", 8, part="2/2", **settings)
        assert fit_codebook(corpus, tmp_path / "parts", 8, **settings).sha256 == whole.sha256


def test_the_budget_is_of_what_is_held(tiny):
    """24 numbers a frame behind a PCA, not 280."""
    corpus, source = Corpus.open(tiny / "pretrain"), ContextFeatures()
    frames = int(source.frames(corpus.split("train").samples).sum())
    budget = (frames * 24 * 4 + 1) / 2**30
    assert (
        fit_kmeans(corpus, source, 4, restarts=1, memory_gib=budget, projection=Projection("pca", 24)).fitted["frames"]
        == frames
    )
    assert fit_kmeans(corpus, source, 4, restarts=1, memory_gib=budget).fitted["frames"] < frames


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--features", "context", "--encoder", "random:tiny", "--layer", "1"], "two sources"),
        (["--context-ms", "30"], "--context-ms is for --features context"),
        (["--encoder", "random:tiny", "--layer", "1", "--rate", "50"], "--rate is for --features context or mfcc"),
        (["--features", "context", "--context-ms", "25"], "frames are 10 ms apart"),
        (["--features", "context", "--level-normalised"], "--level-normalised is for MFCC"),
        (["--whiten"], "--whiten needs a PCA"),
        (["--quantiser", "random", "--no-whiten"], "are for a PCA"),
        (["--quantiser", "pca", "--dim", "40"], "these features have 39 numbers a frame"),
        (["--quantiser", "random", "--part", "1/2", "--memory", "1"], "--part is for k-means"),
        (["--encoder", "random:tiny", "--layer", "auto", "--part", "1/2", "--memory", "1"], "find the layer first"),
        (["--encoder", "random:tiny", "--layer", "last"], "give a number, or auto"),
        (["--encoder", "random:tiny", "--layer", "1", "--alignments", "mfa"], "--alignments mfa: only --layer auto"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(tiny, tmp_path, capsys, options, message):
    fit = ["codebook", "fit", str(tiny / "pretrain"), "--out", str(tmp_path / "book"), "--clusters", "4"]
    assert main([*fit, *options]) == 2
    assert message in capsys.readouterr().err
