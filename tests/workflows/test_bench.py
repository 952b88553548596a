"""`wavlm bench`."""

from __future__ import annotations

import json

from wavlm_lightning.cli import main
from wavlm_lightning.system.timing import Rounds, time_side_by_side


def test_bench_says_what_it_measured(tmp_path, capsys):
    out = tmp_path / "bench.json"
    words = ["tiny", "--batch", "1", "--seconds", "0.2", "0.4", "--rounds", "1", "--device", "cpu", "--json", str(out)]
    assert main(["bench", *words]) == 0
    figures = json.loads(out.read_text())
    fp32 = ["inference", "inference, prepared", "training", "training, linears auto"]
    assert [figure["what"] for figure in figures] == 2 * [*fp32, "inference", "training"]
    for figure in figures:
        assert figure["audio_seconds_per_second"] == figure["seconds"] / figure["seconds_per_pass"]
        assert figure["utilisation"] is None
    assert capsys.readouterr().out.count("1 x 0.4 s") == 6


def test_mistakes_are_named(capsys):
    for words, message in (
        (["tiny", "--seconds", "0.01", "--device", "cpu"], "--seconds 0.01"),
        (["tiny", "--batch", "0"], "above 0"),
        (["nothing-here"], "nothing-here"),
    ):
        assert main(["bench", *words]) == 2
        assert message in capsys.readouterr().err


def test_variants_take_turns_and_ratios_are_those_of_a_round(monkeypatch):
    order = []
    variants = {name: (lambda name=name: order.append(name)) for name in "abc"}
    timed = time_side_by_side(variants, 3)
    assert "".join(order) == "cab" + "abc" + "bca" + "cab"
    assert all(len(times) == 3 for times in timed.seconds.values())
    rounds = Rounds({"ours": [1.0, 2.0, 8.0], "theirs": [2.0, 6.0, 8.0], "slow": [9.0, 9.0, 9.0]})
    assert rounds.ratio("ours", "theirs") == 2.0  # of 2, 3 and 1
    assert rounds.fastest_ratio("ours", "theirs") == 2.0
    assert rounds.best(["theirs", "slow"]) == "theirs"
