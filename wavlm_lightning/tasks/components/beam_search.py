"""Beam search over CTC outputs with an n-gram model of words, letters or phones, with or without a lexicon."""

from __future__ import annotations

import gzip
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wavlm_lightning.system.errors import UserError, pip_install
from wavlm_lightning.system.reading import read_lines, reading, sha256, shown
from wavlm_lightning.system.run_folder import BEST, checkpoint
from wavlm_lightning.system.yaml_files import read_yaml

WORD_END = "|"
NOT_WORDS = ("<unk>", "<s>", "</s>")  # of every ARPA file
TUNED = "language_model.yaml"  # in a run folder, from `wavlm lm tune`
NEVER = -float("inf")
SPELLED = 0.01  # of the words of a model, at least, which is otherwise one in other letters


@dataclass(frozen=True)
class LanguageModel:
    """Files of an n-gram model and a lexicon, and the weights of the beam search.

    The defaults are SUPERB's (s3prl `downstream/asr/config.yaml`, `decoder_args`). SUPERB's `model` is LibriSpeech's
    official 4-gram (`4-gram.arpa`, openslr.org/11), its `lexicon` fairseq's letter lexicon
    (`librispeech_lexicon.lst`). `wavlm lm` makes both from texts or a corpus, `wavlm lm tune` finds the weights.

    Without a lexicon, an ARPA file of letters (with `|` after every word) or of phones lets the search find any sequence of
    them; of one of words, every word is spelled by its letters.

    Args:
        lexicon: text file; each line is a word and its letters, ending in `|`: `CAT C A T |`. Null for none.
        model: n-gram model, an ARPA file or, with a lexicon, a KenLM binary.
        beam: hypotheses kept at each frame.
        threshold: hypotheses this much worse than the best, in nats, are dropped.
        weight: of the language model's log10-probability; those of the head are natural logarithms.
        word_score: added for every word; models of letters or phones have no words, and it has no effect.
        silence: added for every frame that is labelled `|`; 0 for heads without `|`.
        unknown_score: added for a word that is not in the lexicon, which is then answered as `<unk>`; null finds words of
            the lexicon alone.
        searched: where the weights come from, as `wavlm lm tune` writes it; with hashes of the files, which are compared.
    """

    lexicon: str | None = None
    model: str = ""
    beam: int = 5
    threshold: float = 25.0
    weight: float = 2.0
    word_score: float = -1.0
    silence: float = 0.0
    unknown_score: float | None = None
    searched: dict[str, Any] | None = None

    @classmethod
    def read(cls, path: Path) -> LanguageModel:
        """Read a file that `wavlm lm tune` has written, or the one in a run folder.

        Raises:
            UserError: there is none, or it holds something else.
        """
        path = Path(path)
        if path.is_dir():
            path = path / TUNED
            if not path.is_file():
                raise UserError(
                    f"{path}: no such file; make it with `wavlm lm tune {path.parent} --lm lm.arpa`, or name another"
                )
        what = "a language model with its weights, from `wavlm lm tune`"
        with reading(path, what):
            model = cls(**read_yaml(path, what, kind=dict))
            numbers = (model.beam, model.threshold, model.weight, model.word_score, model.silence)
            if not all(isinstance(number, int | float) for number in numbers):
                raise ValueError("a weight is not a number")
            if not isinstance(model.model, str) or not isinstance(model.lexicon, str | None):
                raise ValueError("a file is no path")
            return model

    def for_head(self, head: Path) -> tuple[LanguageModel, str]:
        """The model as a head decodes with it, and a note for the user where its weights were searched for another head.

        Args:
            head: checkpoint of the head (a file, or the folder of a sharded one), or the folder of an exported head.

        Returns:
            The model, whose `searched` says `other_head` where the head has other weights than the one of the search; and a
            note, empty where it has the same, or where nobody searched.

        Raises:
            UserError: the head has been trained on since, in the run folder where the search was.
        """
        searched = self.searched or {}
        wanted, run = searched.get("head_sha256"), Path(str(searched.get("run")))
        if wanted is None or (head.exists() and sha256(head, "a trained head") == wanted):
            return self, ""
        if head.resolve() == checkpoint(run, BEST).resolve():
            raise UserError(
                f"{run / TUNED}: its weights were searched before {head} was trained to its present state; search again with "
                f"`wavlm lm tune {run} --lm {self.model}`"
            )
        note = f"note: the weights of the language model were searched for another head, {checkpoint(run, BEST)}, not {head}"
        return replace(self, searched={**searched, "other_head": True}), note

    def described(self) -> dict[str, Any]:
        """Files and weights for a result card, JSON-like, with hashes where `searched` has them."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class Hypothesis(NamedTuple):
    """What a search has found."""

    text: str  # words, or phones separated by blanks
    score: float  # natural logarithm of the head's path, plus all weighted scores


class FoundPath(NamedTuple):
    """The best path of a search, frame by frame."""

    text: str
    score: float  # as in `Hypothesis`: `acoustic`, and all weighted scores
    acoustic: float  # natural logarithm of the head's path alone
    symbols: list[int]  # of each frame, an index into the emissions; 0 is the blank


class BeamSearch:
    """Flashlight's decoders (Kahn et al. 2022): with a lexicon, they find its words only; without one, any units.

    The best path counts, not the sum over paths (fairseq's `log_add False`).

    Args:
        language_model: files and weights.
        labels: the symbols of the head's outputs, in order; the first is the blank, `|` ends a word.
        special: indices of outputs, the blank among them, that stand for no letter or phone. A search without words does
            not answer with them.
        silent: indices of outputs that say that nothing is heard: the end symbol, a pause. To a search without words they are
            the same as the blank.
        pronunciations: of a head of phones, words and the phones of each of their pronunciations, in place of a lexicon file:
            the search then finds words, and `language_model.model` is one of words.

    Example:
        >>> BeamSearch(LanguageModel("lexicon.lst", "4-gram.arpa"), labels)(logits, lengths)
        ['THE CAT', 'A CAR']
    """

    def __init__(
        self,
        language_model: LanguageModel,
        labels: list[str],
        special: Collection[int] = (0,),
        silent: Sequence[int] = (),
        pronunciations: dict[str, list[list[str]]] | None = None,
    ) -> None:
        self._pronunciations = pronunciations
        self.language_model, self.labels, self.silent = language_model, labels, silent
        self._units = [number for number in range(len(labels)) if number not in special and number not in silent]
        try:
            import flashlight.lib.text.decoder.kenlm  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"decoding with a language model needs flashlight-text and kenlm ({error}); "
                f"install them: {pip_install('lm')}"
            ) from error
        if not language_model.model:
            raise UserError("language_model.model: names no file; give an ARPA or KenLM file")
        for path in filter(None, (language_model.lexicon, language_model.model)):
            if not Path(path).is_file():
                raise UserError(
                    f"{path}: no such file; language_model needs an ARPA or KenLM file, and maybe a lexicon"
                )
        _check_hashes(language_model)
        if language_model.silence and WORD_END not in labels:
            raise UserError(f"language_model.silence: this head has no output {WORD_END!r} to add it to; set it to 0")
        if language_model.beam < 1:
            raise UserError(f"language_model.beam: {language_model.beam}; a search needs at least 1 hypothesis")
        self.left_out = 0  # words of the model that the head cannot spell
        self._lexicon = self._words()

    @property
    def note(self) -> str:
        """What to tell people of the words that are never found; empty if all may be."""
        if not self.left_out:
            return ""
        return (
            f"note: the head cannot spell {self.left_out:,} words of {self.language_model.model}; they are never found"
        )

    @property
    def has_words(self) -> bool:
        """Whether the model is one of words, and not of letters or phones."""
        return self._lexicon is not None

    @property
    def _reads_units(self) -> bool:
        """Whether the search reads the blank and the units alone, and not all outputs."""
        return not self.has_words or self._pronunciations is not None

    def __call__(self, outputs: Tensor, lengths: Tensor) -> list[str]:
        """The best words of each utterance, from logits `(batch, frames, labels)` and valid frames `(batch,)`."""
        return [best[0].text for best in self.nbest(outputs, lengths)]

    def nbest(self, outputs: Tensor, lengths: Tensor, count: int = 1) -> list[list[Hypothesis]]:
        """The best different texts of each utterance, best first: at least one, at most `count`."""
        log_probabilities = outputs.detach().float().log_softmax(-1).cpu()
        if self._reads_units:
            log_probabilities = self._units_only(log_probabilities)
        rows = zip(log_probabilities.contiguous(), lengths.tolist(), strict=True)
        return [self.search_row(row[:frames], count) for row, frames in rows]

    def emissions(self, outputs: Tensor) -> Tensor:
        """What the search reads of logits `(frames, labels)`: float32 `(frames, symbols)` log-probabilities."""
        log_probabilities = outputs.detach().float().log_softmax(-1).cpu()
        return (self._units_only(log_probabilities) if self._reads_units else log_probabilities).contiguous()

    def search_row(self, emissions: Tensor, count: int = 1) -> list[Hypothesis]:
        """`nbest` of one utterance from its `emissions`, float32 `(frames, symbols)`, contiguous, on the CPU."""
        frames, symbols = emissions.shape
        results = self.decoder.decode(emissions.data_ptr(), frames, symbols)
        found: dict[str, float] = {}
        for result in results:  # best first; a text may end in several ways, of which the best comes first
            found.setdefault(self._text(result), result.score)
            if len(found) == count:
                break
        return [Hypothesis(*each) for each in found.items()] or [Hypothesis("", NEVER)]

    def best_path(self, emissions: Tensor) -> FoundPath:
        """The best hypothesis of one utterance with its path, from `emissions` as `search_row` reads them."""
        frames, symbols = emissions.shape
        results = self.decoder.decode(emissions.data_ptr(), frames, symbols)
        if not results:
            return FoundPath("", NEVER, NEVER, [0] * frames)
        best = results[0]  # its tokens have a silence before the first frame, and one behind the last
        return FoundPath(self._text(best), best.score, best.emittingModelScore, list(best.tokens[1:-1]))

    def reweighted(self, language_model: LanguageModel) -> BeamSearch:
        """The same search with other weights; the files, which take minutes to read, are shared and not read again."""
        other = object.__new__(BeamSearch)
        other.__dict__ = {name: value for name, value in self.__dict__.items() if name != "decoder"}
        other.__dict__["files"] = self.files
        other.language_model = language_model
        return other

    @cached_property
    def files(self) -> tuple[Any, Any, Any]:
        """The n-gram model, the dictionary of its words or units, and the trie of the lexicon, read at the first search."""
        from flashlight.lib.text.decoder import SmearingMode, Trie
        from flashlight.lib.text.decoder.kenlm import KenLM
        from flashlight.lib.text.dictionary import Dictionary

        words = Dictionary()
        for entry in dict.fromkeys((*(self._lexicon or self._symbols), NOT_WORDS[0])):
            words.add_entry(entry)
        path = self.language_model.model
        try:
            model = KenLM(path, words)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"{path}: KenLM cannot read this language model ({reason}); make it again") from error
        if self._lexicon is None:
            return model, words, None
        numbers = {symbol: number for number, symbol in enumerate(self._symbols)}
        trie, start = Trie(len(numbers), self._silence), model.start(False)
        for word, spellings in self._lexicon.items():
            place = words.get_index(word)
            _, score = model.score(start, place)
            for spelling in spellings:
                trie.insert([numbers[letter] for letter in spelling], place, score)
        trie.smear(SmearingMode.MAX)
        return model, words, trie

    @cached_property
    def decoder(self) -> Any:
        """Flashlight's decoder with the weights of this search."""
        from flashlight.lib.text import decoder

        weights, (model, words, trie) = self.language_model, self.files
        options: dict[str, Any] = {
            "beam_size": weights.beam,
            "beam_size_token": len(self._symbols),
            "beam_threshold": weights.threshold,
            "lm_weight": weights.weight,
            "sil_score": weights.silence,
            "log_add": False,
            "criterion_type": decoder.CriterionType.CTC,
        }
        if trie is None:
            free = decoder.LexiconFreeDecoderOptions(**options)
            return decoder.LexiconFreeDecoder(free, model, self._silence, 0, [])
        unknown = NEVER if weights.unknown_score is None else weights.unknown_score
        lexical = decoder.LexiconDecoderOptions(**options, word_score=weights.word_score, unk_score=unknown)
        place = words.get_index(NOT_WORDS[0])
        return decoder.LexiconDecoder(lexical, trie, model, self._silence, 0, place, [], False)

    @cached_property
    def _symbols(self) -> list[str]:
        """What the search reads: all outputs, or the blank and the units."""
        return [self.labels[0], *(self.labels[number] for number in self._units)] if self._reads_units else self.labels

    @property
    def _silence(self) -> int:
        """Number of `|` among the symbols; of a head without it, that of the blank, to which nothing is added."""
        return self._symbols.index(WORD_END) if WORD_END in self._symbols else 0

    def _units_only(self, log_probabilities: Tensor) -> Tensor:
        """Log-probabilities `(..., symbols)` of the blank or of what is as silent, and of the units."""
        silent = log_probabilities[..., :1]
        for number in self.silent:
            silent = torch.logaddexp(silent, log_probabilities[..., number : number + 1])
        return torch.cat([silent, log_probabilities[..., self._units]], -1)

    def _text(self, result: Any) -> str:
        _, words, _ = self.files
        if self.has_words:
            return " ".join(words.get_entry(number) for number in result.words if number >= 0)
        units = [self._symbols[number] for number, _ in groupby(result.tokens) if number > 0]
        return " ".join("".join(units).replace(WORD_END, " ").split() if WORD_END in self.labels else units)

    def _words(self) -> dict[str, list[list[str]]] | None:
        """Spellings of each word; None for a model of the head's own units.

        Raises:
            UserError: lexicon, model and head do not fit.
        """
        given = self.language_model
        if self._pronunciations is not None:
            return self._pronunciations
        if given.lexicon is not None:
            if WORD_END not in self.labels:
                raise UserError(
                    f"{given.lexicon}: this head answers with phones, and a lexicon is of words; leave language_model.lexicon "
                    "out, and give a model of phones (`wavlm lm --units phones`)"
                )
            return _read_lexicon(Path(given.lexicon), self.labels)
        vocabulary = list(_vocabulary(Path(given.model)))
        units = {self.labels[number] for number in self._units}
        if WORD_END in vocabulary or WORD_END not in units:
            if foreign := sorted(set(vocabulary) - units):
                raise UserError(
                    f"{given.model}: the head has no output for {', '.join(map(shown, foreign[:5]))}"
                    f"{' and others' if len(foreign) > 5 else ''}; give a model of the {len(units)} letters or phones that the "
                    "head was trained on (`wavlm lm --units`)"
                )
            return None
        spelled = {word: [[*word, WORD_END]] for word in vocabulary if set(word) <= units}
        self.left_out = len(vocabulary) - len(spelled)
        if len(spelled) < SPELLED * len(vocabulary):
            raise UserError(
                f"{given.model}: the head can spell {len(spelled):,} of its {len(vocabulary):,} words, not "
                f"{next(word for word in vocabulary if word not in spelled)!r} for example; give a model of words in the letters "
                "of the head, in their case"
            )
        return spelled


def _check_hashes(language_model: LanguageModel) -> None:
    """Refuse files that have changed since the weights were searched."""
    for name in ("model", "lexicon"):
        path, wanted = getattr(language_model, name), (language_model.searched or {}).get(f"{name}_sha256")
        if path is None or wanted is None:
            continue
        if sha256(Path(path), "a language model") != wanted:
            raise UserError(
                f"{path}: not the file with which the weights were searched; search again with `wavlm lm tune`"
            )


def _read_lexicon(path: Path, labels: list[str]) -> dict[str, list[list[str]]]:
    known, found = set(labels), dict[str, list[list[str]]]()
    for number, line in enumerate(read_lines(path, "a lexicon"), 1):
        word, *letters = line.split() or [""]
        if unknown := set(letters) - known:
            raise UserError(
                f"{path}, line {number}: the head has no output for {', '.join(map(repr, sorted(unknown)))}; "
                "use a lexicon in the letters that the head was trained on"
            )
        if letters:
            found.setdefault(word, []).append(letters)
    if not found:
        raise UserError(f"{path}: holds no word; each line of a lexicon is a word and its letters")
    return found


def _vocabulary(path: Path) -> Iterator[str]:
    """Words of an ARPA file, in its order, without the special ones; only its first section is read."""
    remedy = "without a lexicon, language_model.model must be an ARPA file"
    inside, found = False, False
    opened = gzip.open if path.suffix == ".gz" else open
    with reading(path, "an ARPA file", remedy), opened(path, "rt", encoding="utf-8") as file:
        for line in file:
            line = line.strip()
            if inside and line.startswith("\\"):
                break
            fields = line.split()
            if inside and len(fields) > 1 and fields[1] not in NOT_WORDS:
                found = True
                yield fields[1]
            inside = inside or line == "\\1-grams:"
    if not found:
        raise UserError(f"{path}: holds no words of order 1, so it is not an ARPA file; {remedy}")
