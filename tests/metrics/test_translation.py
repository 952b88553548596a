"""BLEU, chrF and exact answers: parity with sacrebleu's functions and with independent code, degenerate texts, processes."""

from __future__ import annotations

import random
import re
from collections import Counter

import numpy as np
import pytest
import sacrebleu
import torch
from ranks import together
from torchmetrics.text import SacreBLEUScore

from wavlm_lightning.metrics.text import translation
from wavlm_lightning.metrics.text.ngram_counts import COLUMNS, bleu_of
from wavlm_lightning.metrics.text.translation import (
    TranslationQuality,
    bleu_counts,
    check_sacrebleu,
    score_translations,
    tokenizer_of,
)
from wavlm_lightning.reports.significance import over_seeds
from wavlm_lightning.reports.utterances import (
    UtteranceResults,
    compare,
    described,
    interval,
    read_results,
    write_results,
)
from wavlm_lightning.system.errors import UserError

WORDS = [
    "der",
    "Hund",
    "die",
    "Katze",
    "läuft",
    "groß",
    "klein,",
    "heute",
    "um",
    "vier",
    "Uhr",
    "können",
    "nicht",
    "»ja«",
]


def random_pairs(seed: int, count: int) -> tuple[list[str], list[str]]:
    """References, and answers with words that are dropped, doubled or exchanged; one in ten is empty."""
    rng = random.Random(seed)
    references = [" ".join(rng.choices(WORDS, k=rng.randint(1, 14))) + rng.choice(".?") for _ in range(count)]
    answers = []
    for reference in references:
        words = [w for word in reference.split() for w in rng.choice([[word], [word], [word], [], [word, word]])]
        rng.random() < 0.3 and rng.shuffle(words)
        answers.append("" if rng.random() < 0.1 else " ".join(words))
    return answers, references


def plain_chrf(answers: list[str], references: list[str]) -> float:
    """Popovic 2015 over a corpus: F with recall twice as important, of the mean precision and recall of n-grams up to 6."""
    precisions, recalls = [], []
    for order in range(1, 7):
        counts = []
        for pair in zip(answers, references, strict=True):
            letters = ["".join(text.split()) for text in pair]
            grams = [Counter(text[i : i + order] for i in range(len(text) - order + 1)) for text in letters]
            # As in chrF.py: n-grams that are longer than the reference count for neither side.
            answered = grams[0].total() if grams[1] else 0
            counts.append(((grams[0] & grams[1]).total(), answered, grams[1].total()))
        matches, given, wanted = map(sum, zip(*counts, strict=True))
        precisions.append(matches / given)
        recalls.append(matches / wanted)
    precision, recall = sum(precisions) / 6, sum(recalls) / 6
    return 5 * precision * recall / (4 * precision + recall)


@pytest.mark.parametrize("seed", range(4))
def test_the_figures_are_those_of_sacrebleu_and_of_independent_code(seed):
    answers, references = random_pairs(seed, 30)
    found = score_translations(answers, references)
    assert found.bleu == pytest.approx(sacrebleu.corpus_bleu(answers, [references]).score / 100, abs=1e-12)
    assert found.chrf == pytest.approx(sacrebleu.corpus_chrf(answers, [references]).score / 100, abs=1e-12)
    # Independent code, whose references are listed by answer and not by stream.
    per_answer = [[reference] for reference in references]
    assert found.bleu == pytest.approx(float(SacreBLEUScore()(answers, per_answer)), abs=1e-6)
    assert found.chrf == pytest.approx(plain_chrf(answers, references), abs=1e-9)
    assert 0 < found.bleu < found.chrf < 1
    # Transposed references are accepted by sacrebleu, and score something else.
    assert found.bleu != pytest.approx(sacrebleu.corpus_bleu(answers[:1], per_answer).score / 100, abs=1e-3)


def test_bleu_of_summed_counts_is_sacrebleus():
    for seed, count in [(seed, count) for seed in range(8) for count in (1, 2, 5, 40)]:
        answers, references = random_pairs(seed, count)
        counts = bleu_counts(answers, references)
        assert counts.shape == (count, COLUMNS)
        wanted = sacrebleu.corpus_bleu(answers, [references]).score / 100
        assert float(bleu_of(counts.sum(0))) == pytest.approx(wanted, abs=1e-12), (seed, count)
    same = ["Der Hund läuft um vier Uhr.", "Ja."]
    for answers in (["", ""], same, ["x y z w v", ""], ["Ja.", "Ja."]):
        wanted = sacrebleu.corpus_bleu(answers, [same]).score / 100
        assert float(bleu_of(bleu_counts(answers, same).sum(0))) == pytest.approx(wanted, abs=1e-12), answers


def results_of(answers: list[str], references: list[str], speakers: int = 0) -> UtteranceResults:
    keys = tuple(f"u{number}" for number in range(len(answers)))
    names = tuple(f"s{number % speakers}" for number in range(len(answers))) if speakers else None
    shown = {"task": "ST", "metric": "bleu", "better": "higher", "scale": 100.0, "corpus": "c", "split": "test"}
    empty = {"errors": np.empty(0), "counts": np.empty(0)}
    return UtteranceResults(keys=keys, speakers=names, ngrams=bleu_counts(answers, references), **shown, **empty)


def test_intervals_and_comparisons_of_bleu(tmp_path):
    answers, references = random_pairs(3, 80)
    one = results_of(answers, references)
    worse = [" ".join(text.split()[1:]) for text in answers]
    other = results_of(worse, references)
    value, low, high = interval(one)
    assert value == pytest.approx(sacrebleu.corpus_bleu(answers, [references]).score)
    # sacrebleu's own bootstrap, which draws other resamples.
    theirs = sacrebleu.metrics.BLEU().corpus_score(answers, [references], n_bootstrap=1000)
    width = float(re.search(r"± ([\d.]+)", str(theirs))[1])
    assert high - low == pytest.approx(2 * width, rel=0.15) and low < value < high
    found = compare(one, other)
    assert found.difference == pytest.approx(value - interval(other)[0]) and found.p_value < 0.01
    assert 0 < found.low < found.difference < found.high and found.utterances == 80
    assert compare(one, one).p_value == 1.0
    # Answers of even quality: half of them better, half of them worse.
    mixed = results_of([*answers[:40], *worse[40:]], references), results_of([*worse[:40], *answers[40:]], references)
    assert compare(*mixed).p_value > 0.05
    assert compare(results_of(answers, references, 12), results_of(worse, references, 12)).resampled == "speakers"
    write_results(tmp_path, one)
    again = read_results(tmp_path)
    assert again is not None and np.array_equal(again.ngrams, one.ngrams) and described(again) == described(one)
    with pytest.raises(UserError, match="the references of 'u0' differ"):
        compare(one, results_of(answers, ["ja und nein und ja und nein", *references[1:]]))
    assert over_seeds([one, other]) is None and over_seeds([one]) is one


def test_degenerate_texts():
    same = ["Der Hund läuft um vier Uhr.", "Ja."]
    perfect = score_translations(same, same)
    assert (perfect.bleu, perfect.chrf, perfect.exact_match) == (1.0, 1.0, 1.0)
    nothing = score_translations(["", ""], same)
    assert (nothing.bleu, nothing.chrf, nothing.exact_match) == (0.0, 0.0, 0.0)
    half = score_translations([same[0], ""], same)
    assert half.exact_match == 0.5 and 0 < half.bleu < 1
    lower = score_translations([text.lower() for text in same], same)
    assert lower.bleu < 1 and lower.exact_match == 0  # case counts
    for answers, references in (([], []), (["a"], ["a", "b"])):
        with pytest.raises(ValueError, match="each answer needs its own"):
            score_translations(answers, references)
    assert torch.isnan(TranslationQuality("13a").compute()["bleu"])


def test_signatures_name_case_tokenizer_and_version():
    found = score_translations(["a b"], ["a b"]).signatures
    assert f"version:{sacrebleu.__version__}" in found["bleu"] and "case:mixed|eff:no|tok:13a" in found["bleu"]
    assert "nc:6|nw:0" in found["chrf"]
    assert "tok:zh" in score_translations(["我们"], ["我们"], tokenizer_of("zh-CN")).signatures["bleu"]
    assert [tokenizer_of(language) for language in ("de", "zh_TW", "ar", "JA")] == ["13a", "zh", "13a", "ja-mecab"]


def test_what_is_not_installed_is_one_sentence(monkeypatch):
    with pytest.raises(UserError, match="no tokenizer '13b'; choose one of 13a, "):
        check_sacrebleu("ST", "13b")
    check_sacrebleu("ST", "zh")
    monkeypatch.setattr(translation, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"sacrebleu; .*install.*translation"):
        check_sacrebleu("ST", "13a")


def in_processes() -> None:
    rank = int(torch.distributed.get_rank())
    answers, references = random_pairs(7, 21)
    metric = TranslationQuality()
    # The first process has no batch at all in one case, and they have differently many in the other.
    for begin, end in ((0, 0), (0, 5)):
        metric.reset()
        share = slice(begin, end) if rank == 0 else slice(end, None)
        if len(answers[share]):
            metric.update(answers[share], references[share])
        found, alone = metric.compute(), score_translations(answers, references)
        for name, value in found.items():
            assert float(value) == pytest.approx(getattr(alone, name), abs=1e-7), (name, rank)


@pytest.mark.slow
def test_two_processes_score_all_texts(tmp_path):
    together(2, tmp_path / "log", grouped)


def grouped() -> None:
    torch.distributed.init_process_group("gloo")
    in_processes()
    torch.distributed.destroy_process_group()
