"""`wavlm units`: one pass for all layers, figures of the measures themselves, going on, refusals in one sentence."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from wavlm_lightning.cli import main
from wavlm_lightning.codebooks import LabelSet
from wavlm_lightning.codebooks.quality import label_quality, quality_of
from wavlm_lightning.data.alignments import Aligned, AlignmentSet, AlignmentWriter, Segment
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.metrics.abx import AbxTask, frames_of, read_items
from wavlm_lightning.metrics.boundaries import segment_boundaries
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.upstreams import Fbank, WavLMUpstream
from wavlm_lightning.workflows.units import layer_frames, measure_units, measuring
from wavlm_lightning.workflows.units.labels import label_measures

ANY = {"unit": "phone", "context": "any"}  # the tiny corpus has no triphone twice


@pytest.fixture(scope="module")
def measured(tiny, tmp_path_factory):
    """FBANK and a label set of the tiny corpus, through the command; the folder, and what was printed is tested below."""
    out = tmp_path_factory.mktemp("units") / "out"
    measure_units(["fbank"], tiny / "pretrain", out, labels=["mfcc100"], **ANY)
    return out, json.loads((out / "units.json").read_text())


def any_context(path):
    return [item._replace(previous="", next="") for item in read_items(path)]


def test_features_are_scored_as_the_metric_scores_them(tiny, measured):
    out, body = measured
    items = any_context(out / "items.item")
    features, places, rate = {}, [], Fbank.frame_rate
    begin = 0
    for key, waveform, _ in Corpus.open(tiny / "pretrain").split("valid").utterances():
        audio = torch.from_numpy(waveform)[None]
        features[key] = (begin, Fbank()(audio, torch.tensor([audio.shape[1]])).hidden[0, 0].numpy())
        begin += len(features[key][1])
    for item in items:
        first, last = frames_of(item.onset, item.offset, rate)
        start, there = features[item.file]
        places.append((start + first, min(last, len(there)) - first))
    starts, lengths = np.array(places).T
    together = np.concatenate([there for _, there in features.values()])
    for mode in ("within", "across"):
        found = AbxTask(items, mode).features_error(together, starts, lengths)
        entry = body["upstreams"]["FBANK"]["layers"]["0"][mode]
        assert entry["error"] == pytest.approx(found.error, abs=1e-9)
        assert (entry["cells"], entry["pairs"]) == (found.cells, len(found.pairs))
    assert body["upstreams"]["FBANK"]["layers"]["0"]["within"]["error"] < 0.4


def test_label_sets_have_the_figures_of_codebook_score(tiny, measured):
    corpus, entry = Corpus.open(tiny / "pretrain"), measured[1]["labels"]["mfcc100"]
    quality = label_quality(corpus, "mfcc100", "valid")
    assert quality is not None
    for name, value in entry["with_silence"].items():
        assert value == pytest.approx(getattr(quality, name), abs=1e-9)
    assert 0 < entry["silence"] < 0.5 and entry["without_silence"]["pnmi"] != entry["with_silence"]["pnmi"]
    rows = LabelSet.open(corpus, "mfcc100", "valid").rows
    changes = sum(int((np.diff(row.astype(int)) != 0).sum()) for row in rows)
    assert entry["segment_ms"]["segments"] == changes + len(rows)
    assert entry["boundaries"]["recall"] > 0.5 and entry["boundaries"]["over_segmentation"] > 1
    assert entry["abx"]["across"]["error"] < 0.5


def test_an_item_file_gives_the_figures_of_the_items_it_was_made_from(tiny, tmp_path, measured, capsys):
    out, body = measured
    file = tmp_path / "again.item"
    file.write_text("\n".join((out / "items.item").read_text().splitlines()[:1] + [
        line.rsplit(" ", 3)[0] + " - - " + line.rsplit(" ", 1)[1]  # no neighbours, as --context any
        for line in (out / "items.item").read_text().splitlines()[1:]
    ]) + "\n")  # fmt: skip
    again = measure_units(["fbank"], tiny / "pretrain", tmp_path / "out", items=file)
    assert again["upstreams"]["FBANK"]["layers"] == body["upstreams"]["FBANK"]["layers"]
    assert again["items"]["file"] == "again.item"


def test_all_layers_come_from_one_pass_and_an_interrupted_one_goes_on(tiny, tmp_path, monkeypatch):
    passes, scored, plain = [], [], WavLMUpstream.layers
    stop = {"pass": 2, "layer": None}

    def counted(self, waveforms, lengths):
        if len(passes) == stop["pass"]:
            raise KeyboardInterrupt
        passes.append(int(lengths[0]))
        return plain(self, waveforms, lengths)

    def layer(self, number):
        if len(scored) == stop["layer"]:
            raise KeyboardInterrupt
        scored.append(number)
        return read(self, number)

    read = layer_frames.LayerFrames.layer
    monkeypatch.setattr(WavLMUpstream, "layers", counted)
    monkeypatch.setattr(layer_frames.LayerFrames, "layer", layer)
    monkeypatch.setattr(layer_frames, "SECONDS", 0.0)

    def run(out, layers=None):
        return measure_units(["E=random:tiny"], tiny / "pretrain", out, layers=layers, **ANY)["upstreams"]["E"]

    encoder = measuring.build("E=random:tiny")
    monkeypatch.setattr(measuring, "build", lambda spec: encoder)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out")
    stop.update({"pass": None, "layer": 2})
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out")
    split = Corpus.open(tiny / "pretrain").split("valid")
    assert sorted(passes) == sorted(split.samples.tolist())  # every utterance once, over both calls
    stop["layer"] = None
    found = run(tmp_path / "out")
    assert scored == [0, 1, 2, 3, 4] and len(passes) == len(split)
    assert not (tmp_path / "out" / "frames").exists() or not list((tmp_path / "out" / "frames").iterdir())
    assert run(tmp_path / "out") == found and len(passes) == len(split)  # nothing is missing: no pass
    assert run(tmp_path / "whole", [0, 3])["layers"] == {layer: found["layers"][layer] for layer in ("0", "3")}
    # Scores do not depend on the layers that are kept, and a further call adds those that are missing.
    assert run(tmp_path / "whole")["layers"] == found["layers"]


def test_alignments_and_two_label_sets_are_compared(tiny, tmp_path, capsys):
    shutil.copytree(tiny / "pretrain", tmp_path / "corpus")
    corpus = Corpus.open(tmp_path / "corpus")
    shutil.copytree(tmp_path / "corpus" / "labels" / "mfcc100", tmp_path / "corpus" / "labels" / "again")
    with AlignmentWriter(corpus, "late", {"kind": "forced", "teacher": "0" * 64, "settings": {}}, ["valid"]) as writer:
        for shard in corpus.split("valid").shards:
            rows = []
            for place in range(shard.utterances):
                phones = shard.meta(place)["phones"]
                late = [0.03 * (0 < k < len(phones)) for k in range(len(phones) + 1)]  # the inner boundaries, by 30 ms
                rows.append(Aligned([Segment(n, s + late[k], e + late[k + 1]) for k, (n, s, e) in enumerate(phones)]))
            writer.write(shard, rows)
    options = [
        "--data",
        str(tmp_path / "corpus"),
        "--out",
        str(tmp_path / "out"),
        "--unit",
        "phone",
        "--context",
        "any",
    ]
    assert main(["units", *options, "--labels", "mfcc100", "again", "--compare", "corpus", "late"]) == 0
    body = json.loads((tmp_path / "out" / "units.json").read_text())
    (pair,) = body["stability"]
    assert (pair["one"], pair["other"], pair["agreement"]) == ("mfcc100", "again", 1.0)
    own, late = body["alignments"]["corpus"], body["alignments"]["late"]
    assert own["same_phone"] == own["boundaries_20ms"]["f1"]["value"] == 1
    assert late["boundaries_40ms"]["f1"]["value"] == 1 and late["boundaries_20ms"]["f1"]["value"] < 0.2
    assert 0.3 < late["same_phone"] < 0.9
    said = capsys.readouterr().out
    assert "Agreement of two label sets" in said and "mfcc100, again  1.000  100.0" in said
    assert "PNMI without silence" in said and "Alignments against 'corpus'" in said


def test_utterances_without_labels_miss_no_boundary(tiny, measured):
    """Labels made from alignments may lack some."""
    corpus = Corpus.open(tiny / "pretrain")
    labels, times = LabelSet.open(corpus, "mfcc100", "valid"), AlignmentSet.open(corpus, "corpus")
    rows = [row if number % 3 else row[:0] for number, row in enumerate(labels.rows)]
    found = label_measures(replace(labels, rows=rows), times, "valid")
    assert found["utterances"] == found["aligned_utterances"] == sum(map(bool, map(len, rows))) < len(rows)
    whole = [phones for phones, row in zip(times.rows("valid"), rows, strict=True) if len(row) and phones]
    assert found["boundaries"]["reference"] == sum(len(segment_boundaries(phones)) for phones in whole)
    assert quality_of(zip(times.rows("valid"), [row[:0] for row in rows], strict=True), labels.rate) is None
    with pytest.raises(UserError, match="no utterance of split 'valid' has labels"):
        label_measures(replace(labels, rows=[row[:0] for row in rows]), times, "valid")


def test_items_of_a_call_that_measured_nothing_are_written_anew(tiny, tmp_path, measured):
    (tmp_path / "items.item").write_text("of other items\n")
    measure_units([], tiny / "pretrain", tmp_path, labels=["mfcc100"], **ANY)
    assert (tmp_path / "items.item").read_bytes() == (measured[0] / "items.item").read_bytes()


def test_a_table_on_the_screen(tiny, measured, capsys):
    out, body = measured
    command = ["units", "fbank", "--data", str(tiny / "pretrain"), "--out", str(out), "--labels", "mfcc100"]
    assert main([*command, "--unit", "phone", "--context", "any"]) == 0
    said = capsys.readouterr().out
    entry = body["upstreams"]["FBANK"]["layers"]["0"]["within"]
    assert f"{100 * entry['error']:.2f} [{100 * entry['low']:.2f}, {100 * entry['high']:.2f}]" in said
    assert "in any context" in said and "chance 50" in said and "compare PNMI" in said


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "nothing to measure"),
        (["fbank", "--context", "any"], "add --unit phone"),
        (["fbank", "--pca", "240", "--unit", "phone", "--context", "any"], "--pca 240: FBANK has 240 dimensions"),
        (["--labels", "mfcc100", "--pca", "8"], "--pca is for features"),
        (["fbank", "mfcc", "FBANK=mfcc"], "another upstream is called 'FBANK'"),
        (["fbank", "--items", "other.item"], "1 of its 1 files, such as 'nobody', are no utterance of split 'valid'"),
        (["fbank", "--alignments", "mfa"], "no finished alignments"),
        (["E=random:tiny", "--layers", "9", "--unit", "phone", "--context", "any"], "E has layers 0 to 4"),
    ],
)
def test_refusals_are_one_sentence(tiny, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.item").write_text(
        "#file onset offset #phone prev-phone next-phone speaker\nnobody 0 0.1 AE K T s\n"
    )
    assert main(["units", *words, "--data", str(tiny / "pretrain"), "--out", "out"]) == 2
    refused = capsys.readouterr().err.strip()
    assert said in refused and "\n" not in refused


def test_other_data_or_another_upstream_in_the_same_folder_is_refused(tiny, measured, tmp_path):
    out, body = measured
    with pytest.raises(UserError, match="figures with other seed"):
        measure_units(["fbank"], tiny / "pretrain", out, seed=1, **ANY)
    with pytest.raises(UserError, match="another upstream called 'FBANK'"):
        measure_units(["FBANK=mfcc"], tiny / "pretrain", out, **ANY)
    (tmp_path / "units.json").write_text(json.dumps({**body, "upstreams": []}))
    with pytest.raises(UserError, match="`upstreams` is no dict"):
        measure_units(["fbank"], tiny / "pretrain", tmp_path, **ANY)


def test_a_projection_is_marked_and_a_full_one_would_change_nothing(tiny, tmp_path, measured, capsys):
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(50, 6)) * [9, 5, 3, 2, 1, 0]).astype(np.float32)
    flat = measuring._projected(features, 5, seed=0)
    assert flat.shape == (50, 5)
    assert np.allclose(flat @ flat.T, features @ features.T, atol=1e-3)  # the angles of 5 dimensions of 6
    body = measure_units(["fbank"], tiny / "pretrain", tmp_path, pca=8, **ANY)
    assert body["pca"] == 8
    assert body["upstreams"]["FBANK"]["layers"] != measured[1]["upstreams"]["FBANK"]["layers"]
