"""Quality of translations with one reference each: BLEU and chrF by sacrebleu, and the share of exact answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from wavlm_lightning.metrics.text.ngram_counts import COLUMNS
from wavlm_lightning.system.errors import UserError, one_line, pip_install

TOKENIZERS = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}
"""sacrebleu's tokenizers of BLEU for languages that do not write spaces between words; `13a` for all others."""


def tokenizer_of(language: str) -> str:
    """The tokenizer of BLEU for a language such as `de` or `zh-CN`."""
    return TOKENIZERS.get(language.replace("_", "-").split("-")[0].lower(), "13a")


def check_sacrebleu(what: str, tokenizer: str) -> None:
    """Refuse, in a sentence that begins with `what`, if sacrebleu or what its tokenizer needs is not installed."""
    if find_spec("sacrebleu") is None:
        raise UserError(f"{what}: BLEU and chrF come from the package sacrebleu; {pip_install('translation')}")
    from sacrebleu.metrics.bleu import BLEU

    if tokenizer not in BLEU.TOKENIZERS:
        raise UserError(
            f"{what}: sacrebleu has no tokenizer {tokenizer!r}; choose one of {', '.join(sorted(BLEU.TOKENIZERS))}"
        )
    try:
        BLEU(tokenize=tokenizer)
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"{what}: sacrebleu's tokenizer {tokenizer!r} cannot be used ({one_line(str(error), 200)}); install what it needs, "
            "or choose another"
        ) from error


@dataclass(frozen=True)
class TranslationScores:
    """Scores of a whole set of translations, as fractions, and how sacrebleu made them.

    Attributes:
        bleu: corpus BLEU (Papineni et al. 2002).
        chrf: corpus chrF2, an F-score of character n-grams (Popovic 2015); steadier than BLEU on small sets.
        exact_match: share of answers that are their reference, character by character.
        signatures: of BLEU and of chrF, to be quoted with the figures.
    """

    bleu: float
    chrf: float
    exact_match: float
    signatures: dict[str, str]


def score_translations(answers: Sequence[str], references: Sequence[str], tokenizer: str = "13a") -> TranslationScores:
    """Scores of translations, case and punctuation included, with one reference each.

    An empty answer adds nothing but its reference's length. Without sacrebleu: see `check_sacrebleu`. `ValueError` for no answer
    at all, which has no score, or for another number of references.

    Example:
        >>> score_translations(["Der Hund ist klein."], ["Der Hund ist klein."]).bleu
        1.0
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    if not answers or len(answers) != len(references):
        raise ValueError(f"{len(answers)} answers and {len(references)} references; each answer needs its own")
    bleu, chrf = BLEU(tokenize=tokenizer, force=True), CHRF()
    # sacrebleu wants a list of reference streams, each with one reference of every answer; the transposed form is nonsense.
    streams = [list(references)]
    found = bleu.corpus_score(list(answers), streams), chrf.corpus_score(list(answers), streams)
    exact = sum(answer == reference for answer, reference in zip(answers, references, strict=True))
    return TranslationScores(
        # Rounding puts some perfect scores a trace above 100.
        min(found[0].score / 100, 1.0),
        min(found[1].score / 100, 1.0),
        exact / len(answers),
        {"bleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature())},
    )


def bleu_counts(answers: Sequence[str], references: Sequence[str], tokenizer: str = "13a") -> np.ndarray:
    """What each translation adds to corpus BLEU, int64 `(answers, COLUMNS)`: `bleu_of` of their sum is BLEU."""
    from sacrebleu.metrics.bleu import BLEU

    # Counts do not depend on the effective order, of which sacrebleu reminds those who score single sentences.
    bleu = BLEU(tokenize=tokenizer, effective_order=True)
    found = [bleu.sentence_score(answer, [one]) for answer, one in zip(answers, references, strict=True)]
    rows = [[*each.counts, *each.totals, each.sys_len, each.ref_len] for each in found]
    return np.array(rows, dtype=np.int64).reshape(-1, COLUMNS)


class TranslationQuality(Metric):
    """`score_translations` of the answers of all processes: `bleu`, `chrf` and `exact_match`, as fractions.

    The texts themselves are gathered, so that the figures of several processes are sacrebleu's to the last digit.

    Args:
        tokenizer: of BLEU, such as `13a`.

    Example:
        >>> metric = TranslationQuality()
        >>> metric.update(["Der Hund ist klein."], ["Der Hund ist klein."])
        >>> metric.compute()
        {'bleu': tensor(1.), 'chrf': tensor(1.), 'exact_match': tensor(1.)}
    """

    full_state_update = False
    is_differentiable = False
    texts: list[Tensor]

    def __init__(self, tokenizer: str = "13a") -> None:
        super().__init__()
        self.tokenizer = tokenizer
        # Lines of JSON in ASCII, each an answer and its reference: tensors alone travel between processes. As floats, because
        # torchmetrics sends an empty tensor of floats from a process that has seen nothing.
        self.add_state("texts", [], dist_reduce_fx="cat")

    def update(self, answers: Sequence[str], references: Sequence[str]) -> None:
        """Add answers and their references."""
        lines = "".join(f"{json.dumps(pair)}\n" for pair in zip(answers, references, strict=True))
        self.texts.append(torch.tensor(list(lines.encode("ascii")), dtype=torch.float32, device=self.device))

    def compute(self) -> dict[str, Tensor]:
        """The three measures, float32 scalars; NaN without any answer."""
        texts = dim_zero_cat(self.texts) if len(self.texts) else torch.zeros(0)
        lines = bytes(texts.to(torch.uint8).tolist()).decode("ascii").splitlines()
        pairs = [json.loads(line) for line in lines]
        names = ("bleu", "chrf", "exact_match")
        if not pairs:
            return {name: torch.tensor(float("nan"), device=self.device) for name in names}
        answers, references = zip(*pairs, strict=True)
        found = score_translations(answers, references, self.tokenizer)
        return {name: torch.tensor(getattr(found, name), dtype=torch.float32, device=self.device) for name in names}
