"""Soft labels: posteriors and temperature against scikit-learn and SciPy, files beside hard labels, and what is refused."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.special import softmax
from sklearn.metrics import pairwise_distances

from wavlm_lightning.cli import main
from wavlm_lightning.codebooks import Codebook, FeatureSource, LabelSet, label_corpus
from wavlm_lightning.codebooks.job_shards import JobShard
from wavlm_lightning.codebooks.soft_labels import SoftSetting, fitting_temperature, soft_labels
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.pretraining import PretrainingData
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.workflows.corpus.check import check


@pytest.fixture
def corpus(tiny, tmp_path):
    """A copy of the labelled corpus that a test may change."""
    shutil.copytree(tiny / "pretrain", tmp_path / "pretrain")
    return Corpus.open(tmp_path / "pretrain")


@pytest.fixture(scope="module")
def labelled(tiny, tmp_path_factory):
    """The same for all tests, with the label set `soft`, four soft labels a frame; read only."""
    folder = tmp_path_factory.mktemp("soft") / "pretrain"
    shutil.copytree(tiny / "pretrain", folder)
    label_corpus(Corpus.open(folder), Codebook.load(tiny / "codebook"), "soft", soft=4)
    return Corpus.open(folder)


@pytest.fixture
def soft(labelled, tmp_path):
    """A copy of it."""
    shutil.copytree(labelled.directory, tmp_path / "soft" / "pretrain")
    return Corpus.open(tmp_path / "soft" / "pretrain")


def test_posteriors_are_those_of_all_clusters():
    rng = np.random.default_rng(0)
    codebook = Codebook(rng.normal(size=(30, 12)).astype("f4"), 100.0, {}, {})
    features = rng.normal(size=(200, 12)).astype("f4")
    classes, weights = soft_labels(codebook, features, SoftSetting(5, 1.7))
    posteriors = softmax(-(pairwise_distances(features, codebook.centroids) ** 2) / 1.7, axis=1)
    expected = np.argsort(-posteriors, axis=1)[:, :5]
    assert (classes == expected).all() and classes.dtype == np.uint16 and weights.dtype == np.float16
    assert np.allclose(weights, np.take_along_axis(posteriors, expected, 1), rtol=1e-3, atol=1e-7)
    assert (classes[:, 0] == codebook.assign(features)).all()


def test_of_equal_clusters_the_hard_label_comes_first():
    """A codebook with a cluster many times over: argmin takes the first, a partition any of them."""
    centroids = np.repeat(np.eye(3, dtype="f4"), 20, axis=0)
    codebook = Codebook(centroids, 100.0, {}, {})
    features = np.random.default_rng(0).normal(size=(50, 3)).astype("f4")
    classes, weights = soft_labels(codebook, features, SoftSetting(3, 1.0))
    assert (classes[:, 0] == codebook.assign(features)).all() and (classes[:, 0] % 20 == 0).all()
    assert all(len(set(row)) == 3 for row in classes.tolist()) and (weights > 0).all()


def test_the_temperature_is_the_mean_margin(tiny):
    corpus, codebook = Corpus.open(tiny / "pretrain"), Codebook.load(tiny / "codebook")
    source = FeatureSource.from_description(codebook.features)
    frames = np.concatenate([source(waveform) for _, waveform, _ in corpus.split("train").utterances()])
    squared = np.sort(pairwise_distances(frames.astype("f8"), codebook.centroids.astype("f8")) ** 2, axis=1)
    expected = (squared[:, 1] - squared[:, 0]).mean()
    assert fitting_temperature(codebook, corpus, "train") == pytest.approx(expected, rel=1e-3)


def test_hard_labels_stay_as_they_are(labelled):
    soft = labelled
    hard, both = LabelSet.open(soft, "mfcc100", "train"), LabelSet.open(soft, "soft", "train")
    assert hard.soft is None and hard.soft_rows is None and both.soft == SoftSetting(4, both.soft.temperature)
    assert "soft" not in hard.codebook() and both.codebook()["soft"]["labels"] == 4
    for one, other, (classes, weights) in zip(hard.rows, both.rows, both.soft_rows, strict=True):
        assert one.tobytes() == other.tobytes() == classes[:, 0].tobytes()
        assert classes.shape == weights.shape == (len(one), 4)
        assert (np.diff(weights.astype("f4"), axis=1) <= 0).all() and (weights.sum(1, dtype="f4") < 1.002).all()
    # A reader that knows nothing of soft labels finds the tensors that it reads, and their places at the beginning.
    for path in (soft.directory / "labels" / "soft").glob("*.safetensors"):
        plain = load_file(soft.directory / "labels" / "mfcc100" / path.name)
        assert all(np.array_equal(load_file(path)[name], plain[name]) for name in ("labels", "starts"))
        header = json.loads(path.read_bytes()[8:4096].split(b"}}", 1)[0] + b"}}")
        assert header["starts"]["data_offsets"][0] == 0


def test_parts_make_the_same_files(tiny, soft):
    codebook, folder = Codebook.load(tiny / "codebook"), soft.directory / "labels"
    for number in range(2):
        label_corpus(soft, codebook, "parts", part=JobShard(number, 2), soft=4)
    for path in (folder / "soft").glob("*.safetensors"):
        assert path.read_bytes() == (folder / "parts" / path.name).read_bytes()
    assert label_corpus(soft, codebook, "parts", soft=4) == 0


def test_the_command_says_what_they_hold(tiny, corpus, capsys):
    arguments = ["codebook", "apply", str(tiny / "codebook"), str(corpus.directory), "--name", "s", "--soft", "3"]
    assert main([*arguments, "--temperature", "250"]) == 0
    files = [load_file(path) for path in (corpus.directory / "labels" / "s").glob("*.safetensors")]
    held = np.concatenate([each["soft_weights"] for each in files]).sum(1, dtype="f8").mean()
    said = f"3 soft labels a frame at temperature 250 hold {100 * held:.1f} % of the posterior"
    assert said in capsys.readouterr().out
    usage = json.loads((corpus.directory / "labels" / "s" / "usage.json").read_text())
    assert usage["soft_share"] == pytest.approx(held)
    assert main(arguments) == 0  # goes on with the temperature that is there
    assert "0 shards labelled now" in capsys.readouterr().out


def test_damage_is_noticed(soft):
    path = next((soft.directory / "labels" / "soft").glob("train-*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # in the last tensor
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged .*its labels are not those that were written"):
        LabelSet.open(soft, "soft", "train").rows[0]
    assert [each for each in check(str(soft.directory)).faults if "damaged" in each and path.name in each]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 2.0}, "--temperature belongs to soft labels; give --soft K"),
        ({"soft": 1}, "--soft must be from 2 to 20, the clusters of the codebook, not 1"),
        ({"soft": 21}, "--soft must be from 2 to 20, the clusters of the codebook, not 21"),
        ({"soft": 4, "temperature": 0.0}, "--temperature must be above 0, not 0"),
        ({"soft": 4, "temperature": float("nan")}, "--temperature must be above 0, not nan"),
        ({}, "soft: has labels with --soft 4 --temperature .*; give the same, choose another --name"),
        ({"soft": 3}, "soft: has labels with --soft 4"),
        ({"soft": 4, "temperature": 3.0}, "soft: has labels with --soft 4"),
        ({"name": "mfcc100", "soft": 4}, "mfcc100: has labels without soft ones"),
    ],
)
def test_what_is_refused(tiny, labelled, options, message):
    with pytest.raises(UserError, match=message):
        label_corpus(labelled, Codebook.load(tiny / "codebook"), **{"name": "soft", **options})


def test_phones_have_no_soft_labels(tiny, labelled):
    codebook = replace(Codebook.load(tiny / "codebook"), kind="phones")
    with pytest.raises(UserError, match="--soft: a codebook of phones has no distances to its classes"):
        label_corpus(labelled, codebook, "phones", soft=4)


@pytest.mark.parametrize(
    "entry", [None, 4, {"labels": 4}, {"labels": 99, "temperature": 1.0}, {"labels": 4, "temperature": 0}]
)
def test_a_damaged_description_is_said(soft, entry):
    path = soft.directory / "labels" / "soft" / "labels.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "soft": entry}))
    with pytest.raises(
        UserError, match=r"labels\.json: its (soft labels|temperature) .*|labels\.json: it has 99 soft labels"
    ):
        LabelSet.open(soft, "soft", "train")


def test_files_of_other_softness_are_refused(tiny, soft):
    folder, codebook = soft.directory / "labels", Codebook.load(tiny / "codebook")
    label_corpus(soft, codebook, "other", soft=4, temperature=7.0)
    path = next(folder.glob("other/train-*.safetensors"))
    shutil.copy(path, folder / "soft" / path.name)
    with pytest.raises(UserError, match=r"its soft labels are not those of labels\.json; remove the file and run"):
        LabelSet.open(soft, "soft", "train")
    label_corpus(soft, codebook, "soft", soft=4)  # makes this file again
    joined = LabelSet.join([LabelSet.open(soft, "soft", split) for split in ("train", "valid")])
    assert len(joined.soft_rows) == len(joined.rows) and len(joined.soft_rows[len(joined.rows) - 1][0]) > 0
    with pytest.raises(
        UserError, match=r"one corpus has soft labels .* another one .*the same --soft and --temperature"
    ):
        LabelSet.join([LabelSet.open(soft, name, "train") for name in ("soft", "other")])


def test_crops_carry_them(labelled):
    """At the frames of the hard labels, as shares of what the file holds."""
    labels = ["mfcc100", "soft"]
    source = PretrainingData(str(labelled.directory), labels, batch_seconds=5.0, max_seconds=2.0, min_seconds=1.0)
    source.setup("fit")
    loader = source.train_dataloader()
    crops, items = loader.dataset, next(iter(loader.sampler))
    batch = crops[items]
    assert list(batch.soft_labels) == ["soft"]
    found = batch.soft_labels["soft"]
    assert (
        found.classes.shape == (*batch.labels["soft"].shape, 4)
        and (found.classes[..., 0] == batch.labels["mfcc100"]).all()
    )
    assert np.allclose(found.weights.sum(-1), 1.0, atol=1e-6)
    for row, (number, _) in enumerate(items):
        classes, weights = crops.labels["soft"].soft_rows[int(crops.numbers[number])]
        shares = weights.astype("f4") / weights.astype("f4").sum(1, keepdims=True)
        have = [
            (tuple(c), tuple(w)) for c, w in zip(found.classes[row].tolist(), found.weights[row].tolist(), strict=True)
        ]
        wanted = [(tuple(c), tuple(w)) for c, w in zip(classes.tolist(), shares.tolist(), strict=True)]
        starts = [
            s
            for s in range(0, len(wanted), 2)
            if [each[0] for each in wanted[s::2][: len(have)]] == [h[0] for h in have]
        ]
        assert any(np.allclose([w for _, w in wanted[s::2][: len(have)]], [w for _, w in have]) for s in starts)
