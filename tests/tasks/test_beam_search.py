"""Beam search against all paths there are, and the language model that it reads."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from pathlib import Path

import pytest
import torch
from shaped import Shaped

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.beam_search import BeamSearch, LanguageModel
from wavlm_lightning.tasks.components.ngrams import count_bigrams, count_ngrams
from wavlm_lightning.tasks.content.speech_recognition import SpeechRecognition

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


def all_paths(log_probabilities, score_of, labels=LABELS) -> list[tuple[float, str]]:
    """The best score of each text that a sequence of labels, one a frame, can spell; best first.

    `score_of` gives the path's further scores and its text, or None for a path that the search may not take.
    """
    best: dict[str, float] = {}
    rows = log_probabilities.tolist()
    for path in itertools.product(range(len(labels)), repeat=len(rows)):
        if (scored := score_of([labels[label] for label in path])) is None:
            continue
        more, text = scored
        score = sum(row[label] for row, label in zip(rows, path, strict=True)) + more
        best[text] = max(best.get(text, -float("inf")), score)
    return sorted(((score, text) for text, score in best.items()), reverse=True)


def spelled(path: list[str]) -> str:
    return "".join(label for label, _ in itertools.groupby(path) if label != LABELS[0])


def by_words(grams, lexicon: set[str], weights: LanguageModel):
    def score_of(path):
        words = tuple(spelled(path).split("|"))
        if words[-1] or not set(words) <= lexicon | {""}:
            return None
        words = tuple(word for word in words if word)
        score = weights.weight * sentence(grams, words) + weights.word_score * len(words)
        return score + weights.silence * path.count("|"), " ".join(words)

    return score_of


WEIGHTS = ((2.0, -1.0, 0.0), (0.5, 0.0, -0.7), (0.0, 3.0, 0.4))


@pytest.mark.parametrize("with_file", [True, False], ids=["lexicon", "words of the model"])
def test_a_wide_beam_finds_the_best_of_all_paths(tmp_path, with_file):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    counted = count_bigrams(["ab a", "ab ab", "b ab", "bb a a", "zz b"], tmp_path)
    if with_file:
        lines = Path(counted.lexicon).read_text().splitlines()
        Path(counted.lexicon).write_text("".join(f"{line}\n" for line in lines if "Z" not in line))
    grams = read_arpa(counted.model)
    lexicon = {"A", "B", "AB", "BB"}
    torch.manual_seed(0)
    logits = 5 * torch.randn(10, 6, len(LABELS))
    lengths = torch.tensor([6] * 6 + [5, 4, 3, 2])
    seen = set()
    for weight, word_score, silence in WEIGHTS:
        given = counted.lexicon if with_file else None
        model = LanguageModel(given, counted.model, 1000, 1000.0, weight, word_score, silence)
        search = BeamSearch(model, LABELS)
        assert search.left_out == (0 if with_file else 1)
        rows = zip(logits.log_softmax(-1), lengths.tolist(), search.nbest(logits, lengths, 3), strict=True)
        for row, end, found in rows:
            wanted = all_paths(row[:end], by_words(grams, lexicon, model))[:3]
            assert [text for text, _ in found] == [text for _, text in wanted]
            assert [score for _, score in found] == pytest.approx([score for score, _ in wanted], abs=1e-3)
        seen |= set(search(logits, lengths))
    assert len(seen) > 6 and any(" " in words for words in seen)


def test_letters_without_a_lexicon_and_every_path(tmp_path):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    texts = ["a|b|", "ab|a|", "ab|", "b|ab|", "aab|"]
    count_ngrams([[*text.upper()] for text in texts], 2).write(tmp_path / "letters.arpa")
    grams = read_arpa(tmp_path / "letters.arpa")
    labels = ["<s>", "</s>", "<unk>", "|", "A", "B"]
    torch.manual_seed(1)
    logits = 3 * torch.randn(8, 6, len(labels))
    logits[..., 1] += 2
    log_probabilities = logits.log_softmax(-1)
    silent = torch.logaddexp(log_probabilities[..., :1], log_probabilities[..., 1:2])
    merged = torch.cat([silent, log_probabilities[..., 3:]], -1)

    def by_letters(path):
        # The search begins after a silence, so that a first `|` is no letter of the text.
        text = spelled(["|", *path])[1:] if path[0] == "|" else spelled(path)
        return weights.weight * sentence(grams, tuple(text)) + weights.silence * path.count("|"), text

    seen = set()
    for weight, _, silence in WEIGHTS:
        weights = LanguageModel(None, str(tmp_path / "letters.arpa"), 5000, 1000.0, weight, silence=silence)
        search = BeamSearch(weights, labels, special=range(3), silent=[1])
        assert not search.has_words
        found = search(logits, torch.full((8,), 6))
        # A text is what a reader sees: one blank between words.
        wanted = [" ".join(all_paths(row, by_letters)[0][1].replace("|", " ").split()) for row in merged]
        assert found == wanted
        scores = [all_paths(row, by_letters)[0][0] for row in merged]
        assert [search.search_row(row)[0].score for row in merged.contiguous()] == pytest.approx(scores, abs=1e-3)
        seen |= set(found)
    assert len(seen) > 6 and any(" " in text for text in seen)


def test_phones_without_a_lexicon_and_every_path(tmp_path):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    count_ngrams([["AH", "T"], ["T", "AH", "T"], ["AH", "AH"]], 2).write(tmp_path / "phones.arpa")
    grams = read_arpa(tmp_path / "phones.arpa")
    labels = ["<pad>", "<eos>", "<unk>", "AH", "T"]
    torch.manual_seed(2)
    logits = 2 * torch.randn(12, 6, len(labels))
    log_probabilities = logits.log_softmax(-1)
    silent = torch.logaddexp(log_probabilities[..., :1], log_probabilities[..., 1:2])
    merged = torch.cat([silent, log_probabilities[..., 3:]], -1)

    def by_phones(path):
        phones = tuple(label for label, _ in itertools.groupby(path) if label != "<pad>")
        return 2 * sentence(grams, phones), " ".join(phones)

    search = BeamSearch(
        LanguageModel(None, str(tmp_path / "phones.arpa"), 5000, 1000.0), labels, special=range(3), silent=[1]
    )
    wanted = [all_paths(row, by_phones, ["<pad>", "AH", "T"])[:2] for row in merged]
    found = search.nbest(logits, torch.full((12,), 6), 2)
    assert [[text for text, _ in row] for row in found] == [[text for _, text in row] for row in wanted]
    assert len({row[0].text for row in found}) > 3
    with pytest.raises(UserError, match=r"language_model\.silence: this head has no output"):
        BeamSearch(LanguageModel(None, str(tmp_path / "phones.arpa"), silence=1.0), labels, range(3), [1])


def test_reweighted_is_a_new_search(tmp_path):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    counted = count_bigrams(["ab a", "ab ab", "b ab", "bb a a"], tmp_path)
    torch.manual_seed(0)
    logits, lengths = 5 * torch.randn(20, 9, len(LABELS)), torch.full((20,), 9)
    first = BeamSearch(counted, LABELS)
    before = first(logits, lengths)
    other = dataclasses.replace(counted, weight=0.1, word_score=2.0, silence=-1.0)
    shared = first.reweighted(other)
    assert shared(logits, lengths) == BeamSearch(other, LABELS)(logits, lengths) != before
    assert shared.files is first.files and first(logits, lengths) == before


def test_unknown_words_are_answered_only_if_asked(tmp_path):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    counted = count_bigrams(["ab a", "bb a a"], tmp_path)
    logits = torch.full((1, 3, len(LABELS)), -9.0)
    for frame, label in enumerate((3, 1)):  # B |: the beginning of a word of the lexicon, and no word
        logits[0, frame, label] = 9.0
    lengths = torch.tensor([2])
    assert BeamSearch(counted, LABELS)(logits, lengths) != ["<unk>"]
    asked = dataclasses.replace(counted, unknown_score=5.0)
    assert BeamSearch(asked, LABELS)(logits, lengths) == ["<unk>"]


def test_models_that_do_not_fit_the_head(tmp_path):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    phones = ["<pad>", "<eos>", "<unk>", "AH", "T"]
    counted = count_bigrams(["a c"], tmp_path)
    for model, labels, message in (
        (counted, phones, "lexicon.lst: this head answers with phones"),
        (dataclasses.replace(counted, lexicon=None), phones, "no output for 'A', 'C'"),
        (LanguageModel(None, counted.lexicon), LABELS, "not an ARPA file"),
        (LanguageModel(), LABELS, "names no file"),
        (dataclasses.replace(counted, lexicon=counted.model), LABELS, "the head has no output for"),
        (dataclasses.replace(counted, lexicon=None, beam=0), LABELS, "at least 1 hypothesis"),
    ):
        with pytest.raises(UserError, match=message):
            BeamSearch(model, labels, special=range(3 if labels is phones else 1))


def test_words_that_no_head_can_spell_are_said_or_refused(tmp_path, caplog):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    texts = [["A", "B", "ab"], ["A", *(f"word{n}" for n in range(150))]]
    for number, words in enumerate(texts):
        count_ngrams([words], 2).write(tmp_path / f"{number}.arpa")
    head = SpeechRecognition(Shaped(2, 6), hidden=4, language_model=LanguageModel(None, str(tmp_path / "0.arpa")))
    with caplog.at_level("INFO"):
        head.build(head.read_labels(None))
    assert f"ASR: note: the head cannot spell 1 words of {tmp_path / '0.arpa'}; they are never found" in caplog.text
    with pytest.raises(UserError, match=r"1\.arpa: the head can spell 1 of its 151 words, not 'word0' for example"):
        head.use_language_model(LanguageModel(None, str(tmp_path / "1.arpa")))


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
