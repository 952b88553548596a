"""`wavlm lm tune`, and what uses its file: the test, `wavlm predict --lm`, `wavlm score RUN`."""

from __future__ import annotations

import json
import shutil

import pytest
import soundfile
import torch
import yaml

from wavlm_lightning.cli import main
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.beam_search import LanguageModel
from wavlm_lightning.workflows import language_model_weights
from wavlm_lightning.workflows.language_model_weights import tune_language_model

pytest.importorskip("flashlight.lib.text.decoder.kenlm")
pytest.importorskip("optuna")


def trained(tiny, folder, task, *options):
    arguments = ["fit", "-c", f"configs/superb/mini/{task}.yaml", "--data.corpus", str(tiny / "pr")]
    arguments += ["--model.upstream", "wavlm_lightning.upstreams.Fbank", "--model.upstream.cmvn", "false"]
    arguments += ["--data.cache", str(folder / "cache"), "--trainer.default_root_dir", str(folder / task), *options]
    arguments += ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    assert main(arguments) == 0
    return folder / task


@pytest.fixture(scope="module")
def asr(tiny, tmp_path_factory):
    """An ASR head that spells letters badly, on FBANK, and a bigram model of its training texts."""
    folder = tmp_path_factory.mktemp("asr")
    options = ["--model.hidden", "24", "--trainer.max_steps", "60", "--trainer.val_check_interval", "30"]
    run = trained(tiny, folder, "asr", *options)
    assert main(["lm", str(tiny / "pr"), "--order", "2", "--out", str(folder / "lm.arpa")]) == 0
    return run


@pytest.fixture
def run(asr, tmp_path):
    return shutil.copytree(asr, tmp_path / "asr")


def test_a_search_is_resumed_exactly_and_never_worse(asr, run, monkeypatch, capsys):
    lm = asr.parent / "lm.arpa"
    lines = tune_language_model(run, lm, trials=14, beam=10)
    whole = (run / "language_model.yaml").read_text()
    trials = json.loads((run / "language_model.trials.json").read_text())["trials"]
    assert len({tuple(trial.items()) for trial in trials}) == 14
    (run / "language_model.trials.json").unlink()
    measured, calls = language_model_weights._errors, []

    def killed(search, heard):
        calls.append(search.language_model)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return measured(search, heard)

    monkeypatch.setattr(language_model_weights, "_errors", killed)
    with pytest.raises(KeyboardInterrupt):
        tune_language_model(run, lm, trials=14, beam=10)
    assert tune_language_model(run, lm, trials=14, beam=10) == lines
    assert len(calls) == 12 + 3 and calls[11] == calls[12]
    assert (run / "language_model.yaml").read_text() == whole
    assert json.loads((run / "language_model.trials.json").read_text())["trials"] == trials
    searched = yaml.safe_load(whole)["searched"]
    rates = searched["percent"]
    assert rates["tuned"] <= rates["start"] and rates["tuned"] == pytest.approx(
        100 * min(trial["errors"] for trial in trials) / searched["words"], abs=1e-3
    )
    assert searched["split"] == "valid" and searched["trials"] == 14
    # Other files are another search.
    tune_language_model(run, lm, trials=1, beam=11)
    assert len(json.loads((run / "language_model.trials.json").read_text())["trials"]) == 1
    assert len(calls) == 16


def test_what_is_refused(asr, run, tmp_path, capsys):
    lm = asr.parent / "lm.arpa"
    for split in ("test", "valid+test", "test-clean"):
        with pytest.raises(UserError, match="is a test split"):
            tune_language_model(run, lm, split=split)
    with pytest.raises(UserError, match=r"nothing\.arpa: no such file"):
        tune_language_model(run, tmp_path / "nothing.arpa")
    assert main(["lm", "tune", str(tmp_path), "--lm", str(lm)]) == 2
    with pytest.raises(UserError, match="make it with `wavlm lm tune"):
        LanguageModel.read(tmp_path)
    broken = tmp_path / "broken.yaml"
    for content in ("weight: 1\nheight: 2\n", "weight: heavy\nmodel: a\n", "[1, 2]", "::"):
        broken.write_text(content)
        with pytest.raises(UserError, match=r"broken\.yaml: not readable as a language model with its weights"):
            LanguageModel.read(broken)


def test_from_tuned_weights_to_aligned_errors(tiny, asr, run, tmp_path, capsys):
    lm = tmp_path / "lm.arpa"
    shutil.copy(asr.parent / "lm.arpa", lm)
    tune_language_model(run, lm, trials=3, beam=10)
    tuned = run / "language_model.yaml"
    options = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    capsys.readouterr()
    assert main(["test", str(run), "--model.language_model", str(tuned), *options]) == 0
    said = capsys.readouterr().out
    card = ResultCard.read(run)
    counts = card.details["errors"]["wer_lm"]
    wrong = sum(counts[kind] for kind in ("substitutions", "deletions", "insertions"))
    assert card.metrics["wer_lm"]["value"] == pytest.approx(100 * wrong / counts["words"], abs=1e-3)
    assert card.details["errors"]["normaliser"] == "spoken_text"
    assert card.details["language_model"]["searched"]["split"] == "valid"
    assert f"WER with LM {card.metrics['wer_lm']['value']:.2f} %: {counts['substitutions']:,} substitutions" in said
    assert f"searched on valid of {run}" in said
    assert card.intervals.keys() == {"cer", "wer_lm"}
    assert "another head" not in said
    # The transcripts give the same figures.
    errors = tmp_path / "errors.txt"
    assert main(["score", str(run), "--by", "speaker", "length", "--errors", str(errors), "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    for name, metric in (("hypothesis", "wer_lm"), ("other", "wer")):
        value = scored[name]["measures"][0]["interval"][0]
        assert 100 * value == pytest.approx(card.metrics[metric]["value"], abs=1e-3)
        if metric == "wer":  # the intervals of the card are those of `wavlm score`, of speakers if there are ten
            letters = scored[name]["measures"][1]["interval"]
            assert 100 * letters[0] == pytest.approx(card.metrics["cer"]["value"], abs=1e-3)
            assert card.intervals["cer"]["low"] <= 100 * letters[0] <= card.intervals["cer"]["high"]
            assert card.intervals["cer"]["resampled"] == card.interval["resampled"]
        for rows in scored[name]["by"].values():
            assert sum(row["units"] for row in rows) == counts["words"]
    assert errors.read_text().count("EVAL:") >= 4 and "substitutions (reference -> hypothesis)" in errors.read_text()
    # Recordings, with scores.
    folder = tmp_path / "recordings"
    folder.mkdir()
    for key, waveform, _ in Corpus.open(tiny / "pr").split("test").utterances():
        soundfile.write(folder / f"{key}.wav", waveform, 16_000)
    # A head that has learned little says nothing unless words are worth something.
    eager = tmp_path / "eager.yaml"
    weights = {"word_score": 20.0, "beam": 50, "threshold": 1000.0}
    eager.write_text(yaml.safe_dump(yaml.safe_load(tuned.read_text()) | weights))
    command = ["predict", str(run), str(folder), "--lm", str(eager), "--nbest", "3", "--out", str(tmp_path / "out")]
    assert main([*command, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(row["nbest"][0]["text"] == row["text_lm"] for row in rows)
    scores = [[each["score"] for each in row["nbest"]] for row in rows]
    assert all(1 <= len(each) <= 3 and each == sorted(each, reverse=True) for each in scores)
    longest = max(rows, key=lambda row: len(row["nbest"]))
    assert len(longest["nbest"]) > 1 and longest["text_lm"]
    assert main(command) == 0
    assert f"{longest['nbest'][1]['score']:.3f}  {longest['nbest'][1]['text']}" in capsys.readouterr().out
    # The weights belong to a head: that of another run is named, one that was trained on since the search is refused.
    other = shutil.copytree(run, tmp_path / "other")
    for folder in (other, run):
        best = folder / "checkpoints" / "best.ckpt"
        state = torch.load(best, weights_only=True)
        torch.save({**state, "global_step": state["global_step"] + 1}, best)
    assert main(["test", str(other), "--model.language_model", str(tuned), *options]) == 0
    said = capsys.readouterr()
    assert f"searched for another head, {run}/checkpoints/best.ckpt, not {other}/checkpoints/best.ckpt" in said.err
    assert f"searched on valid of {run}, for another head" in said.out
    stale = f"{tuned}: its weights were searched before {run}/checkpoints/best.ckpt was trained to its present state"
    pseudo = ["pseudo-label", str(run), str(tiny / "pr"), "--lm", str(lm), "--out", str(tmp_path / "pseudo")]
    align = ["align", str(run), str(tiny / "pr"), "--name", "a", "--transcripts", "decoded", "--lm", str(run)]
    for refused in (["test", str(run), "--model.language_model", str(tuned), *options], command[:-2], pseudo, align):
        assert main(refused) == 2
        assert stale in capsys.readouterr().err
    lm.write_text(lm.read_text() + "\n")
    command[1] = str(other)
    assert main([*command[:-2], "--json"]) == 2
    assert "not the file with which the weights were searched" in capsys.readouterr().err


def test_phones_with_a_model_of_phones(tiny, tmp_path, capsys):
    run = trained(tiny, tmp_path, "pr", "--trainer.max_steps", "8", "--trainer.val_check_interval", "8")
    lm = tmp_path / "phones.arpa"
    assert main(["lm", str(tiny / "pr"), "--units", "phones", "--order", "2", "--out", str(lm)]) == 0
    assert "\tSIL" not in lm.read_text()
    assert main(["lm", "tune", str(run), "--lm", str(lm), "--trials", "3", "--beam", "10"]) == 0
    kept = yaml.safe_load((run / "language_model.yaml").read_text())
    assert kept["word_score"] == 0 and kept["silence"] == 0 and kept["searched"]["metric"] == "per"
    options = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    assert main(["test", str(run), "--model.language_model", str(run / "language_model.yaml"), *options]) == 0
    card = ResultCard.read(run)
    assert set(card.metrics) == {"per", "per_lm"} and card.interval is not None
    assert card.details["errors"]["per_lm"]["phones"] == card.details["errors"]["per"]["phones"] > 0
    assert main(["score", str(run), "--by", "utterance"]) == 0
    assert "PER" in capsys.readouterr().out
