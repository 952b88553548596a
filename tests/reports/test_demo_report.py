"""What `wavlm demo` hands to the run report, and what stands in its run folders, is on the page."""

from __future__ import annotations

import re
import shutil
import struct
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from wavlm_lightning.reports.runs.curves import PretrainingFacts
from wavlm_lightning.reports.runs.report import write_run_report
from wavlm_lightning.workflows.demo.stages import NOTES, next_commands

FACTS = PretrainingFacts(
    corpus="mini/pretrain, espeak-ng 1.52", minutes=55.4, speakers=80, clusters=100, pnmi=0.358, purity=0.431,
    unigram=0.039, parameters=2_104_320,
)  # fmt: skip
COMMANDS = [*next_commands(Path("runs/demo")), ("Your own speech, as `wav`:", "wavlm fit -c x.yaml && echo <ok>")]
CONFIG = """
trainer: {precision: bf16-mixed, devices: 1, accumulate_grad_batches: 2}
data: {init_args: {batch_seconds: 10, corpus: corpus, labels: mfcc100}}
"""


class Words(HTMLParser):
    def __init__(self):
        super().__init__()
        self.text = []

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def demo(cards, metrics_csv, tmp_path_factory):
    """Folder of a demo with its report."""
    out = tmp_path_factory.mktemp("demo")
    for card in cards:
        chance = {"chance": 8.3} if card.main["better"] == "higher" else {}
        metrics = {card.headline: {**card.main, **chance}}
        replace(card, metrics=metrics).write(out / "heads" / f"{card.task}-{card.upstream['label']}")
    (out / "pretrain" / "curves" / "version_0").mkdir(parents=True)
    shutil.copy(metrics_csv, out / "pretrain" / "curves" / "version_0" / "metrics.csv")
    (out / "pretrain" / "config.yaml").write_text(CONFIG)
    (out / "stages.json").write_text('{"seconds": {"corpus": 21.3, "codebook": 8.2, "pre-training": 301.0}}')
    write_run_report(
        [out],
        out,
        lambda card: "these are the synthetic mini corpora",
        describe=lambda run: FACTS,
        setup=[("machine", "a < b & c, 2 threads"), ("device", "CPU")],
        commands=COMMANDS,
        notes=NOTES,
    )
    return out


def test_every_fact_of_the_demo_is_on_both_pages(demo, cards):
    parser = Words()
    parser.feed((demo / "report.html").read_text(encoding="utf-8"))
    text, markdown = " ".join(" ".join(parser.text).split()), (demo / "report.md").read_text(encoding="utf-8")
    facts = {
        "verdict": ["ahead on 3, level on 0, behind on 0 of 3 metrics", "behind on 1 (SID accuracy)"],
        "results": [*(f"{card.value:.2f}" for card in cards), "8.30", "480", "PR is phoneme recognition"],
        "key facts": ["55 min", "80 speakers", "2.1 M", "201", "1 h 07 min", "5 min 30 s"],
        "pre-training": ["After 201 updates", "16.0 % of the hidden frames", "4.0 times the 4.0 %", "Perplexity"],
        "layers": ["Which layers the tasks listen to", "20 in each of the 5 cells"],
        "stages": ["21 s", "8.2 s", "5 min 01 s"],
        "corpus": ["mini/pretrain, espeak-ng 1.52, 55 min, 80 speakers"],
        "codebook": ["100 clusters, PNMI 0.358, phone purity 0.431, commonest label 3.9 %"],
        "encoder": ["2,104,320 parameters", "2,100,000", "50", "abababababab"],
        "machine": ["2 threads", "bf16-mixed", "CPU", "torch 2.11.0", "python 3.11.2"],
        "commands": ["wavlm export runs/demo/pretrain", "wavlm prepare folder", "wavlm recipe tiny", "runs/mine-ks"],
        "notes": [*NOTES, "phone error rate", "whose class is right", "±4.5 points", "Seeds of the heads: 1.", "valid"],
        "rates": ["learning rate 0.001, seed 1"],
    }
    for topic, expected in facts.items():
        for words in expected:
            assert words in text, (topic, words)
            assert words in markdown, (topic, words)
    assert "a < b & c" in text and "echo <ok>" in text and "echo <ok>" in markdown


def test_pictures_keep_their_names_and_are_large_enough(demo):
    markdown = (demo / "report.md").read_text(encoding="utf-8")
    for name in ("curves", "results", "layers"):
        data = (demo / f"{name}.png").read_bytes()
        width, height = struct.unpack(">II", data[16:24])
        assert data[:8] == b"\x89PNG\r\n\x1a\n" and width >= 1200 and height >= 250 and len(data) > 10_000
        assert f"]({name}.png)" in markdown


def test_drawings_take_the_colours_of_the_page(demo):
    content = (demo / "report.html").read_text(encoding="utf-8")
    drawings = " ".join(re.findall(r"<svg.*?</svg>", content, flags=re.DOTALL))
    assert content.count("<svg") == 11, "three tasks, three radars, two heat maps, three curves"
    used = set(re.findall(r"var\((--[\w-]+)\)", drawings))
    assert {"--ink", "--muted", "--line", "--series-1", "--series-2", "--series-3", "--font"} <= used
    assert 'name="viewport"' in content and len(content) < 400_000
