"""`wavlm report`: the page holds the cards' own figures, stands alone, and is the same each time."""

from __future__ import annotations

import csv
import html
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from wavlm_lightning.metrics.superb import TASKS, partial_score, published_entries, rank, score
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.reports.runs.curves import PretrainingFacts
from wavlm_lightning.reports.runs.report import write_run_report
from wavlm_lightning.reports.superb_table import METRIC_OF
from wavlm_lightning.system.errors import UserError

VOID = {"meta", "link", "br", "img", "hr", "input"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LOWER = {"PR", "ASR", "SF_CER", "SV", "SD"}


class Checker(HTMLParser):
    """Fails on tags that do not nest; keeps what a test asks about."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.addresses, self.ids, self.tags = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [(tag, value) for name, value in attributes if name in ("src", "href", "srcset")]
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


def not_official(card):
    return "these are the synthetic mini corpora"


def official(card):
    return None


def board_card(card, task, label, values, **changes):
    """A card of one of SUPERB's tasks with the board's values."""
    metrics = {
        METRIC_OF[column]: {"value": values[column], "unit": "%", "better": "lower" if column in LOWER else "higher"}
        for column in TASKS[task]
    }
    return card(task, label, metrics=metrics, headline=METRIC_OF[TASKS[task][0]], **changes)


def full_row(runs, card, label, values, tasks=TASKS):
    for task in tasks:
        board_card(card, task, label, values).write(runs / label / task.lower())


@pytest.fixture(scope="module")
def runs(cards, metrics_csv, tmp_path_factory):
    """Three upstreams, a search of learning rates, curves, a pre-training run and the stages of a demo."""
    folder = tmp_path_factory.mktemp("runs")
    for card in cards:
        place = folder / "heads" / f"{card.task}-{card.upstream['label']}".lower().replace(" ", "-")
        card.write(place)
        if card.task == "KS":
            (place / "curves" / "version_0").mkdir(parents=True)
            rows = "".join(f"0,{step},{0.3 + step / 1000}\n" for step in range(9, 100, 10))
            (place / "curves" / "version_0" / "metrics.csv").write_text("epoch,step,valid/accuracy\n" + rows)
    sid = next(card for card in cards if card.task == "SID" and card.upstream["label"] == "pre-trained")
    tried = {1e-4: 30.0, 1e-3: 54.2, 1e-2: 12.0}
    for rate, value in tried.items():
        one = ResultCard(**{**sid.__dict__, "learning_rate": rate})
        one.metrics = {"accuracy": {**sid.metrics["accuracy"], "value": value}}
        one.write(folder / "heads" / "sid-pre-trained" / f"learning-rate-{rate!r}")
    figures = {repr(rate): {"valid": None, "test": value} for rate, value in tried.items()}
    details = {"run": "learning-rate-0.001", "learning_rates": figures}
    ResultCard(**{**sid.__dict__, "details": details}).write(folder / "heads" / "sid-pre-trained")
    (folder / "pretrain" / "curves" / "version_0").mkdir(parents=True)
    shutil.copy(metrics_csv, folder / "pretrain" / "curves" / "version_0" / "metrics.csv")
    (folder / "stages.json").write_text('{"seconds": {"corpus": 20.0, "pre-training": 303.0}}')
    return folder


@pytest.fixture(scope="module")
def report(runs, tmp_path_factory):
    page, problems = write_run_report([runs], tmp_path_factory.mktemp("report"), not_official)
    assert problems == []
    return page


def words(page):
    checker = Checker()
    checker.feed(page.read_text(encoding="utf-8"))
    checker.close()
    assert checker.open == []
    return " ".join(" ".join(checker.text).split())


def rows(page, heading):
    """Name -> cells of the first table below a heading."""
    section = page.read_text(encoding="utf-8").split(f"<h2>{heading}</h2>")[1].split("<h2>")[0]
    found = {}
    for row in re.findall(r"<tr>(<th scope=\"row\">.*?)</tr>", section, flags=re.DOTALL):
        cells = [re.sub(r"<small>.*?</small>|<[^>]+>", "", cell) for cell in re.split(r"<td[^>]*>", row)]
        found.setdefault(html.unescape(cells[0]), cells[1:])
    return found


def test_the_page_stands_alone(report):
    content = report.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(content)
    for tag, address in checker.addresses:
        assert address.startswith(("#", "data:")) or tag == "a", (tag, address)
        assert "://" not in address and not address.startswith("//")
    assert checker.tags.count("script") == 1, "the one that sorts tables; the page reads the same without it"
    assert not {"iframe", "object", "img"} & set(checker.tags)
    assert "@import" not in content and not re.search(r"url\((?!#)", content)
    assert len(checker.ids) == len(set(checker.ids)), "two drawings share an element id"
    assert set(re.findall(r"url\(#([^)]+)\)", content)) <= set(checker.ids)
    variables = set(re.findall(r"var\((--[\w-]+)\)", content))
    assert all(f"{name}:" in content for name in variables) and "prefers-color-scheme: dark" in content


def test_every_link_leads_to_its_card(report, cards):
    checker = Checker()
    checker.feed(report.read_text(encoding="utf-8"))
    links = [address for tag, address in checker.addresses if tag == "a"]
    assert len(links) == len(cards)
    found = [ResultCard.read(report.parent / link) for link in links]
    assert {(card.task, card.upstream["label"]) for card in found} == {(c.task, c.upstream["label"]) for c in cards}
    assert all(card.command in words(report) for card in cards)


def test_figures_are_the_cards(report, cards):
    table = rows(report, "Results")
    columns = ["PR", "KS", "SID"]
    for card in cards:
        assert table[card.upstream["label"]][columns.index(card.task)] == f"{card.value:.2f}"
    text, markdown = words(report), (report.parent / "report.md").read_text(encoding="utf-8")
    assert table["test utterances"][:3] == ["480"] * 3
    for expected in (
        "pre-trained against random weights: ahead on 3, level on 0, behind on 0 of 3 metrics.",
        "Against FBANK: ahead on 2 (PR PER, KS accuracy); level on 0; behind on 1 (SID accuracy).",
        "so they have no interval and are not tested",
        "PR, KS, SID on mini, test: 480 utterances, 8 min 00 s",
        "not recorded on these cards",
        "Not comparable with the published rows",
        "5 min 03 s",
        "How much the learning rate matters",
        "How the heads learned",
        "Codebook perplexity",
    ):
        assert expected in text, expected
        assert expected in markdown or expected == "Codebook perplexity", expected
    with (report.parent / "report.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == 12 and sum(int(line["counted"]) for line in lines) == 9
    for line in lines:
        card = ResultCard.read(report.parent / line["card"])
        assert float(line["value"]) == card.metrics[line["metric"]]["value"] and line["task"] == card.task


def test_the_same_runs_give_the_same_bytes(report, runs, tmp_path):
    # At the same depth, or the links to the cards would rightly differ.
    other = report.parent.with_name("again")
    write_run_report([runs, runs / "heads"], other, not_official)
    for path in sorted(report.parent.iterdir()):
        assert path.read_bytes() == (other / path.name).read_bytes(), path.name
    shutil.rmtree(other)


@pytest.mark.usefixtures("unrendered")
def test_full_official_rows_get_score_and_rank_in_their_place(card, tmp_path):
    values = dict(published_entries()[3].values)
    values["PR"], values["QbE"] = 3.9, 7.5
    full_row(tmp_path / "runs", card, "mine", values)
    full_row(tmp_path / "runs", card, "part", values, tasks=("PR", "KS", "SF"))
    page, _ = write_run_report([tmp_path / "runs"], tmp_path / "report", official)
    table = rows(page, "Among SUPERB&#x27;s published rows")
    own = score(values)
    assert table["mine"][:2] == [str(own), f"{rank(values):.2f}"]
    assert table["part"][:2] == ["–", "–"]
    ordered = [int(cells[0]) for cells in table.values() if cells[0] != "–"]
    assert ordered == sorted(ordered, reverse=True) and len(ordered) == 19
    three = {column: values[column] for column in ("PR", "KS", "SF_F1", "SF_CER")}
    text = words(page)
    assert "part has 3 of 10 tasks" in text and f"part ours {partial_score(three):.0f}" in text
    assert "rim: 1000 points" in text
    assert "Not comparable" not in text


@pytest.mark.usefixtures("unrendered")
def test_seeds_become_mean_and_deviation(card, tmp_path):
    for seed, value in enumerate((50.0, 53.0, 56.0)):
        card("KS", f"full-{seed}", value, upstream={**card("KS", f"full-{seed}").upstream, "sha256": str(seed)}).write(
            tmp_path / "runs" / str(seed)
        )
    card("KS", "base", 40.0, seed=1).write(tmp_path / "runs" / "base1")
    card("KS", "base", 41.0, seed=2).write(tmp_path / "runs" / "base2")
    page, problems = write_run_report([tmp_path / "runs"], tmp_path / "alone", not_official)
    assert {"full-0", "full-1", "full-2"} <= set(rows(page, "Results"))
    assert rows(page, "Results")["base"][0] == "40.50 ± 0.71" and rows(page, "Results")["base"][3] == "2"
    assert len(problems) == 1 and "--group-seeds" in problems[0]
    page, problems = write_run_report([tmp_path / "runs"], tmp_path / "grouped", not_official, group_seeds=True)
    assert rows(page, "Results")["full"][0] == "53.00 ± 3.00" and "n = 3" in words(page) and problems == []
    # Two rows are left, so they are set side by side.
    difference = rows(page, "base against full")["KS accuracy ↑"]
    assert difference[2:] == ["-12.50", "-23.6 %", "–", "behind"]


@pytest.mark.usefixtures("unrendered")
def test_two_upstreams_are_compared_on_request(report, runs, tmp_path):
    some = [runs / "heads" / f"{task}-{label}" for task in ("pr", "sid") for label in ("fbank", "pre-trained")]
    page, _ = write_run_report(some, tmp_path, not_official, compare=("FBANK", "pre-trained"))
    table = rows(page, "pre-trained against FBANK")
    assert table["PR PER ↓"] == ["61.50", "43.70", "-17.80", "-28.9 %", "–", "ahead"]
    assert table["SID accuracy ↑"] == ["67.80", "54.20", "-13.60", "-20.1 %", "–", "behind"]
    assert "pre-trained against FBANK" not in words(report) and "Against random weights" in words(report)
    with pytest.raises(UserError, match="no upstream is called 'nobody'; there are"):
        write_run_report([runs], tmp_path, not_official, compare=("FBANK", "nobody"))


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize(
    ("sid", "sentence"),
    [
        (10.0, "Against FBANK: ahead on 3 (PR PER, KS accuracy, SID accuracy); level on 0; behind on 0."),
        (54.2, "Against FBANK: ahead on 2 (PR PER, KS accuracy); level on 1 (SID accuracy); behind on 0."),
        (None, "Against FBANK: ahead on 2 (PR PER, KS accuracy); level on 0; behind on 0."),
    ],
)
def test_the_leader_is_compared_with_each_of_the_others(cards, card, tmp_path, sid, sentence):
    some = [one for one in cards if (one.task, one.upstream["label"]) != ("SID", "FBANK")]
    some += [] if sid is None else [card("SID", "FBANK", sid)]
    for number, one in enumerate(sorted(some, key=lambda one: one.upstream["label"])):
        one.write(tmp_path / "runs" / str(number))
    page, _ = write_run_report([tmp_path / "runs"], tmp_path / "report", not_official)
    assert sentence in words(page)
    assert "Against random weights: ahead on PR PER, KS accuracy, SID accuracy." in words(page)


def test_pictures_of_an_earlier_report_are_deleted(card, tmp_path):
    (tmp_path / "curves.png").write_bytes(b"left by an earlier report")
    card().write(tmp_path / "runs")
    write_run_report([tmp_path / "runs"], tmp_path, not_official)
    assert not (tmp_path / "curves.png").exists() and "](curves.png)" not in (tmp_path / "report.md").read_text()


@pytest.mark.usefixtures("unrendered")
def test_several_pretraining_runs_have_a_row_each(metrics_csv, tmp_path):
    for name in ("one", "two"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        shutil.copy(metrics_csv, tmp_path / "runs" / name)
    (tmp_path / "runs" / "one" / "config.yaml").write_text("trainer: {precision: 16-mixed}\n")
    facts = {"one": PretrainingFacts(corpus="LibriSpeech", minutes=57_600, parameters=94_000_000)}
    page, _ = write_run_report(
        [tmp_path / "runs"],
        tmp_path / "report",
        not_official,
        describe=lambda run: facts.get(run.name, PretrainingFacts()),
    )
    table = rows(page, "Setup")
    assert table["one"] == ["LibriSpeech, 57,600 min", "–", "94,000,000 parameters", "–", "16-mixed"]
    assert table["two"] == ["–"] * 5


@pytest.mark.usefixtures("unrendered")
def test_what_is_left_out_is_said_once_each(card, tmp_path):
    runs = tmp_path / "runs"
    card("KS").write(runs / "a")
    shutil.copytree(runs / "a", runs / "copy")
    (runs / "broken").mkdir()
    (runs / "broken" / "card.json").write_text("{")
    card("KS", value=12.0, steps=10, created="2025-01-01T00:00:00+00:00").write(runs / "short")
    card("KS", value=13.0, created="2025-01-01T00:00:00+00:00").write(runs / "older")
    (runs / "untested").mkdir()
    (runs / "untested" / "metrics.csv").write_text("step,valid/accuracy\n1,0.5\n")
    page, problems = write_run_report([runs], tmp_path / "report", not_official)
    assert [problem.count("\n") for problem in problems] == [0] * 5
    for part in (
        "not readable as a result card",
        "is a copy of",
        "with several settings",
        "was run again",
        "no result card",
    ):
        assert sum(part in problem for problem in problems) == 1, part
        assert part in words(page)
    assert rows(page, "Results")["pre-trained"][0] == "59.70"


def test_nothing_to_report_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no result card and no pre-training curves"):
        write_run_report([tmp_path], tmp_path / "report", not_official)
    assert not (tmp_path / "report").exists()
    with pytest.raises(UserError, match="does not exist"):
        write_run_report([tmp_path / "nowhere"], tmp_path / "report", not_official)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overflows_in_a_browser(report, width, tmp_path):
    """The page in a frame of the width of a phone and of a desk, which windows cannot be made as narrow as."""
    content = html.escape(report.read_text(encoding="utf-8"), quote=True)
    measure = (
        "const f=document.querySelector('iframe');f.onload=()=>{const r=f.contentDocument.documentElement;"
        "const w=f.contentWindow;document.title='';document.body.dataset.result=[r.scrollWidth,w.innerWidth,"
        "w.performance.getEntriesByType('resource').length,r.querySelectorAll('svg').length].join(' ')}"
    )
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"<!doctype html><body><iframe style='border:0;width:{width}px;height:900px' srcdoc=\"{content}\"></iframe>"
        f"<script>{measure}</script>",
        encoding="utf-8",
    )
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=1400,1000", "--virtual-time-budget=5000", "--dump-dom", frame.as_uri()]
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=True)
    scrolled, inner, requests, drawings = map(int, re.search(r'data-result="([\d ]+)"', done.stdout)[1].split())
    assert inner == width and scrolled <= inner
    assert requests == 0 and drawings > 8
