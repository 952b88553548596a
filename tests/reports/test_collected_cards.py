"""Which cards and results of utterances stand behind a figure of a report: folds, rates of trained encoders, controls."""

from __future__ import annotations

import numpy as np
import pytest

from wavlm_lightning.reports.aggregate import combine_folds
from wavlm_lightning.reports.cards import find_cards
from wavlm_lightning.reports.runs.comparison import winners
from wavlm_lightning.reports.runs.report import write_run_report
from wavlm_lightning.reports.runs.results import collect
from wavlm_lightning.reports.superb_table import superb_table
from wavlm_lightning.reports.utterances import UtteranceResults, described, join_folds, write_results


def results(task: str, share: float, count: int, corpus: str = "mini", split: str = "test") -> UtteranceResults:
    """Answers of which a share is right."""
    keys = tuple(f"u{number}" for number in range(count))
    right = (np.arange(count) < share * count).astype(float)
    of = {"task": task, "metric": "accuracy", "better": "higher", "scale": 100.0, "corpus": corpus, "split": split}
    return UtteranceResults(**of, keys=keys, errors=right, counts=np.ones(count))


def collected(folder, **options):
    cards, problems = find_cards([folder])
    return collect(cards, problems, str, **options)


def test_folds_without_a_card_above_them_have_the_interval_of_all_of_them(card, tmp_path):
    folds, cards = [], []
    for number, share in enumerate((0.9, 0.5, 0.5, 0.5, 0.5), start=1):
        folds.append(results("ER", share, 100, split=f"fold{number}"))
        corpus = {"name": "mini", "path": "corpus", "split": f"fold{number}", "utterances": 100, "seconds": 100.0}
        intervals = {"recall": described(folds[-1])}
        cards.append(card("ER", value=100 * share, corpus=corpus, interval=described(folds[-1]), intervals=intervals))
        write_results(tmp_path / f"fold{number}", folds[-1])
        cards[-1].write(tmp_path / f"fold{number}")
    assert combine_folds(cards).intervals == {}  # no fold's is that of the mean
    measured = collected(tmp_path).results["pre-trained"]["ER"].measured["accuracy"]
    expected = described(join_folds(folds))
    assert measured.value == pytest.approx(58) and measured.interval == pytest.approx(
        (expected["low"], expected["high"])
    )
    assert measured.interval[0] < 58 < measured.interval[1]


@pytest.mark.parametrize("group_seeds", [False, True])
def test_rates_of_a_trained_encoder_are_rates_and_not_encoders(card, tmp_path, group_seeds):
    """Its weights differ from run to run, as those of two pre-training seeds do."""
    for number, (rate, valid, test) in enumerate(((1e-5, 90.0, 88.0), (1e-2, 50.0, 50.0))):
        one = card(
            value=test,
            learning_rate=rate,
            selection={"metric": "valid/accuracy", "mode": "max", "value": valid, "split": "valid"},
        )
        one.upstream = {**one.upstream, "sha256": "ab"[number] * 64, "trained": True}
        one.write(tmp_path / str(number))
    found = collected(tmp_path, group_seeds=group_seeds).results
    assert list(found) == ["pre-trained"]
    result = found["pre-trained"]["KS"]
    assert (result.card.value, result.card.learning_rate, len(result.cards)) == (88.0, 1e-5, 1)


def test_a_control_on_permuted_labels_takes_no_lead_away(card, tmp_path):
    shares = {"pre-trained": 0.9, "random weights": 0.5, "pre-trained, permuted labels": 0.1}
    of, utterances = {}, {}
    for label, share in shares.items():
        name = "mini, labels permuted" if "permuted" in label else "mini"
        corpus = {"name": name, "path": "corpus", "split": "test", "utterances": 1000, "seconds": 1000.0}
        found = results("KS", share, 1000, corpus=name)
        one = card(label=label, value=100 * share, corpus=corpus, interval=described(found))
        one.upstream = {**one.upstream, "sha256": label.encode().hex().ljust(64, "0")[:64]}
        write_results(tmp_path / label, found)
        one.write(tmp_path / label)
        of[label], utterances[label] = {"KS": one}, {"KS": found}
    text = superb_table(of, ["KS"], utterances).to_markdown()
    assert "**90.0**" in text and text.count("**") == 2
    assert list(winners(collected(tmp_path)).values()) == ["pre-trained"]


@pytest.mark.usefixtures("unrendered")
def test_a_headline_that_one_seed_lacks_is_left_out(card, tmp_path):
    """Its package was not installed where that seed was tested."""
    figures = {name: {"value": 2.0, "unit": "", "better": "higher"} for name in ("si_sdr", "pesq")}
    for seed, names in enumerate((["si_sdr", "pesq"], ["si_sdr"])):
        some = {name: figures[name] for name in names}
        card("SE", metrics=some, headline="si_sdr", headlines=names, seed=seed).write(tmp_path / str(seed))
    assert [column.metric for column in collected(tmp_path).columns] == ["si_sdr"]
    write_run_report([tmp_path], tmp_path / "report", lambda card: "not official")
