"""N-gram language models with modified Kneser-Ney smoothing, counted from texts and written as ARPA files.

The estimate is that of KenLM's `lmplz` (Heafield et al., ACL 2013; Chen and Goodman 1999, section 3), which no Python package
brings. Everything is an array operation: ten million words take about a minute and a few GB.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import atomic_write, write_text
from wavlm_lightning.tasks.components.beam_search import WORD_END, LanguageModel
from wavlm_lightning.tasks.components.spoken_text import spoken_text

UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
SPECIAL = (UNKNOWN, BEGIN, END)  # their numbers are 0, 1, 2
FALLBACK = (0.5, 1.0, 1.5)  # discounts of counts 1, 2, 3 and more where a text is too small to estimate them
HIGHEST = 6  # KenLM as it is installed from Python reads no higher order
LINES = 1 << 16  # written at a time


@dataclass(frozen=True)
class Level:
    """All n-grams of one order.

    Attributes:
        context: number of the first n - 1 words among the n-grams of the order below, int64 `(ngrams,)`.
        word: the last word, int64 `(ngrams,)`.
        log_probability: log10 of the interpolated probability of the word after its context, `(ngrams,)`.
        log_backoff: log10 of the weight of the order below where nothing is known after this n-gram, `(ngrams,)`.
        discounts: of adjusted counts 1, 2, 3 and more.
        estimated: whether the discounts are from the text, and not `FALLBACK`.
    """

    context: np.ndarray
    word: np.ndarray
    log_probability: np.ndarray
    log_backoff: np.ndarray
    discounts: tuple[float, float, float]
    estimated: bool


@dataclass(frozen=True)
class NGrams:
    """An n-gram model: words by number, and a level for each order.

    Example:
        >>> model = count_ngrams([["the", "cat"], ["the", "dog"]], order=2)
        >>> model.write(Path("lm.arpa"))
    """

    words: list[str]
    levels: list[Level]

    @property
    def order(self) -> int:
        return len(self.levels)

    def write(self, path: Path) -> None:
        """Write an ARPA file, whole or not at all; KenLM, flashlight and most decoders read it."""
        with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write("\\data\\\n")
            file.writelines(f"ngram {n}={len(level.word)}\n" for n, level in enumerate(self.levels, 1))
            spelled: list[str] = []
            for number, level in enumerate(self.levels, 1):
                file.write(f"\n\\{number}-grams:\n")
                spelled = self._write_level(file, level, spelled)
            file.write("\n\\end\\\n")

    def _write_level(self, file: TextIO, level: Level, contexts: list[str]) -> list[str]:
        """Write the lines of an order; return its n-grams as text, which begin those of the next order."""
        last = level is self.levels[-1]
        if contexts:
            pairs = zip(level.context.tolist(), level.word.tolist(), strict=True)
            spelled = [f"{contexts[context]} {self.words[word]}" for context, word in pairs]
        else:
            spelled = [self.words[word] for word in level.word.tolist()]
        for begin in range(0, len(spelled), LINES):
            part = slice(begin, begin + LINES)
            rows = zip(
                level.log_probability[part].tolist(), spelled[part], level.log_backoff[part].tolist(), strict=True
            )
            # The highest order has no weight: nothing is longer.
            file.writelines(
                f"{value:.7g}\t{gram}\n" if last else f"{value:.7g}\t{gram}\t{backoff:.7g}\n"
                for value, gram, backoff in rows
            )
        return spelled if not last else []


def count_ngrams(sentences: Iterable[Sequence[str]], order: int) -> NGrams:
    """Estimate an n-gram model of sentences of words.

    Counts of the highest order, and of n-grams that begin a sentence, are those of the text; the count of any other n-gram
    is the number of different words before it. Each order has discounts of its own for counts 1, 2, and 3 or more; it is
    interpolated with the order below, and words with a uniform distribution over all words, the end of a sentence and the
    unknown word.

    Args:
        sentences: words of each sentence; empty sentences are left out.
        order: longest n-gram, 1 to 6.

    Raises:
        UserError: no words, an order that no sentence is long enough for, or a word that has a meaning in ARPA files.

    Example:
        >>> count_ngrams([["a", "b"], ["a"]], order=2).order
        2
    """
    if not 1 <= order <= HIGHEST:
        raise UserError(f"an n-gram model of order {order} cannot be made; choose 1 to {HIGHEST}")
    words, text = _numbers(sentences)
    if order > 1 and not len(_starts(text, order)):
        raise UserError(
            f"no sentence of the texts has {order - 1} words, so there is nothing to count for order {order}; choose a lower "
            "order, or more text"
        )
    # Of each order: the number of the n-gram that begins at each place of the text, or -1, then each n-gram's first place.
    numbers, firsts, counts = [text], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for n in range(2, order + 1):
        starts = _starts(text, n)
        keys = numbers[-1][starts] * len(words) + text[starts + n - 1]
        _, first, inverse, count = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        number = np.full(len(text), -1)
        number[starts] = inverse
        numbers.append(number)
        firsts.append(starts[first])
        counts.append(count)
    levels: list[Level] = []
    for n in range(1, order + 1):
        if n == 1:
            count = np.bincount(text, minlength=len(words))
            context, word = np.zeros(len(words), np.int64), np.arange(len(words))
        else:
            count, context, word = counts[n - 1], numbers[n - 2][firsts[n - 1]], text[firsts[n - 1] + n - 1]
        if n < order:
            # An n-gram is the end of as many longer ones as there are different words before it.
            longer = np.bincount(numbers[n - 1][firsts[n] + 1], minlength=len(count))
            begins = (word == 1) if n == 1 else text[firsts[n - 1]] == 1
            count = np.where(begins, count, longer)
        suffix = None if n == 1 else numbers[n - 2][firsts[n - 1] + 1]
        levels.append(_level(count, context, word, suffix, levels, len(words)))
    return NGrams(words, _with_backoffs(levels))


def count_bigrams(texts: Iterable[str], folder: Path | str) -> LanguageModel:
    """Write `bigrams.arpa` and `lexicon.lst` for the words of some texts.

    Args:
        texts: transcripts; `spoken_text` removes their punctuation.
        folder: where the files go; made if missing.

    Returns:
        The two files, with SUPERB's weights.

    Raises:
        UserError: the texts hold no word.

    Example:
        >>> metas = Corpus.open("runs/demo/corpus/pr").split("train").metas()
        >>> model = count_bigrams((meta["text"] for meta in metas), "runs/demo/language_model")
    """
    counted = count_ngrams((spoken_text(text).split() for text in texts), 2)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model, lexicon = folder / "bigrams.arpa", folder / "lexicon.lst"
    counted.write(model)
    write_text(lexicon, "".join(f"{line}\n" for line in letter_lexicon(counted.words)))
    return LanguageModel(str(lexicon), str(model))


def letter_lexicon(words: Iterable[str]) -> Iterator[str]:
    """Lines of a lexicon that spells every word by its letters: `CAT C A T |`; special words are left out."""
    return (f"{word} {' '.join(word)} {WORD_END}" for word in sorted(set(words) - set(SPECIAL)))


def _numbers(sentences: Iterable[Sequence[str]]) -> tuple[list[str], np.ndarray]:
    """All words, and the text as their numbers, int64 `(places,)`: each sentence begins with 1 and ends with 2."""
    known = {word: number for number, word in enumerate(SPECIAL)}
    text: list[int] = []
    for sentence in sentences:
        if not sentence:
            continue
        text.append(1)
        for word in sentence:
            number = known.setdefault(word, len(known))
            if number < len(SPECIAL):
                raise UserError(
                    f"the word {word!r} has a meaning of its own in language models; remove it from the texts"
                )
            text.append(number)
        text.append(2)
    if not text:
        raise UserError("a language model needs texts with words; there are none")
    return [*known], np.array(text, dtype=np.int64)


def _starts(text: np.ndarray, n: int) -> np.ndarray:
    """Places at which an n-gram begins that lies within a sentence."""
    ends = np.flatnonzero(text == 2)
    end = ends[np.searchsorted(ends, np.arange(len(text)))]  # of the sentence of each place
    return np.flatnonzero(np.arange(len(text)) + n - 1 <= end)


def _level(
    count: np.ndarray,
    context: np.ndarray,
    word: np.ndarray,
    suffix: np.ndarray | None,
    below: Sequence[Level],
    words: int,
) -> Level:
    """Probabilities of one order; `log_backoff` is, for now, of the contexts and not of the n-grams themselves."""
    used = count > 0
    if suffix is None:
        used &= word > 1  # nothing predicts the beginning of a sentence, and the unknown word was never seen
    discounts, estimated = _discounts(count[used])
    amount = np.array([0.0, *discounts])[np.minimum(count, 3)]
    contexts = int(context.max()) + 1
    total = np.bincount(context[used], count[used], minlength=contexts)
    spared = np.bincount(context[used], amount[used], minlength=contexts)
    weight = spared / np.maximum(total, 1)
    kept = np.where(used, count - amount, 0.0) / np.maximum(total, 1)[context]
    # The unknown word and the end of a sentence are among the words; its beginning is not.
    lower = 1 / (words - 1) if suffix is None else 10 ** below[-1].log_probability[suffix]
    probability = kept + weight[context] * lower
    if suffix is None:
        probability[1] = 1.0  # as lmplz writes the beginning of a sentence, which is given
    with np.errstate(divide="ignore"):
        return Level(context, word, np.log10(probability), np.log10(weight), discounts, estimated)


def _with_backoffs(levels: Sequence[Level]) -> list[Level]:
    """Levels whose weights belong to their own n-grams: what the order above found for its contexts."""
    found = []
    for number, level in enumerate(levels):
        weights = np.zeros(len(level.word))
        if number + 1 < len(levels):
            above = levels[number + 1].log_backoff
            weights[: len(above)] = np.where(np.isfinite(above), above, 0.0)  # 0: nothing follows, all goes below
        found.append(Level(level.context, level.word, level.log_probability, weights, level.discounts, level.estimated))
    return found


def _discounts(counts: np.ndarray) -> tuple[tuple[float, float, float], bool]:
    """Discounts of counts 1, 2, 3 and more (Chen and Goodman 1999, equation 26), and whether the counts allow them."""
    once, twice, thrice, more = (int((counts == n).sum()) for n in (1, 2, 3, 4))
    if once and twice and thrice:
        share = once / (once + 2 * twice)
        found = (1 - 2 * share * twice / once, 2 - 3 * share * thrice / twice, 3 - 4 * share * more / thrice)
        if all(math.isfinite(value) and 0 <= value <= n for n, value in enumerate(found, 1)):
            return found, True
    return FALLBACK, False
