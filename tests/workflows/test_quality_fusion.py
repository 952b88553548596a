"""`wavlm score RUN RUN`: stacking of quality heads against ridge regression written out, and as a user calls it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from wavlm_lightning.cli import main
from wavlm_lightning.metrics.rating_agreement import levels
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.workflows.quality_fusion import PENALTIES, Predicted, _check_apart, _joined, _stacked, fuse


def split_of(rng: np.random.Generator, size: int, noise: tuple[float, ...]) -> Predicted:
    rated = rng.uniform(1, 5, size)
    scores = np.stack([rated + sd * rng.standard_normal(size) for sd in noise], 1)
    return Predicted(tuple(map(str, range(size))), scores, rated, np.array([f"s{n % 9}" for n in range(size)]))


def test_the_stack_is_a_ridge_fitted_on_validation_alone():
    rng = np.random.default_rng(0)
    valid, test = split_of(rng, 60, (0.4, 0.6, 1.5)), split_of(rng, 90, (0.4, 0.6, 1.5))
    found = _stacked(["a", "b", "c"], valid, test, "valid", "test")
    assert found.penalty in PENALTIES
    scale, centre = valid.scores.std(0), valid.scores.mean(0)
    z = (valid.scores - centre) / scale
    coefficients = np.linalg.solve(z.T @ z + found.penalty * np.eye(3), z.T @ (valid.rated - valid.rated.mean()))
    wanted = (test.scores - centre) / scale @ coefficients + valid.rated.mean()
    assert np.allclose(list(found.scores.values()), wanted)
    assert np.allclose(test.scores @ np.array(list(found.weights.values())) + found.intercept, wanted)
    assert found.measures["stacked"] == pytest.approx(levels(wanted, test.rated, test.systems))
    single = min(found.measures[name]["utterance_mse"] for name in "abc")
    assert found.measures["stacked"]["utterance_mse"] < single
    assert found.weights["a"] > found.weights["b"] > found.weights["c"] and (found.utterances, found.systems) == (90, 9)
    other = _stacked(["a", "b", "c"], valid, test._replace(rated=test.rated[::-1]), "valid", "test")
    assert other.weights == found.weights


def test_runs_of_other_ratings_are_refused():
    rng = np.random.default_rng(0)
    one, two = split_of(rng, 5, (0.1,)), split_of(rng, 5, (0.1,))
    with pytest.raises(UserError, match="b: its corpus has other ratings than that of a"):
        _joined([one, two], ["a", "b"])
    with pytest.raises(UserError, match="at least two different runs"):
        fuse(["a", "a"])


@pytest.mark.parametrize(("valid", "test"), [("valid", "valid"), ("valid", "valid+test"), ("a+b", "test+b")])
def test_no_split_both_fits_and_scores(valid, test):
    with pytest.raises(UserError, match="would both fit and score the fusion"):
        _check_apart(valid, test)
    _check_apart(valid, "other")


@pytest.mark.slow
def test_two_runs_are_fused_on_the_command_line(tiny, tmp_path, capsys):
    runs = []
    for number, (name, cmvn) in enumerate((("mos", "true"), ("mos_listeners", "false"))):
        runs.append(str(tmp_path / f"run{number}"))
        assert (
            main(
                [
                    *("fit", "-c", f"configs/fullstack/mini/{name}.yaml", "--model.upstream", "Fbank"),
                    *("--model.upstream.cmvn", cmvn, "--data.corpus", str(tiny / "mos"), "--data.cache", "null"),
                    *("--trainer.max_steps", "6", "--trainer.val_check_interval", "3", "--trainer.accelerator", "cpu"),
                    *("--data.batch_size", "3", "--trainer.default_root_dir", runs[-1]),
                ]
            )
            == 0
        )
        assert main(["test", runs[-1]]) == 0
    cards = [json.loads((tmp_path / f"run{number}" / "card.json").read_text()) for number in range(2)]
    capsys.readouterr()
    assert main(["score", *runs, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for run, card in zip(runs, cards, strict=True):
        for name, value in found["measures"][run].items():
            assert value == pytest.approx(card["metrics"][name]["value"], abs=1e-3), name
    assert set(found["measures"]) == {*runs, "mean", "stacked"} and len(found["scores"]) == found["utterances"] == 5
    assert main(["score", *runs]) == 0
    text = capsys.readouterr().out
    assert "stacked = " in text and "fitted on split valid" in text and "split test: 5 utterances of 5 systems" in text
    assert main(["score", *runs, "--split", "valid"]) == 2
    assert "split valid would both fit and score" in capsys.readouterr().err
