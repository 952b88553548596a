"""`wavlm lm`: an n-gram language model with modified Kneser-Ney smoothing, from texts or from the transcripts of a corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.shared_utterances import HELD_OUT
from wavlm_lightning.data.subset import open_splits
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import check_output, write_text
from wavlm_lightning.system.reading import check_file, read_lines
from wavlm_lightning.tasks.components.beam_search import WORD_END
from wavlm_lightning.tasks.components.ngrams import NGrams, count_ngrams, letter_lexicon
from wavlm_lightning.tasks.components.spoken_text import spoken_text
from wavlm_lightning.tasks.content.phoneme_recognition import PAUSE

UNITS = {
    "words": "words, for a beam search with a lexicon",
    "letters": f"letters, `{WORD_END}` after every word, for a beam search without a lexicon",
    "phones": "phones separated by blanks (of a corpus: its `phones`), for phone recognition",
}


def make_language_model(
    sources: Sequence[Path],
    out: Path,
    order: int = 4,
    units: str = "words",
    split: str = "train",
    as_it_is: bool = False,
    lexicon: Path | None = None,
) -> list[str]:
    """Count n-grams and write an ARPA file.

    Args:
        sources: text files with a sentence a line, gzipped if they end with `.gz`, or folders of corpora.
        out: the ARPA file.
        order: longest n-gram.
        units: one of `UNITS`.
        split: of corpora, or several joined by `+`; never one of validation or test.
        as_it_is: take words as they stand, instead of their `spoken_text` (upper case, no punctuation).
        lexicon: where to write a lexicon that spells every word by its letters; units `words` only.

    Returns:
        Lines that say what was counted and what was left out.

    Raises:
        UserError: a source is missing, has no text, the split is held out, or the order is too high for it.

    Example:
        >>> make_language_model([Path("runs/demo/corpus/pr")], Path("lm.arpa"), order=3)[0]
        'lm.arpa: order 3, 1200 sentences, 9600 words, 160 different'
    """
    if units not in UNITS:
        raise UserError(f"--units {units}: choose {', '.join(UNITS)}")
    if held := next((part for part in split.split("+") if part.startswith(HELD_OUT)), None):
        raise UserError(
            f"--split {split}: a model that has read the text of {held} makes the figures of that split worthless; name a split "
            "for training"
        )
    if lexicon is not None and units != "words":
        raise UserError(f"--lexicon: a model of {units} needs none; leave it out, or choose --units words")
    for path in filter(None, (out, lexicon)):
        if path.is_dir():
            raise UserError(f"{path}: a folder; name the file to write, such as {path / 'lm.arpa'}")
        check_output(path.parent)
    said = (lambda text: " ".join(text.split())) if as_it_is or units == "phones" else spoken_text
    empty, sentences = 0, []
    for source in sources:
        for text in _texts(source, split, units):
            tokens = _tokens(said(text), units)
            if tokens:
                sentences.append(tokens)
            else:
                empty += 1
    if not sentences:
        raise UserError(
            f"{', '.join(map(str, sources))}: no {units} in it; give text with a sentence a line, or another split"
        )
    model = count_ngrams(sentences, order)
    out.parent.mkdir(parents=True, exist_ok=True)
    model.write(out)
    if lexicon is not None:
        lexicon.parent.mkdir(parents=True, exist_ok=True)
        write_text(lexicon, "".join(f"{line}\n" for line in letter_lexicon(model.words)))
    return _summary(model, out, units, sentences, empty, lexicon)


def _summary(
    model: NGrams, out: Path, units: str, sentences: list[list[str]], empty: int, lexicon: Path | None
) -> list[str]:
    different = len(model.words) - 3
    total = sum(map(len, sentences))
    lines = [
        f"{out}: order {model.order}, {len(sentences):,} sentences, {total:,} {units}, {different:,} different"
        + (f"; {empty:,} empty lines left out" if empty else ""),
        "n-grams: " + ", ".join(f"{len(level.word):,} of order {n}" for n, level in enumerate(model.levels, 1)),
    ]
    guessed = [n for n, level in enumerate(model.levels, 1) if not level.estimated]
    if guessed:
        lines.append(
            f"warning: too little text to estimate the discounts of order {', '.join(map(str, guessed))}; fixed ones "
            "(0.5, 1, 1.5) stand in, so more text or a lower order may do better"
        )
    if lexicon is not None:
        lines.append(f"{lexicon}: {different:,} words by their letters")
    return lines


def _texts(source: Path, split: str, units: str) -> Iterator[str]:
    """The sentences of a text file or of a split of a corpus."""
    if source.is_dir():
        key = "phones" if units == "phones" else "text"
        metas = open_splits(Corpus.open(source), split).metas()
        if not any(meta.get(key) for meta in metas):
            raise UserError(f"{source}: split {split} has no {key}; name a text file, or a corpus with transcripts")
        for meta in metas:
            value = meta.get(key) or ""
            # The targets of PR have no pauses, and neither may its language model.
            phones = value.split() if isinstance(value, str) else map(_phone, value)
            yield value if key == "text" else " ".join(phone for phone in phones if phone != PAUSE)
    else:
        check_file(source, "a text file, or the folder of a corpus")
        yield from read_lines(source, "text with a sentence a line")


def _phone(entry: object) -> str:
    """The name of a phone, which some corpora keep with its times."""
    return str(entry[0]) if isinstance(entry, list | tuple) else str(entry)


def _tokens(text: str, units: str) -> list[str]:
    split: dict[str, Callable[[str], list[str]]] = {
        "words": str.split,
        "phones": str.split,
        "letters": lambda said: [token for word in said.split() for token in (*word, WORD_END)],
    }
    return split[units](text)
