"""Fitting, labelling, and refusing labels that do not belong."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from sklearn.metrics import pairwise_distances_argmin

from wavlm_lightning.cli import main
from wavlm_lightning.codebooks import (
    Codebook,
    FeatureSource,
    LabelSet,
    LayerFeatures,
    LayerStack,
    MfccFeatures,
    fit_kmeans,
)
from wavlm_lightning.codebooks.labelling import label_corpus
from wavlm_lightning.codebooks.quality import label_quality
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.shards import with_other_records
from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.workflows.corpus.check import check


@pytest.fixture
def labelled(tiny, tmp_path):
    """A copy of the labelled corpus that a test may damage."""
    shutil.copytree(tiny / "pretrain", tmp_path / "pretrain")
    return Corpus.open(tmp_path / "pretrain")


def test_nearest_centroid_as_scikit_learn():
    rng = np.random.default_rng(0)
    codebook = Codebook(rng.normal(size=(50, 39)).astype("f4"), 100.0, {"kind": "mfcc", "level_normalised": False}, {})
    features = rng.normal(size=(400, 39)).astype("f4")
    assert (codebook.assign(features) == pairwise_distances_argmin(features, codebook.centroids)).all()


def test_labels_are_the_codebook_applied(tiny):
    corpus, codebook = Corpus.open(tiny / "pretrain"), Codebook.load(tiny / "codebook")
    labels = LabelSet.open(corpus, "mfcc100", "train")
    assert (labels.size, labels.rate, labels.codebook_sha256) == (20, 100.0, codebook.sha256)
    source = FeatureSource.from_description(codebook.features)
    for (_, waveform, _), row in zip(corpus.split("train").utterances(), labels.rows, strict=True):
        assert len(row) == (len(waveform) - 400) // 160 + 1
        assert (row == codebook.assign(source(waveform))).all()


def test_other_utterances_of_a_linked_shard_are_labelled_again(tiny, tmp_path):
    """A new selection of pseudo-labels may take as many utterances of the same tar, of the same lengths."""
    codebook, (shard, *_) = Codebook.load(tiny / "codebook"), Corpus.open(tiny / "pr").split("train").shards

    def linked(places):
        writer = CorpusWriter(tmp_path / "linked", "linked", "CC0", {"recipe": "test"})
        link = tmp_path / "linked" / "train-000000.tar"
        writer.add_shard("train", with_other_records(link, shard, places, [{"text": "A"}] * len(places)))
        return writer.finish({})

    assert label_corpus(linked([0, 1]), codebook, "k") == 1
    assert label_corpus(linked([0, 1]), codebook, "k") == 0
    other = linked([2, 3])
    with pytest.raises(UserError, match="made from another version of train-000000"):
        LabelSet.open(other, "k", "train")
    assert label_corpus(other, codebook, "k") == 1
    source = FeatureSource.from_description(codebook.features)
    for (_, waveform, _), row in zip(
        other.split("train").utterances(), LabelSet.open(other, "k", "train").rows, strict=True
    ):
        assert (row == codebook.assign(source(waveform))).all()


def test_clusters_know_phones(tiny):
    quality = label_quality(Corpus.open(tiny / "pretrain"), "mfcc100", "train")
    assert quality is not None
    assert quality.pnmi > 0.2  # 20 clusters of one minute; random labels reach 0.03
    assert quality.unigram < quality.phone_purity


def test_level_normalised_features_do_not_hear_the_level():
    waveform = np.random.default_rng(0).normal(size=16_000).astype("f4") * 0.1
    same = MfccFeatures(level_normalised=True)
    assert np.allclose(same(waveform), same(0.25 * waveform), atol=1e-3)
    plain = MfccFeatures()
    assert not np.allclose(plain(waveform), plain(0.25 * waveform), atol=0.5)


def test_memory_budget_bounds_what_is_used(tiny):
    corpus = Corpus.open(tiny / "pretrain")
    all_frames = fit_kmeans(corpus, MfccFeatures(), 4, restarts=1).fitted["frames"]
    budget = all_frames * 39 * 4 / 2 / 2**30
    fitted = fit_kmeans(corpus, MfccFeatures(), 4, restarts=1, memory_gib=budget).fitted
    assert fitted["frames"] * 39 * 4 <= budget * 2**30
    lengths = [(samples - 400) // 160 + 1 for samples in corpus.split("train").samples]
    drawn = np.random.default_rng(0).permutation(10)
    assert sum(lengths[number] for number in drawn[: fitted["utterances"] + 1]) * 39 * 4 > budget * 2**30


@pytest.mark.parametrize(("share", "wanted"), [(1.0, 10), (0.5, 5), (0.3, 3), (0.31, 4), (0.001, 1)])
def test_a_share_of_the_utterances_is_drawn(tiny, share, wanted):
    """Rounded up, as the published script does."""
    corpus = Corpus.open(tiny / "pretrain")
    assert len(corpus.split("train")) == 10
    fitted = fit_kmeans(corpus, MfccFeatures(), 4, restarts=1, share=share).fitted
    assert (fitted["share"], fitted["utterances"], fitted["wanted_utterances"]) == (share, wanted, wanted)
    lengths = [(samples - 400) // 160 + 1 for samples in corpus.split("train").samples]
    drawn = np.random.default_rng(0).permutation(10)[:wanted]
    assert fitted["frames"] == sum(lengths[number] for number in drawn)


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_an_impossible_share(tiny, share):
    with pytest.raises(UserError, match="must be above 0 and at most 1"):
        fit_kmeans(Corpus.open(tiny / "pretrain"), MfccFeatures(), 4, share=share)


def test_same_seed_same_codebook(tiny):
    corpus = Corpus.open(tiny / "pretrain")
    first, second = (fit_kmeans(corpus, MfccFeatures(), 8, restarts=1, seed=3) for _ in range(2))
    assert first.sha256 == second.sha256


def test_layer_features(tmp_path):
    torch.manual_seed(0)
    encoder = WavLM(WavLMConfig.tiny()).eval()
    encoder.save_pretrained(tmp_path / "encoder")
    waveform = np.random.default_rng(0).normal(size=20_000).astype("f4") * 0.1
    source = LayerFeatures(tmp_path / "encoder", 2)
    with torch.no_grad():
        expected = encoder(torch.from_numpy(waveform)[None]).hidden[2, 0].numpy()
    assert source.rate == 50.0
    assert np.allclose(source(waveform), expected, atol=1e-5)
    assert FeatureSource.from_description(json.loads(json.dumps(source.describe()))).rate == 50.0
    WavLM(WavLMConfig.tiny()).save_pretrained(tmp_path / "encoder")
    with pytest.raises(UserError, match="not the encoder this codebook was fitted on"):
        FeatureSource.from_description(source.describe())
    with pytest.raises(UserError, match="layers 0 to 4, not 5"):
        LayerFeatures(tmp_path / "encoder", 5)


def test_bf16_is_a_key_of_the_codebook(tmp_path):
    torch.manual_seed(0)
    WavLM(WavLMConfig.tiny()).save_pretrained(tmp_path / "encoder")
    waveform = np.random.default_rng(0).normal(size=20_000).astype("f4") * 0.1
    exact = LayerFeatures(tmp_path / "encoder", 2)
    quick = FeatureSource.from_description(LayerFeatures(tmp_path / "encoder", 2, precision="bf16").describe())
    assert "precision" not in exact.describe() and quick.describe() == exact.describe() | {"precision": "bf16"}
    difference = np.abs(quick(waveform) - exact(waveform)).max() / np.abs(exact(waveform)).max()
    assert 1e-5 < difference < 0.1 and quick(waveform).dtype == np.float32
    with pytest.raises(UserError, match="must be fp32 or bf16, not 'fp8'"):
        LayerFeatures(tmp_path / "encoder", 2, precision="fp8")


def test_the_mean_of_a_layer_over_an_utterance_is_removed(tmp_path):
    torch.manual_seed(0)
    WavLM(WavLMConfig.tiny()).save_pretrained(tmp_path / "encoder")
    waveform = np.random.default_rng(0).normal(size=40_000).astype("f4") * 0.1
    plain = LayerFeatures(tmp_path / "encoder", 2, chunk_seconds=1.0)
    less = LayerFeatures(tmp_path / "encoder", 2, chunk_seconds=1.0, mean_removed=True)
    assert "mean_removed" not in plain.describe() and less.describe() == plain.describe() | {"mean_removed": True}
    less = FeatureSource.from_description(json.loads(json.dumps(less.describe())))
    less.chunk = plain.chunk  # which a codebook does not keep
    expected = plain(waveform).astype("f8")
    # Of the whole utterance, although its pieces are encoded one by one
    assert np.allclose(less(waveform), expected - expected.mean(0), atol=1e-5)
    assert less(waveform[:100]).shape == (0, 192)
    stack = LayerStack(tmp_path / "encoder", [1, 2], chunk_seconds=1.0, mean_removed=True)
    assert np.array_equal(stack(waveform)[:, stack.columns(2)], less(waveform))
    stack = FeatureSource.from_description(stack.describe())
    assert isinstance(stack, LayerStack) and stack.mean_removed


@pytest.mark.parametrize("samples", [10, 399, 400, 559, 560, 16_000, 31_999, 32_000, 32_100, 32_400, 50_000])
def test_frames_are_known_before_anything_is_read(tmp_path, samples):
    WavLM(WavLMConfig.tiny()).save_pretrained(tmp_path)
    waveform = np.random.default_rng(0).normal(size=samples).astype("f4") * 0.1
    for source in (MfccFeatures(), LayerFeatures(tmp_path, 0, chunk_seconds=1.0)):
        features = source(waveform)
        assert source.frames(np.array([samples])).tolist() == [len(features)]
        assert features.shape[1] == source.describe()["dim"]


def test_labels_of_a_long_utterance_stay_in_time(tmp_path):
    """Pieces overlap by what a frame reaches beyond its begin, so that none is left out and all that follow come early."""
    torch.manual_seed(0)
    WavLM(WavLMConfig.tiny()).save_pretrained(tmp_path)
    loudness = np.repeat(np.random.default_rng(1).uniform(0.01, 1, 300), 640)  # changes every second frame
    waveform = (loudness * np.random.default_rng(0).normal(size=len(loudness))).astype("f4")
    whole, pieces = LayerFeatures(tmp_path, 0), LayerFeatures(tmp_path, 0, chunk_seconds=1.0)
    expected, found = whole(waveform), pieces(waveform)
    assert found.shape == expected.shape == (599, 192)
    late = slice(549, 599)  # after eleven pieces

    def likeness(shift: int) -> float:
        return float(np.corrcoef(np.roll(found, shift, 0)[late].ravel(), expected[late].ravel())[0, 1])

    assert max(range(-15, 16), key=likeness) == 0 and likeness(0) > 0.9


def test_pieces_of_a_recording_are_normalised_with_all_of_it(tmp_path, monkeypatch):
    """HuBERT's script normalises before it cuts; alone, a quiet piece would be as loud as a loud one."""
    WavLM(replace(WavLMConfig.tiny(), normalize_waveform=True)).save_pretrained(tmp_path)
    source, heard = LayerFeatures(tmp_path, 0, chunk_seconds=1.0), []
    front_end = source.encoder.feature_extractor
    front_end.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0][0]))
    level = np.repeat(np.array([1.0, 0.01], "f4"), 16_000)
    waveform = 0.2 + level * np.random.default_rng(0).normal(size=32_000).astype("f4")
    assert source(waveform).shape == (99, 192)
    expected = torch.from_numpy((waveform - waveform.mean()) / waveform.std())
    assert len(heard) == 2 and torch.allclose(torch.cat([heard[0][:16_000], heard[1]]), expected, atol=1e-3)


def rewrite(corpus, change):
    """Change the tensors or the metadata of the first label file."""
    from safetensors import safe_open

    path = next((corpus.directory / "labels" / "mfcc100").glob("train-*.safetensors"))
    with safe_open(path, framework="np") as file:
        meta = dict(file.metadata())
    tensors = load_file(path)
    change(tensors, meta)
    save_file(tensors, path, metadata=meta)


def halve(tensors, meta):
    tensors["labels"], tensors["starts"] = tensors["labels"][::2], tensors["starts"] // 2


def drop_one(tensors, meta):
    tensors["starts"] = tensors["starts"][:-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (halve, "labels for .* s at 100 labels/s"),
        (drop_one, "labels for 9 utterances, but the shard holds 10"),
        (lambda t, m: m.update(rate="50.0"), "its rate is 50.0 labels/s, labels.json says 100"),
        (lambda t, m: m.update(shard_sha256="0"), "made from another version of train-000000.tar"),
        (lambda t, m: m.update(codebook_sha256="0"), "made by another codebook"),
    ],
)
def test_labels_that_do_not_belong_are_refused_with_the_cure(labelled, change, message):
    LabelSet.open(labelled, "mfcc100", "train")
    rewrite(labelled, change)
    with pytest.raises(UserError, match=message) as caught:
        LabelSet.open(labelled, "mfcc100", "train")
    assert "wavlm codebook apply" in str(caught.value)


def flip_a_label(tensors, meta):
    tensors["labels"] = tensors["labels"].copy()
    tensors["labels"][5] ^= 1


def exchange_two(tensors, meta):
    tensors["starts"] = tensors["starts"].copy()
    tensors["starts"][1] += 5  # less than the 0.1 s that rounding may cost


def out_of_range(tensors, meta):
    """As an older version would have written it: without a hash."""
    del meta["content_sha256"]
    tensors["labels"] = tensors["labels"].copy()
    tensors["labels"][5] = 2052


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (flip_a_label, "its labels are not those that were written"),
        (exchange_two, "its labels are not those that were written"),
        (out_of_range, "it holds label 2052 of a codebook of 20"),
    ],
)
def test_labels_altered_behind_their_hash_are_seen_at_the_first_read_and_made_again(tiny, labelled, change, message):
    path = next((labelled.directory / "labels" / "mfcc100").glob("train-*.safetensors"))
    whole = path.read_bytes()
    rewrite(labelled, change)
    rows = LabelSet.open(labelled, "mfcc100", "train").rows  # only heads are read here
    with pytest.raises(UserError, match=message) as caught:
        rows[0]
    assert path.name in str(caught.value) and "wavlm codebook apply" in str(caught.value)
    faults = check(labelled).faults
    assert any(path.stem in line and message in line for line in faults), faults
    assert label_corpus(labelled, Codebook.load(tiny / "codebook"), "mfcc100") == 1  # this one again, and no other
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 999}, "labels of a codebook of 20, labels.json says 999"),
        ({"size": float("nan")}, "its size is nan"),
        ({"size": True}, "its size is True"),
        ({"rate": float("inf")}, "its rate is inf"),
        ({"rate": "x"}, "its rate is 'x'"),
        ({"codebook_sha256": None}, "it names no codebook"),
    ],
)
def test_a_labels_json_that_contradicts_its_labels_is_refused(labelled, values, message):
    path = labelled.directory / "labels" / "mfcc100" / "labels.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(UserError, match=message):
        LabelSet.open(labelled, "mfcc100", "train")


@pytest.mark.parametrize("content", ["", "[]", "{}", "[" * 100_000, "3"])
def test_a_labels_json_that_is_none_is_refused(labelled, content):
    path = labelled.directory / "labels" / "mfcc100" / "labels.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"labels\.json"):
        LabelSet.open(labelled, "mfcc100", "train")


def test_command_line(tiny, tmp_path, capsys):
    shutil.copytree(tiny / "pretrain", tmp_path / "c", ignore=shutil.ignore_patterns("labels"))
    book = tmp_path / "book"
    assert main(["codebook", "fit", str(tmp_path / "c"), "--clusters", "8", "--restarts", "1", "--out", str(book)]) == 0
    apply = ["codebook", "apply", str(book), str(tmp_path / "c"), "--name", "k8"]
    assert main(apply) == 0
    assert "PNMI" in capsys.readouterr().out
    assert main(apply) == 0
    assert "0 shards labelled now" in capsys.readouterr().out
    other = tmp_path / "other"
    assert (
        main(["codebook", "fit", str(tmp_path / "c"), "--clusters", "9", "--restarts", "1", "--out", str(other)]) == 0
    )
    assert main(["codebook", "apply", str(other), *apply[3:]]) == 2
    assert "labels of another codebook" in capsys.readouterr().err
    few = ["--clusters", "8", "--restarts", "1", "--share", "0.5", "--out", str(tmp_path / "few")]
    assert main(["codebook", "fit", str(tmp_path / "c"), *few]) == 0
    assert "of 5 of 10 utterances" in capsys.readouterr().out
    few[-1] = str(tmp_path / "fewer")
    assert main(["codebook", "fit", str(tmp_path / "c"), *few, "--memory", "1e-4"]) == 0
    assert "5 utterances were wanted; a larger --memory holds more of them" in capsys.readouterr().out
    assert main(["codebook", "fit", str(tmp_path / "c"), "--clusters", "60000", "--out", str(tmp_path / "many")]) == 2
    assert "cannot make 60000 clusters" in capsys.readouterr().err


def test_a_codebook_is_not_written_over_by_another(tiny, tmp_path, capsys, monkeypatch):
    """Without it no further corpus gets the labels of a run; the same command again does no harm."""
    book, corpus = tmp_path / "book", str(tiny / "pretrain")
    fit = ["codebook", "fit", corpus, "--jobs", "1", "--out", str(book)]
    assert main([*fit, "--clusters", "8", "--restarts", "1"]) == 0
    before = {path: path.read_bytes() for path in book.iterdir()}
    assert main([*fit, "--clusters", "8", "--restarts", "1"]) == 0
    assert main([*fit, "--clusters", "8", "--restarts", "2"]) == 2  # known when it is made
    assert "holds another codebook (not the same sha256), which labels may be of" in capsys.readouterr().err
    assert main(["codebook", "phones", corpus, "--out", str(book)]) == 2
    assert "holds another codebook" in capsys.readouterr().err
    monkeypatch.setattr("wavlm_lightning.workflows.codebook.fit_and_hold", None)  # before hours of features
    for other, what in {"--clusters 9": "size", "--clusters 8 --features context": "features"}.items():
        assert main([*fit, *other.split()]) == 2
        assert f"holds another codebook (not the same {what}), which" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in book.iterdir() if path.is_file()}


@pytest.mark.parametrize("options", [["--clusters", "0"], ["--clusters", "70000"], ["--restarts", "0"]])
def test_impossible_numbers_are_refused_before_features(tiny, tmp_path, capsys, options):
    command = ["codebook", "fit", str(tiny / "pretrain"), "--out", str(tmp_path / "book"), *options]
    try:
        status = main(command)
    except SystemExit as end:  # from argparse
        status = end.code
    said = capsys.readouterr().err
    assert status == 2 and ("whole number of 1 or more" in said or "--clusters 70000: labels are numbers of 16" in said)
    assert not (tmp_path / "book").exists()
