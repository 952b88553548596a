"""Bold, verdicts and decimals: what the results of the utterances, or the digits alone, support."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.reports.runs.report import write_run_report
from wavlm_lightning.reports.significance import Measured, difference, leader, over_seeds, p_text, small_tests
from wavlm_lightning.reports.utterances import UtteranceResults, write_results
from wavlm_lightning.system.errors import UserError


def right(share: float, size: int = 400, shift: int = 0) -> UtteranceResults:
    """A classifier that answers a share of the utterances right, beginning with the one at `shift`."""
    errors = np.roll((np.arange(size) < share * size).astype(float), shift)
    keys = tuple(f"u{number}" for number in range(size))
    told = {"task": "KS", "metric": "accuracy", "better": "higher", "scale": 100.0, "corpus": "mini", "split": "test"}
    return UtteranceResults(**told, keys=keys, errors=errors, counts=np.ones(size))


def measured(share: float, size: int = 400, shift: int = 0, **more: float) -> Measured:
    return Measured({"value": 100 * share, "unit": "%", "better": "higher", **more}, right(share, size, shift))


def test_a_difference_that_the_test_does_not_support_is_level():
    assert difference(measured(0.5), measured(0.6)).verdict == "ahead"
    assert difference(measured(0.6), measured(0.5)).verdict == "behind"
    close = difference(measured(0.5), measured(0.505, shift=200))
    assert close.verdict == "level" and close.p_value > 0.05 and close.value == pytest.approx(0.5)
    assert leader({"a": measured(0.5), "b": measured(0.6)}) == "b"
    assert leader({"a": measured(0.5), "b": measured(0.505, shift=200)}) is None


def test_seeds_and_other_test_data_make_level():
    a, b = replace(measured(0.5), deviation=12.0), replace(measured(0.6), deviation=9.0)
    assert difference(a, b)[1::3] == ("level", "within the spread of seeds")
    assert difference(measured(0.5, 400), measured(0.6, 100)).utterances == 100
    other = replace(measured(0.6), utterances=replace(right(0.6), split="other"))
    assert difference(measured(0.5), other)[1::3] == ("level", "not the same test data")


def test_a_figure_of_fewer_utterances_is_compared_on_those_that_both_have_heard():
    """The row that heard the hard half alone has the lower figure, and is ahead where both were tested."""
    hard = replace(right(0.5, 200, shift=100), keys=right(0.5).keys[200:])
    rows = {"all": measured(0.6), "half": replace(measured(0.5), utterances=hard), "random": measured(0.2)}
    found = difference(rows["all"], rows["half"])
    assert (found.verdict, found.value, found.utterances) == ("ahead", pytest.approx(30), 200)
    assert found.why == "on the 200 utterances that both have heard" and found.ends[0] > 0
    assert difference(rows["half"], rows["all"]).verdict == "behind"
    assert leader(rows) == "half" and leader({name: rows[name] for name in ("all", "random")}) == "all"


def test_f1_of_one_test_is_compared_by_its_digits():
    """What it divides by differs between two systems on the same recordings."""
    results = replace(right(0.5), metric="overlap_f1")
    longer = replace(results, counts=2 * results.counts)
    one, other = (replace(measured(share), utterances=each) for share, each in ((0.5, results), (0.6, longer)))
    assert difference(one, other)[1::3] == ("ahead", "not tested")


def test_at_chance_nothing_leads():
    """With results the interval decides, without them the digits."""
    assert leader({"a": measured(0.06, chance=8.3), "b": measured(0.1, chance=8.3)}) is None
    assert leader({"a": measured(0.06, chance=8.3), "b": measured(0.3, chance=8.3)}) == "b"
    plain = [Measured({"value": v, "unit": "%", "better": "higher", "chance": 8.3}) for v in (7.0, 8.304, 9.0)]
    assert leader({"a": plain[0], "b": plain[1]}) is None and leader({"a": plain[0], "b": plain[2]}) == "b"
    assert difference(plain[0], plain[1]).why == "both at chance"


@pytest.mark.parametrize(
    ("size", "text", "interval"), [(40, "50", "[35,\u00a065]"), (400, "50.0", "[45.2,\u00a055.0]"), (0, "50.00", "")]
)
def test_decimals_follow_the_interval(size, text, interval):
    figure = measured(0.5, size) if size else Measured({"value": 50.0, "unit": "%", "better": "higher"})
    assert (figure.text, figure.interval_text) == (text, interval)


def test_the_mean_over_seeds_needs_the_same_utterances():
    mean = over_seeds([right(0.5), right(0.6)])
    assert mean is not None and mean.errors.mean() == pytest.approx(0.55)
    assert over_seeds([right(0.5), right(0.5, 100)]) is None
    for change in ({"metric": "f1"}, {"corpus": "noisy"}, {"split": "valid"}, {"scale": 1.0}, {"task": "IC"}):
        assert over_seeds([right(0.5), replace(right(0.6), **change)]) is None


def test_small_test_sets_and_wide_intervals_are_named_with_the_rule():
    words = small_tests(
        [("KS", 40, [measured(0.5, 40)]), ("SID", 300, [measured(0.5, 300)]), ("IC", 4000, [measured(0.5, 4000)])]
    )
    assert "KS (40 utterances)" in words and "wide intervals: SID" in words and "IC" not in words and "200" in words
    assert small_tests([("IC", 4000, [measured(0.5, 4000)])]) == ""


def test_p_values_have_the_digits_of_a_permutation_test():
    assert [p_text(p) for p in (None, 0.0005, 0.0123, 0.456)] == ["", "< 0.001", "0.012", "0.46"]


@pytest.fixture
def three(card, tmp_path):
    """Folder of three upstreams on one task: one ahead of random weights, one level with them."""
    for label, share, shift in (("mine", 0.6, 0), ("random:base", 0.5, 0), ("FBANK", 0.505, 0)):
        own: ResultCard = card("KS", label, 100 * share, rates_tried=3 if label == "mine" else 1)
        own.machine, own.training_seconds = {"processor": "a processor", "cores": "2", "device": "CPU"}, 75.0
        own.corpus["utterances"] = 400
        own.write(tmp_path / "runs" / label.replace(":", "-"))
        write_results(tmp_path / "runs" / label.replace(":", "-"), right(share, shift=shift))
    return tmp_path


@pytest.mark.usefixtures("unrendered")
def test_the_report_tests_against_random_weights(three):
    page, problems = write_run_report([three / "runs"], three / "report", lambda card: "not official")
    assert problems == []
    for text in (page.read_text(), (three / "report" / "report.md").read_text()):
        for words in (
            "mine against random:base: ahead on 1, level on 0, behind on 0 of 1 metric.",
            "Against FBANK: ahead on 1 (KS accuracy); level on 0; behind on 0.",
            "Against random:base",
            "a processor, 2 cores",
            "400 paired",
            "1 min 15 s",
            "Some rows were tuned more than others",
            "3\u00a0rates",
        ):
            assert words in text, words
    lines = (three / "report" / "report.md").read_text().splitlines()
    assert lines[0] == "# runs"
    assert sum("**60.0**" in line for line in lines) == 1 and sum("**50" in line for line in lines) == 0


@pytest.mark.usefixtures("unrendered")
def test_title_and_control_are_options(three):
    page, _ = write_run_report([three / "runs"], three, lambda card: "x", title="Night <1>", control="FBANK")
    text = page.read_text()
    assert "<h1>Night &lt;1&gt;</h1>" in text and "mine against FBANK" in text
    with pytest.raises(UserError, match="--control: no upstream is called 'nobody'; there are"):
        write_run_report([three / "runs"], three, lambda card: "x", control="nobody")


@pytest.mark.usefixtures("unrendered")
def test_damaged_results_leave_the_figure_without_interval(three):
    (three / "runs" / "mine" / "utterances.json").write_text("{")
    page, problems = write_run_report([three / "runs"], three / "report", lambda card: "x")
    assert len(problems) == 1 and problems[0].endswith("until then without intervals.")
    assert "60.00" in page.read_text()
