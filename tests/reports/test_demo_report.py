import re
import struct
from html.parser import HTMLParser

import pytest

from wavlm_lightning.reports.demo_report import write_demo_report
from wavlm_lightning.reports.demo_text import DemoSummary, duration

SUMMARY = DemoSummary(
    corpus="mini", minutes=55.4, speakers=80, clusters=100, pnmi=0.358, purity=0.431, unigram=0.039,
    parameters=2_104_320, steps=4341, audio_seconds=86_820,
    stages={"corpus": 21.3, "codebook": 8.2, "pre-training": 301.0},
    machine={"CPU": "a < b & c", "threads": "2"}, verdict="The demo's gate is met.",
)  # fmt: skip
COMMANDS = [
    ("Your own speech, as `wav`:", "wavlm prepare folder DIR --out data/mine\nwavlm fit -c x.yaml && echo <ok>")
]
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Checker(HTMLParser):
    """Fails on tags that do not nest; keeps what a test asks about."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.addresses, self.ids, self.tags = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href", "srcset")]
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parse(path):
    checker = Checker()
    checker.feed(path.read_text(encoding="utf-8"))
    checker.close()
    assert checker.open == []
    return checker


def png_size(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


@pytest.fixture(scope="module")
def report(cards, metrics_csv, tmp_path_factory):
    return write_demo_report(tmp_path_factory.mktemp("demo"), cards, [metrics_csv], SUMMARY, COMMANDS)


def test_the_page_is_one_file_that_asks_for_nothing(report):
    page = parse(report.html)
    content = report.html.read_text(encoding="utf-8")
    assert set(page.addresses) <= {value for value in page.addresses if value.startswith(("#", "data:"))}
    assert "http" not in content and "@import" not in content
    assert not re.search(r"url\((?!#)", content)
    assert not {"script", "iframe", "object", "img"} & set(page.tags)
    assert len(page.ids) == len(set(page.ids)), "two drawings share an element id"
    # Every clip path and marker that a drawing refers to is on the page.
    assert {value[1:] for value in page.addresses if value.startswith("#")} <= set(page.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", content)) <= set(page.ids)
    assert len(content) < 300_000


def test_drawings_follow_the_page_in_light_and_dark(report):
    content = report.html.read_text(encoding="utf-8")
    drawings = " ".join(re.findall(r"<svg.*?</svg>", content, flags=re.DOTALL))
    assert content.count("<svg") == 8, "three curves, three tasks, two heat maps"
    assert "prefers-color-scheme: dark" in content and 'name="viewport"' in content
    used = set(re.findall(r"var\((--[\w-]+)\)", drawings))
    assert {"--ink", "--muted", "--line", "--series-1", "--series-2", "--series-3", "--font"} <= used
    assert all(f"{name}:" in content for name in used)


def test_every_figure_is_on_both_pages(report, cards):
    text = " ".join(" ".join(parse(report.html).text).split())
    markdown = report.markdown.read_text(encoding="utf-8")
    verdict = "The pre-trained encoder beats random weights on 3 of 3 tasks and FBANK on 2 of 3; FBANK is ahead on SID."
    expected = [verdict, *(f"{card.value:.1f}" for card in cards), "55 min", "2.1 M", "4,341", "24 h 07 min"]
    expected += [
        "5 min 30 s",
        "PNMI 0.358",
        "phone purity 0.431",
        "commonest label 3.9 %",
        "torch 2.11.0",
        "80 speakers",
    ]
    expected += ["The demo's gate is met.", "4.0 times the 4.0 %", "±4.5 points", "20 in each of the 5 cells"]
    expected += ["wavlm fit -c x.yaml", "closed set", "phone error rate", "KS: pre-trained 0.001"]
    for words in expected:
        assert words in text, words
        assert words in markdown, words
    assert "a < b & c" in text and "echo <ok>" in text and "echo <ok>" in markdown
    for path in (report.curves, report.results, report.layers):
        assert f"]({path.name})" in markdown


def test_pictures_are_real_and_large_enough(report):
    for path in (report.curves, report.results, report.layers):
        width, height = png_size(path)
        assert width >= 1200 and height >= 300
        assert path.stat().st_size > 10_000


def test_the_same_input_gives_the_same_page(report, cards, metrics_csv, tmp_path):
    again = write_demo_report(tmp_path, cards, [metrics_csv], SUMMARY, COMMANDS)
    assert again.html.read_text() == report.html.read_text()


def test_pieces_that_are_missing_are_named(card, tmp_path):
    (tmp_path / "curves.png").write_bytes(b"left by an earlier run")
    report = write_demo_report(tmp_path, [card("PR", "pre-trained", 43.7)], [tmp_path / "no.csv"], DemoSummary(), [])
    text = " ".join(parse(report.html).text)
    assert "nothing to compare yet" in text
    assert "No pre-training metrics yet" in text
    assert "Not measured yet: KS on pre-trained" in text
    assert report.curves is None and not (tmp_path / "curves.png").exists()
    assert report.results is not None and report.layers is not None
    assert "](curves.png)" not in report.markdown.read_text()


def test_nothing_at_all_is_still_a_page(tmp_path):
    report = write_demo_report(tmp_path / "new", [], [], DemoSummary(), [])
    assert "No layer weights yet" in " ".join(parse(report.html).text)
    assert (report.curves, report.results, report.layers) == (None, None, None)


def test_other_tasks_and_upstreams_find_their_place(card, tmp_path):
    cards = [card("ASR", "pre-trained", 12.3), card("ASR", "HuBERT <x>", 9.8)]
    report = write_demo_report(tmp_path, cards, [], DemoSummary(), [])
    text = " ".join(parse(report.html).text)
    assert "ASR" in text and "HuBERT <x>" in text and "9.8" in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.44, "0.4 s"), (42, "42 s"), (59.7, "1 min 00 s"), (303, "5 min 03 s"), (86_820, "24 h 07 min")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words
