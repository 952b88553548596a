"""N-gram models: the values of KenLM's lmplz, distributions, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from wavlm_lightning.cli import main
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.ngrams import NGrams, count_ngrams

# `lmplz --discount_fallback -o 3` of KenLM (2025-03-30) on two sentences, as its own test data have them.
TOY = """
-0.90309 <unk> 0|0 <s> -0.30103|-0.46943438 a -0.30103|-0.5720968 </s> 0|-0.5720968 b -0.30103|-0.37712017 <s>_a -0.30103
-0.37712017 a_a -0.30103|-0.2984526 b_a -0.30103|-0.58682007 a_</s> 0|-0.5220179 b_</s> 0|-0.41574955 <s>_b -0.30103
-0.58682007 a_b -0.30103|-0.14885087 <s>_a_a|-0.33741078 b_a_a|-0.124077894 <s>_b_a|-0.2997394 a_b_a|-0.42082912 b_a_</s>
-0.397617 a_b_</s>|-0.20102891 a_a_b
"""


def grams(model: NGrams, path: Path) -> dict[str, tuple[float, float]]:
    """Log10 probability and back-off weight of each n-gram of the file."""
    model.write(path)
    rows = (line.split("\t") for line in path.read_text().splitlines() if "\t" in line)
    return {row[1]: (float(row[0]), float(row[2]) if len(row) > 2 else 0.0) for row in rows}


def zipf_sentences() -> list[list[str]]:
    """2,000 sentences of words whose frequencies fall as those of a language do."""
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, 3001)
    weights /= weights.sum()
    return [[f"w{n}" for n in rng.choice(3000, rng.integers(1, 12), p=weights)] for _ in range(2000)]


def test_the_values_of_kenlm_on_a_small_text(tmp_path):
    entries = (entry.split() for entry in "|".join(TOY.strip().splitlines()).split("|"))
    wanted = {gram.replace("_", " "): (float(value), float(*rest or ["0"])) for value, gram, *rest in entries}
    model = count_ngrams([["a", "a", "b", "a"], ["b", "a", "a", "b"]], 3)
    found = grams(model, tmp_path / "toy.arpa")
    assert found.keys() == wanted.keys() and len(wanted) == 19
    for gram, values in wanted.items():
        assert found[gram] == pytest.approx(values, abs=1e-6), gram
    assert not any(level.estimated for level in model.levels)


def test_the_values_of_kenlm_where_discounts_are_estimated(tmp_path):
    """`lmplz -o 3` on the same sentences: discounts, sums over all n-grams, and single ones."""
    model = count_ngrams(zipf_sentences(), 3)
    found = [
        (len(level.word), level.discounts, level.log_probability.sum(), level.log_backoff.sum())
        for level in model.levels
    ]
    wanted = [
        (1962, (0.492451, 1.1785, 2.04347), -7000.028, -154.623),
        (9165, (0.861207, 1.15752, 1.37601), -17982.111, -147.177),
        (11350, (0.965078, 1.23276, 1.90746), -14774.983, 0.0),
    ]
    for (size, discounts, value, backoff), (size_, discounts_, value_, backoff_) in zip(found, wanted, strict=True):
        assert size == size_ and discounts == pytest.approx(discounts_, rel=1e-5)
        assert value == pytest.approx(value_, abs=0.01) and backoff == pytest.approx(backoff_, abs=0.01)
    written = grams(model, tmp_path / "zipf.arpa")
    assert written["<unk>"][0] == pytest.approx(-3.8906326, abs=1e-6)
    assert written["w0"] == pytest.approx((-1.2493687, -0.37976134), abs=1e-6)
    assert written["w0 w1"] == pytest.approx((-1.2659769, -0.1137867), abs=1e-6)
    assert written["w0 w1 w0"][0] == pytest.approx(-1.0640577, abs=1e-6)


def log10(found: dict[str, tuple[float, float]], context: list[str], word: str) -> float:
    """Of a word behind others, by the rules of the ARPA format."""
    if (gram := " ".join([*context, word])) in found or not context:
        return found[gram][0] if gram in found else found["<unk>"][0]
    return found.get(" ".join(context), (0.0, 0.0))[1] + log10(found, context[1:], word)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_probabilities_behind_any_words_sum_to_one(order, tmp_path):
    text = ["the cat sat on the mat", "a cat sat on the mat", "the dog sat", "a", "the cat sat", "the dog ran on"]
    found = grams(count_ngrams([line.split() for line in text], order), tmp_path / "lm.arpa")
    words = [gram for gram in found if " " not in gram and gram != "<s>"]
    contexts = [[], ["<s>"], ["<s>", "the"], ["cat", "sat", "on"], ["mat", "mat", "mat"], ["the", "dog"], ["on"]]
    for context in contexts:
        total = sum(
            10 ** log10(found, context[len(context) - order + 1 :] if order > 1 else [], word) for word in words
        )
        assert total == pytest.approx(1, abs=1e-5), context


def test_kenlm_reads_the_file_and_scores_alike(tmp_path):
    kenlm = pytest.importorskip("kenlm")
    sentences = zipf_sentences()
    found = grams(count_ngrams(sentences, 3), tmp_path / "lm.arpa")
    model = kenlm.Model(str(tmp_path / "lm.arpa"))
    for sentence in [*sentences[:20], ["w1", "new", "w0"]]:
        places = zip(["<s>", *sentence], [*sentence, "</s>"], strict=True)
        told: Iterator[float] = iter(
            log10(found, ["<s>", *sentence][max(0, n - 1) : n + 1], word) for n, (_, word) in enumerate(places)
        )
        assert model.score(" ".join(sentence)) == pytest.approx(sum(told), abs=1e-3)


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(UserError, match="texts with words"):
        count_ngrams([[], []], 2)
    with pytest.raises(UserError, match=r"no sentence of the texts has 4 words.*order 5"):
        count_ngrams([["a", "b"]], 5)
    with pytest.raises(UserError, match="choose 1 to 6"):
        count_ngrams([["a"]], 7)
    with pytest.raises(UserError, match="'</s>' has a meaning"):
        count_ngrams([["a", "</s>"]], 2)


def test_the_command_counts_texts_and_corpora(tiny, tmp_path, capsys):
    texts = tmp_path / "texts.txt"
    texts.write_text("The cat sat.\n\nThe dog, the cat!\n", encoding="utf-8")
    out, lexicon = tmp_path / "new" / "lm.arpa", tmp_path / "words.lst"
    assert main(["lm", str(texts), "--order", "2", "--out", str(out), "--lexicon", str(lexicon)]) == 0
    said = capsys.readouterr().out
    assert f"{out}: order 2, 2 sentences, 7 words, 4 different; 1 empty lines left out" in said
    assert "warning: too little text" in said
    assert lexicon.read_text().splitlines()[0] == "CAT C A T |" and "\tTHE CAT\n" in out.read_text()

    corpus = Corpus.open(tiny / "pr")
    assert main(["lm", str(corpus.directory), "--units", "phones", "--order", "3", "--out", str(out)]) == 0
    # Without pauses, which PR does not answer with either.
    counted = sum(phone != "SIL" for meta in corpus.split("train").metas() for phone, *_ in meta["phones"])
    assert f"{counted:,} phones" in capsys.readouterr().out
    assert main(["lm", str(texts), "--units", "letters", "--order", "3", "--out", str(out)]) == 0
    assert "\tE | C\n" in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.txt"], "nowhere.txt: no such file"),
        (["texts.txt", "--units", "letters", "--lexicon", "words.lst"], "a model of letters needs none"),
        (["empty.txt"], "empty.txt: no words in it"),
        (["texts.txt", "--order", "9"], "choose 1 to 6"),
        (
            ["corpus", "--split", "train+test-clean"],
            "has read the text of test-clean makes the figures of that split worthless",
        ),
    ],
)
def test_the_command_refuses_in_a_sentence(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text("a b\n")
    Path("empty.txt").write_text("\n\n")
    assert main(["lm", *arguments, "--out", "lm.arpa"]) == 2
    assert said in capsys.readouterr().err
    assert not Path("lm.arpa").exists()
