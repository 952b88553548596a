"""Beam search over CTC outputs with a lexicon and a word n-gram language model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from wavlm_lightning.system.errors import UserError, pip_install
from wavlm_lightning.system.reading import read_text

WORD_END = "|"


@dataclass(frozen=True)
class LanguageModel:
    """Files of a lexicon and an n-gram model, and the weights of the beam search.

    The defaults are SUPERB's (s3prl `downstream/asr/config.yaml`, `decoder_args`). SUPERB's `model` is LibriSpeech's
    official 4-gram (`4-gram.arpa`, openslr.org/11), its `lexicon` fairseq's letter lexicon
    (`librispeech_lexicon.lst`). `wavlm lm` makes both from texts or a corpus.

    Args:
        lexicon: text file; each line is a word and its letters, ending in `|`: `CAT C A T |`.
        model: n-gram model of words, an ARPA file or a KenLM binary.
        beam: hypotheses kept at each frame.
        threshold: hypotheses this much worse than the best, in nats, are dropped.
        weight: of the language model's log10-probability; those of the head are natural logarithms.
        word_score: added for every word.
    """

    lexicon: str
    model: str
    beam: int = 5
    threshold: float = 25.0
    weight: float = 2.0
    word_score: float = -1.0


class BeamSearch:
    """Flashlight's lexicon decoder (Kahn et al. 2022), through torchaudio; it finds words of the lexicon only.

    Args:
        language_model: files and weights.
        labels: the symbols of the head's outputs, in order; the first is the blank, `|` ends a word.

    Example:
        >>> BeamSearch(LanguageModel("lexicon.lst", "4-gram.arpa"), labels)(logits, lengths)
        ['THE CAT', 'A CAR']
    """

    def __init__(self, language_model: LanguageModel, labels: list[str]) -> None:
        self.language_model, self.labels = language_model, labels
        try:
            # torchaudio's decoder imports without kenlm and fails only when it reads the model, so check kenlm first.
            import flashlight.lib.text.decoder.kenlm  # noqa: F401
            import torchaudio.models.decoder  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"decoding with a language model needs flashlight-text and kenlm ({error}); "
                f"install them: {pip_install('lm')}"
            ) from error
        for path in (language_model.lexicon, language_model.model):
            if not Path(path).is_file():
                raise UserError(f"{path}: no such file; language_model needs a lexicon and an ARPA or KenLM file")
        _check_lexicon(Path(language_model.lexicon), labels)

    def __call__(self, outputs: Tensor, lengths: Tensor) -> list[str]:
        """The best words of each utterance, from logits `(batch, frames, labels)` and valid frames `(batch,)`."""
        log_probabilities = outputs.detach().float().log_softmax(-1).cpu().contiguous()
        return [" ".join(best.words) for best, *_ in self.decoder(log_probabilities, lengths.cpu())]

    @cached_property
    def decoder(self) -> Any:
        """torchaudio's decoder, built at the first search because reading a large model takes minutes."""
        from torchaudio.models.decoder import ctc_decoder

        model = self.language_model
        try:
            return ctc_decoder(
                lexicon=model.lexicon,
                tokens=self.labels,
                lm=model.model,
                beam_size=model.beam,
                beam_size_token=len(self.labels),
                beam_threshold=model.threshold,
                lm_weight=model.weight,
                word_score=model.word_score,
                blank_token=self.labels[0],
                sil_token=WORD_END,
            )
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(
                f"{model.model}: KenLM cannot read this language model ({reason}); make it again"
            ) from error


def _check_lexicon(path: Path, labels: list[str]) -> None:
    known = set(labels)
    for number, line in enumerate(read_text(path, "a lexicon").splitlines(), 1):
        unknown = set(line.split()[1:]) - known
        if unknown:
            raise UserError(
                f"{path}, line {number}: the head has no output for {', '.join(map(repr, sorted(unknown)))}; "
                "use a lexicon in the letters that the head was trained on"
            )
