"""Bigram language models with Kneser-Ney smoothing, counted from a corpus' own transcripts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import write_text
from wavlm_lightning.tasks.components.beam_search import WORD_END, LanguageModel
from wavlm_lightning.tasks.components.spoken_text import spoken_text

_BEGIN, _END, _UNKNOWN = "<s>", "</s>", "<unk>"


def count_bigrams(texts: Iterable[str], folder: Path | str) -> LanguageModel:
    """Write `bigrams.arpa` and `lexicon.lst` for the words of some texts.

    Smoothing is interpolated Kneser-Ney (1995) with one discount for each order, n1 / (n1 + 2 n2); the unigram level (the
    number of words that a word follows) is interpolated with a uniform distribution, which gives unknown words their
    share. For larger models use KenLM's `lmplz`.

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
    sentences = [words for words in (spoken_text(text).split() for text in texts) if words]
    if not sentences:
        raise UserError("a language model needs texts with words; there are none")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model, lexicon = folder / "bigrams.arpa", folder / "lexicon.lst"
    write_text(model, _arpa(sentences))
    words = sorted({word for words in sentences for word in words})
    write_text(lexicon, "".join(f"{word} {' '.join(word)} {WORD_END}\n" for word in words))
    return LanguageModel(str(lexicon), str(model))


def _arpa(sentences: list[list[str]]) -> str:
    pairs: Counter[tuple[str, str]] = Counter()
    for words in sentences:
        pairs.update(zip([_BEGIN, *words], [*words, _END], strict=True))
    pair_discount = _discount(pairs)
    history, successors = Counter[str](), Counter[str]()
    continuations: Counter[str] = Counter()
    for (before, word), count in pairs.items():
        history[before] += count
        successors[before] += 1
        continuations[word] += 1

    discount = _discount(continuations)
    total, kinds = len(pairs), len(continuations)
    spared = discount * kinds / total
    unknown = spared / (kinds + 1)
    single = {word: (count - discount) / total + unknown for word, count in continuations.items()}
    backoff = {before: pair_discount * successors[before] / history[before] for before in history}

    def line(probability: float, words: str, backed: str = "") -> str:
        # -99 stands for a log of zero: nothing predicts the beginning of a sentence.
        log = math.log10(probability) if probability > 0 else -99.0
        return f"{log:.7f}\t{words}" + (f"\t{math.log10(backoff[backed]):.7f}" if backed in backoff else "")

    ones = [line(unknown, _UNKNOWN), line(0.0, _BEGIN, _BEGIN)]
    ones += [line(single[word], word, word) for word in sorted(single)]
    twos = [
        line((count - pair_discount) / history[before] + backoff[before] * single[word], f"{before} {word}")
        for (before, word), count in sorted(pairs.items())
    ]
    head = ["\\data\\", f"ngram 1={len(ones)}", f"ngram 2={len(twos)}"]
    return "\n".join([*head, "", "\\1-grams:", *ones, "", "\\2-grams:", *twos, "", "\\end\\", ""])


def _discount(counts: Counter) -> float:
    """The absolute discount (Ney, Essen and Kneser 1994), or 0.5 if no pair occurs once or none occurs twice."""
    once, twice = (sum(count == n for count in counts.values()) for n in (1, 2))
    return once / (once + 2 * twice) if once and twice else 0.5
