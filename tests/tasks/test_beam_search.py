"""Beam search against all paths there are, and the language model that it reads."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest
import torch

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.beam_search import BeamSearch, LanguageModel
from wavlm_lightning.tasks.components.ngrams import count_bigrams

LABELS = ["<s>", "|", "A", "B"]


def read_arpa(path: str) -> dict[tuple[str, ...], tuple[float, float]]:
    """Log10 probability and back-off weight of each n-gram."""
    grams = {}
    for line in Path(path).read_text().splitlines():
        fields = line.split("\t")
        if len(fields) > 1:
            grams[tuple(fields[1].split())] = (float(fields[0]), float(fields[2]) if len(fields) > 2 else 0.0)
    return grams


def log10(grams, before: str, word: str) -> float:
    """Of a word behind another, by the rules of the ARPA format."""
    if (before, word) in grams:
        return grams[before, word][0]
    single = grams.get((word,), grams["<unk>",])[0]
    return single + grams.get((before,), (0.0, 0.0))[1]


def sentence(grams, words: tuple[str, ...]) -> float:
    return sum(log10(grams, a, b) for a, b in zip(("<s>", *words), (*words, "</s>"), strict=True))


def test_bigrams_by_hand(tmp_path):
    model = count_bigrams(["a b", "A c."], tmp_path)
    assert Path(model.lexicon).read_text() == "A A |\nB B |\nC C |\n"
    grams = read_arpa(model.model)
    # Words follow A once, B once, C once, </s> twice. The text is too small for discounts of its own: 0.5, 1, 1.5.
    assert 10 ** grams["A",][0] == pytest.approx(0.5 / 5 + 0.5 / 5, rel=1e-5)
    assert 10 ** grams["</s>",][0] == pytest.approx(1 / 5 + 0.5 / 5, rel=1e-5)
    assert 10 ** grams["<unk>",][0] == pytest.approx(0.5 / 5, rel=1e-5)
    assert 10 ** log10(grams, "A", "B") == pytest.approx(0.5 / 2 + 0.5 * 0.2, rel=1e-5)
    assert 10 ** log10(grams, "A", "</s>") == pytest.approx(0.5 * 0.3, rel=1e-5)


def test_bigrams_are_a_distribution_behind_every_word(tmp_path):
    texts = ["the cat sat on the mat", "a cat on a mat", "the dog", "Don't!", "", "the dog sat; the dog sat"]
    grams = read_arpa(count_bigrams(texts, tmp_path).model)
    words = [gram[0] for gram in grams if len(gram) == 1 and gram[0] != "<s>"]
    assert "DON'T" in words
    for before in ["<s>", *(word for word in words if word not in ("</s>", "<unk>"))]:
        assert sum(10 ** log10(grams, before, word) for word in words) == pytest.approx(1, abs=1e-5)


def test_kenlm_reads_what_is_written(tmp_path):
    kenlm = pytest.importorskip("kenlm")
    model = count_bigrams(["a b", "a b a", "b b", "c"], tmp_path)
    grams, read = read_arpa(model.model), kenlm.Model(model.model)
    for words in itertools.product(("A", "B", "C"), repeat=3):
        assert read.score(" ".join(words)) == pytest.approx(sentence(grams, words), abs=1e-5)


def test_nothing_to_count(tmp_path):
    with pytest.raises(UserError, match="texts with words"):
        count_bigrams(["", " . "], tmp_path)


def all_paths(log_probabilities, grams, lexicon: set[str], weight: float, word_score: float) -> tuple[str, ...]:
    """The words of the best of all label sequences, one label a frame, that spell words of the lexicon."""
    best = (-float("inf"), ())
    rows = log_probabilities.tolist()
    for path in itertools.product(range(len(LABELS)), repeat=len(rows)):
        text = "".join(LABELS[label] for label, _ in itertools.groupby(path) if label)
        words = tuple(text.split("|"))
        if words[-1] or not set(words) <= lexicon | {""}:
            continue
        words = tuple(word for word in words if word)
        score = sum(row[label] for row, label in zip(rows, path, strict=True))
        score += weight * sentence(grams, words) + word_score * len(words)
        best = max(best, (score, words))
    return best[1]


def test_a_wide_beam_finds_the_best_of_all_paths(tmp_path):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    counted = count_bigrams(["ab a", "ab ab", "b ab", "bb a a"], tmp_path)
    grams = read_arpa(counted.model)
    lexicon = {"A", "B", "AB", "BB"}
    torch.manual_seed(0)
    logits = 5 * torch.randn(12, 6, len(LABELS))
    lengths = torch.tensor([6] * 8 + [5, 4, 3, 2])
    seen = set()
    for weight, word_score in ((2.0, -1.0), (0.5, 0.0), (0.0, 3.0)):
        model = LanguageModel(counted.lexicon, counted.model, 1000, 1000.0, weight, word_score)
        found = BeamSearch(model, LABELS)(logits, lengths)
        rows = zip(logits.log_softmax(-1), lengths.tolist(), strict=True)
        wanted = [" ".join(all_paths(row[:end], grams, lexicon, weight, word_score)) for row, end in rows]
        assert found == wanted
        seen |= set(found)
    assert len(seen) > 6 and any(" " in words for words in seen)


def test_missing_files_and_foreign_letters_are_refused(tmp_path):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    model = count_bigrams(["a c"], tmp_path)
    with pytest.raises(UserError, match=r"line 2: the head has no output for 'C'"):
        BeamSearch(model, LABELS)
    with pytest.raises(UserError, match=r"nowhere\.arpa: no such file"):
        BeamSearch(LanguageModel(model.lexicon, str(tmp_path / "nowhere.arpa")), LABELS)
    broken = tmp_path / "broken.arpa"
    broken.write_text("\\data\\\nngram 1=5\n")
    with pytest.raises(UserError, match=r"broken\.arpa: KenLM cannot read this language model"):
        BeamSearch(LanguageModel(model.lexicon, str(broken)), [*LABELS, "C"])(torch.zeros(1, 2, 5), torch.tensor([2]))


def test_missing_libraries_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flashlight.lib.text.decoder.kenlm", None)
    model = count_bigrams(["a"], tmp_path)
    with pytest.raises(UserError, match=r"pip install 'flashlight-text.*\(extra \[lm\]\)"):
        BeamSearch(model, LABELS)
