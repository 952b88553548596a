"""A folder of a model with a head, as the transformers library writes it: which head, its labels and its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from wavlm_lightning.encoder import CheckpointError
from wavlm_lightning.encoder.checkpoints.huggingface import OWN_KEY, POSITION_BIAS, read_weights
from wavlm_lightning.encoder.checkpoints.tensor_files import read_json
from wavlm_lightning.system.errors import UserError

CLASSIFICATION, VERIFICATION = "ForSequenceClassification", "ForXVector"
FRAMES, CTC = "ForAudioFrameClassification", "ForCTC"
HEADS = (CLASSIFICATION, VERIFICATION, FRAMES, CTC)
"""The ends of the names of transformers' classes that we have the same heads of."""

ENCODERS = {"wavlm": "WavLM", "hubert": "Hubert", "wav2vec2": "Wav2Vec2"}
"""`model_type` -> the beginning of the names of its classes."""

SAME_NAMES = {"layer_weights": "weighted_sum.logits"}
"""Name of a parameter of every head there -> our name."""


@dataclass(frozen=True)
class HeadFolder:
    """What the folder says of the head.

    Attributes:
        path: of the folder.
        values: content of `config.json`.
        kind: one of `HEADS`.
        state: the head's tensors under the names that transformers has, without the encoder's.
        tokens: of a model with CTC, the label of each logit; empty for others.
    """

    path: Path
    values: dict[str, Any]
    kind: str
    state: dict[str, Tensor]
    tokens: list[str]

    @classmethod
    def read(cls, path: Path) -> HeadFolder:
        """Read a folder.

        Raises:
            UserError: it is none, or holds no head of a kind that we have.
        """
        try:
            values = read_json(path / "config.json") if (path / "config.json").is_file() else None
            if values is None:
                raise UserError(f"{path}: no config.json there; give a folder in Hugging Face's format")
            kind = _kind(path, values)
            prefixes = tuple(f"{name}." for name in POSITION_BIAS)
            state = {name: value for name, value in read_weights(path).items() if not name.startswith(prefixes)}
            vocabulary = read_json(path / "vocab.json") if kind == CTC and (path / "vocab.json").is_file() else {}
        except CheckpointError as error:
            raise UserError(str(error)) from error
        if kind == CTC and not vocabulary:
            raise UserError(f"{path}: no vocab.json there, so nobody knows which letter a logit means; add the file")
        return cls(path, values, kind, state, _tokens(path, vocabulary, state) if kind == CTC else [])

    @property
    def own(self) -> dict[str, Any]:
        """What `wavlm export` has written about the head; nothing in a folder from elsewhere."""
        section = self.values.get(OWN_KEY)
        head = section.get("head") if isinstance(section, Mapping) else None
        return dict(head) if isinstance(head, Mapping) else {}

    @property
    def names(self) -> list[str]:
        """The label of each logit, by `id2label`.

        Raises:
            UserError: `id2label` does not name each of them once.
        """
        wanted = {str(number) for number in range(self.shape("classifier.weight")[0])}
        given = self.values.get("id2label") or {}
        names = {key: str(given[key]) if key in given else f"LABEL_{key}" for key in wanted}
        if set(given) - wanted or len(set(names.values())) < len(wanted):
            raise UserError(f"{self.path / 'config.json'}: id2label must name each of the {len(wanted)} outputs once")
        return [names[key] for key in sorted(wanted, key=int)]

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor of the head.

        Raises:
            UserError: there is none of that name.
        """
        if name not in self.state:
            raise UserError(f"{self.path}: its weights lack {name}, which a {self.kind} head has")
        return tuple(self.state[name].shape)


def is_head_folder(path: Path) -> bool:
    """Whether a folder holds a model of transformers and not a run of ours."""
    return (path / "config.json").is_file() and not (path / "config.yaml").is_file()


def _kind(path: Path, values: Mapping[str, Any]) -> str:
    named = values.get("architectures") or ["nothing"]
    for model_type, encoder in ENCODERS.items():
        for kind in HEADS:
            if named[0] == f"{encoder}{kind}" and values.get("model_type", model_type) == model_type:
                return kind
    raise UserError(
        f"{path}: its config.json names {named[0]}, which is no head that we have; give one of "
        f"{', '.join(f'WavLM{kind}' for kind in HEADS)}"
    )


def _tokens(path: Path, vocabulary: Mapping[str, Any], state: Mapping[str, Tensor]) -> list[str]:
    size = len(state["lm_head.weight"]) if "lm_head.weight" in state else 0
    if any(isinstance(value, Mapping) for value in vocabulary.values()):
        raise UserError(f"{path / 'vocab.json'}: holds vocabularies of several languages; leave the one in use")
    by_number = {number: token for token, number in vocabulary.items()}
    # Models from elsewhere have logits for tokens that only the tokeniser adds, such as <s>; nothing ever says them.
    return [str(by_number.get(number, f"<{number}>")) for number in range(size)]
