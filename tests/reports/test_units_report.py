"""Measures of `wavlm units` in a report: curves over layers, tables with their own figures, damaged files left out."""

import json

import pytest

from wavlm_lightning.reports.runs.report import write_run_report
from wavlm_lightning.system.errors import UserError


def rate(error):
    return {"error": error, "low": error - 0.02, "high": error + 0.02, "cells": 40, "pairs": 12}


def units_body(**changes):
    layers = {str(n): {"within": rate(0.2 - 0.01 * n), "across": rate(0.3 - 0.01 * n)} for n in range(11)}
    quality = {"phone_purity": 0.5, "cluster_purity": 0.1, "pnmi": 0.4321, "unigram": 0.05, "perplexity": 80.0}
    f1 = {"value": 0.6, "low": 0.55, "high": 0.65}
    boundaries = {"precision": 0.5, "recall": 0.75, "f1": f1, "r_value": 0.41, "over_segmentation": 0.5}
    labels = {
        "in_use": 97, "size": 100, "segment_ms": {"mean": 41.0}, "with_silence": quality, "boundaries": boundaries,
        "abx": {"within": rate(0.25)},
    }  # fmt: skip
    forced = {"utterances": 3, "same_phone": 0.83, "boundaries_20ms": boundaries, "boundaries_40ms": boundaries}
    body = {
        "format": "wavlm_lightning/units/1",
        "corpus": {"name": "mini", "sha256": "0", "split": "valid", "utterances": 60},
        "items": {"unit": "triphone", "alignments": "corpus", "items": 3034, "sha256": "1", "context": "within"},
        "times": {"name": "corpus", "sha256": "2"}, "pca": None, "seed": 0,
        "upstreams": {
            "pre-trained": {"layers": layers},
            "FBANK": {"layers": {"0": {"within": rate(0.06), "across": rate(0.13)}}},
        },
        "labels": {"mfcc100": labels},
        "stability": [{"one": "mfcc100", "other": "second", "nmi": 0.7, "agreement": 0.55}],
        "alignments": {"forced": forced},
    }  # fmt: skip
    return {**body, **changes}


@pytest.fixture
def write(tmp_path):
    def write(name, **changes):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "units.json").write_text(json.dumps(units_body(**changes)))
        return folder

    return write


def official(card):
    return None


def test_curves_and_tables_of_units_alone(write, tmp_path):
    page, problems = write_run_report([write("units")], tmp_path / "report", official)
    assert problems == [] and (tmp_path / "report" / "units-0.png").is_file()
    text, html = (tmp_path / "report" / "report.md").read_text(), page.read_text()
    assert "Phones in layers and labels, without training" in text and "12 layers and 1 label set measured" in text
    assert "10.00 %" in text and "layer 10, [8.0, 12.0]" in text  # the best of the encoder, and where
    assert "| FBANK | 6.00 %" in text
    assert "| PNMI without silence | - |" in text  # of a file that lacks it
    assert "0.432" in text and "60.0 % [55.0, 65.0]" in text and "97 of 100" in text
    assert "55.0 %" in text and "83.0 %" in text and "Dashed" in text
    assert html.count("ABX within speakers") >= 2 and "What it cost" not in html


@pytest.mark.usefixtures("unrendered")
@pytest.mark.slow
def test_only_equal_data_and_settings_share_a_picture(write, tmp_path):
    first = write("a")
    write("b")
    write("c", pca=64)
    runs = first.parent
    write_run_report([runs], tmp_path / "report", official)
    text = (tmp_path / "report" / "report.md").read_text()
    assert "pre-trained (a)" in text and "pre-trained (b)" in text and "pre-trained (c)" not in text
    assert "projected on 64 directions first" in text
    assert sorted(path.name for path in (tmp_path / "report").glob("units-*.png")) == ["units-0.png", "units-1.png"]
    for folder in "bc":
        (runs / folder / "units.json").unlink()
    write_run_report([runs], tmp_path / "report", official)  # the pictures of the earlier report are gone
    assert [path.name for path in (tmp_path / "report").glob("units-*.png")] == ["units-0.png"]


@pytest.mark.usefixtures("unrendered")
def test_folders_of_one_name_do_not_replace_each_other(write, tmp_path):
    for name in ("a/units", "b/units"):
        write(name)
    write_run_report([tmp_path / "runs"], tmp_path / "report", official)
    text = (tmp_path / "report" / "report.md").read_text()
    assert all(f"{name} ({folder}/units)" in text for name in ("pre-trained", "mfcc100") for folder in "ab")


@pytest.mark.usefixtures("unrendered")
def test_a_damaged_file_is_named_and_the_rest_is_shown(write, tmp_path):
    folder = write("a")
    write("b", labels={"x": {}})
    _, problems = write_run_report([folder.parent], tmp_path / "report", official)
    assert len(problems) == 1 and "b/units.json" in problems[0] and "run `wavlm units` again" in problems[0]
    with pytest.raises(UserError, match="no result card"):
        write_run_report([folder.parent / "b"], tmp_path / "other", official)
