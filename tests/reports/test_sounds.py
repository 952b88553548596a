"""Examples of answers that are audio, in the run folder and on the page."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from wavlm_lightning.audio import SAMPLE_RATE, decode_flac
from wavlm_lightning.reports.examples import FIRST_FORMAT, SECONDS, Example, read_examples, sound, write_examples
from wavlm_lightning.reports.runs import sounds
from wavlm_lightning.reports.runs.report import write_run_report
from wavlm_lightning.reports.theme import with_palette
from wavlm_lightning.system.errors import UserError

NAMES = ("input", "answer", "reference")


def noise(seconds: float, seed: int = 0, level: float = 0.3) -> np.ndarray:
    return level * np.random.default_rng(seed).uniform(-1, 1, round(seconds * SAMPLE_RATE)).astype(np.float32)


def example(key: str, seconds: float = 1.0, seed: int = 0) -> Example:
    cut = {name: sound(noise(seconds, seed + place)) for place, name in enumerate(NAMES)}
    return Example(key, cut, {"input": "SI-SDR 1.25 dB", "answer": f"SI-SDR {seed}.50 dB"})


@pytest.fixture
def runs(card, tmp_path):
    """Two upstreams of a task with examples, and one of a task without."""
    values = {"SE": {"si_sdr": {"value": 9.1, "unit": "dB", "better": "higher", "scale": 1.0, "decimals": 2}}}
    for label, seed in (("FBANK", 3), ("tiny", 7)):
        card("SE", label, metrics=values["SE"], headline="si_sdr", selection=None).write(tmp_path / "runs" / label)
        write_examples(tmp_path / "runs" / label, [example("one", seed=seed), example("two", seed=seed)])
    card("KS", "FBANK").write(tmp_path / "runs" / "ks")
    return tmp_path / "runs"


def test_a_sound_is_cut_and_clipped():
    long = noise(SECONDS + 1, level=2.0)
    heard = decode_flac(sound(long))
    assert len(heard) == SECONDS * SAMPLE_RATE
    assert np.abs(heard - np.clip(long[: len(heard)], -1, 1)).max() < 2 / 32768


def test_what_is_written_is_read_and_replaces_what_was_there(tmp_path):
    assert read_examples(tmp_path) == []
    write_examples(tmp_path, [example("one"), example("two"), example("three")])
    write_examples(tmp_path, [example("four", seed=5)])
    (found,) = read_examples(tmp_path)
    assert (found.key, found.sounds, found.figures) == (
        "four",
        example("four", seed=5).sounds,
        example("four", seed=5).figures,
    )
    assert len(list((tmp_path / "examples").iterdir())) == 4
    (tmp_path / "examples" / "1-answer.flac").unlink()
    with pytest.raises(UserError, match=r"not readable as examples|no such file; it should be examples"):
        read_examples(tmp_path)


@pytest.mark.slow
def test_the_page_plays_input_answers_and_reference(runs, tmp_path):
    page, problems = write_run_report([runs], tmp_path / "report", lambda card: "not official")
    assert problems == []
    content = page.read_text()
    section = content.split("<h2>Listen</h2>")[1].split("<h2>")[0]
    players = re.findall(
        r'<audio controls preload="metadata" aria-label="([^"]+)" src="data:audio/flac;base64,', section
    )
    assert players == [f"{name} of {key}" for key in ("one", "two") for name in ("input", "FBANK", "tiny", "reference")]
    assert section.count("<svg") == 8 and "tiny: SI-SDR 7.50 dB" in section and "input: SI-SDR 1.25 dB" in section
    text = (tmp_path / "report" / "report.md").read_text()
    for link in re.findall(r"\]\((\S+flac)\)", text):
        assert (tmp_path / "report" / link).is_file()
    assert text.count(".flac)") == 8 and (tmp_path / "report" / "sounds-2.png").is_file()
    again, _ = write_run_report([runs], tmp_path / "report", lambda card: "not official")
    assert again.read_text() == content


@pytest.mark.usefixtures("unrendered")
def test_a_page_has_a_limit(runs, tmp_path, monkeypatch):
    four = [*example("one", seed=3).sounds.values(), example("one", seed=7).sounds["answer"]]
    monkeypatch.setattr(
        sounds, "MOST_BYTES", 2 * sum(map(len, four))
    )  # as text they take a third more, twice do not fit
    page, problems = write_run_report([runs], tmp_path / "report", lambda card: "not official")
    assert page.read_text().count("<audio") == 4 and not (tmp_path / "report" / "sounds-2.png").exists()
    assert len(problems) == 1 and problems[0].startswith("1 examples of sound are left out")


@pytest.mark.usefixtures("unrendered")
def test_each_task_has_its_first_example_before_any_has_its_second(runs, card, tmp_path, monkeypatch):
    card("VC", "FBANK").write(tmp_path / "runs" / "vc")
    write_examples(tmp_path / "runs" / "vc", [example("said", seed=1)])
    one = sum(map(len, example("one", seed=3).sounds.values()))
    monkeypatch.setattr(sounds, "MOST_BYTES", 4 * one)
    page, problems = write_run_report([runs], tmp_path / "report", lambda card: "not official")
    played = re.findall(r'aria-label="answer of (\w+)"|aria-label="FBANK of (\w+)"', page.read_text())
    assert ["".join(each) for each in played] == ["one", "said"] and "1 examples of sound" in problems[0]


@pytest.mark.usefixtures("unrendered")
def test_sounds_have_any_names_and_several_answers(card, tmp_path):
    """What is given stands around the answers of each upstream, once."""
    for label, seed in (("FBANK", 3), ("tiny", 7)):
        card("SS", label).write(tmp_path / "runs" / label)
        names = ("mixture", "part 1", "part 2", "speaker 1")
        cut = {name: sound(noise(0.5, seed + place)) for place, name in enumerate(names)}
        parts = Example("both", cut, {"part 1": f"SI-SDR {seed} dB"}, ("part 1", "part 2"))
        write_examples(tmp_path / "runs" / label, [parts])
        (again,) = read_examples(tmp_path / "runs" / label)
        assert (again.sounds, list(again.sounds), again.answers) == (cut, list(names), ("part 1", "part 2"))
    page, problems = write_run_report([tmp_path / "runs"], tmp_path / "report", lambda card: "not official")
    titles = re.findall(r'<audio[^>]+aria-label="([^"]+) of both"', page.read_text())
    parts = [f"{label}: part {number}" for label in ("FBANK", "tiny") for number in (1, 2)]
    assert titles == ["mixture", *parts, "speaker 1"] and not problems


def test_folders_of_the_first_format_are_read(tmp_path):
    write_examples(tmp_path, [example("old")])
    listed = json.loads((tmp_path / "examples" / "examples.json").read_text())
    del listed["examples"][0]["answers"]
    (tmp_path / "examples" / "examples.json").write_text(json.dumps({**listed, "format": FIRST_FORMAT}))
    (found,) = read_examples(tmp_path)
    assert found.answers == ("answer",) and found.sounds == example("old").sounds


def test_a_picture_with_a_palette_is_the_same_picture():
    shades = colormaps["magma"](np.random.default_rng(0).random((60, 80)), bytes=True)
    Image.fromarray(shades).save(data := io.BytesIO(), format="PNG")
    svg = f'<image href="data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"/>'
    small = with_palette(svg)
    kept = np.asarray(Image.open(io.BytesIO(base64.b64decode(small.split(",")[1].split('"')[0]))).convert("RGB"))
    assert len(small) < len(svg) / 2
    assert np.abs(kept.astype(int) - shades[..., :3]).mean() < 3


@pytest.mark.usefixtures("unrendered")
def test_what_cannot_be_read_is_a_sentence(runs, tmp_path):
    (runs / "tiny" / "examples" / "examples.json").write_text("{")
    page, problems = write_run_report([runs], tmp_path / "report", lambda card: "not official")
    assert len(problems) == 1 and "not readable as examples" in problems[0]
    assert page.read_text().count("<audio") == 6
