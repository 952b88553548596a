"""Reading a folder of the transformers library with a head: its configuration, labels and tensors, and the task it becomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from wavlm_lightning.encoder import CheckpointError
from wavlm_lightning.encoder.checkpoints.huggingface import OWN_KEY, POSITION_BIAS, read_weights
from wavlm_lightning.encoder.checkpoints.tensor_files import read_json
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Task
from wavlm_lightning.tasks.components.xvector import CONTEXTS, TIME_DELAY, from_transformers
from wavlm_lightning.tasks.huggingface import heads
from wavlm_lightning.tasks.transformers_form import CLASSIFICATION, CTC, FRAMES, VERIFICATION

HEADS = (CLASSIFICATION, VERIFICATION, FRAMES, CTC)  # suffixes of the transformers classes whose heads we have

ENCODERS = {"wavlm": "WavLM", "hubert": "Hubert", "wav2vec2": "Wav2Vec2"}  # `model_type` -> prefix of its class names

SAME_NAMES = {"layer_weights": "weighted_sum.logits"}  # name of a parameter of every transformers head -> our name

# The tasks that a head of each kind can serve.
TASKS: dict[str, dict[str, type[Task]]] = {
    CLASSIFICATION: {
        "KS": heads.FolderKeywordSpotting,
        "SID": heads.FolderSpeakerIdentification,
        "ER": heads.FolderEmotionRecognition,
        "IC": heads.FolderIntentClassification,
    },
    VERIFICATION: {"SV": heads.FolderSpeakerVerification},
    FRAMES: {"SD": heads.FolderSpeakerDiarization},
    CTC: {"ASR": heads.FolderSpeechRecognition, "PR": heads.FolderPhonemeRecognition},
}


@dataclass(frozen=True)
class HeadFolder:
    """A folder of a model with a head, as transformers writes it."""

    path: Path
    values: dict[str, Any]  # content of `config.json`
    kind: str  # one of `HEADS`
    state: dict[str, Tensor]  # the head's tensors under transformers' names, without those of the encoder
    tokens: list[str]  # of a model with CTC, the label of each logit; empty for others

    @classmethod
    def read(cls, path: Path) -> HeadFolder:
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
            raise UserError(f"{path}: no vocab.json there, which names the label of each logit; add the file")
        return cls(path, values, kind, state, _tokens(path, vocabulary, state) if kind == CTC else [])

    @property
    def own(self) -> dict[str, Any]:
        """The section that `wavlm export` writes about the head; empty for other folders."""
        section = self.values.get(OWN_KEY)
        head = section.get("head") if isinstance(section, Mapping) else None
        return dict(head) if isinstance(head, Mapping) else {}

    @property
    def names(self) -> list[str]:
        """The label of each logit, by `id2label`."""
        wanted = {str(number) for number in range(self.shape("classifier.weight")[0])}
        given = self.values.get("id2label") or {}
        names = {key: str(given[key]) if key in given else f"LABEL_{key}" for key in wanted}
        if set(given) - wanted or len(set(names.values())) < len(wanted):
            raise UserError(f"{self.path / 'config.json'}: id2label must name each of the {len(wanted)} outputs once")
        return [names[key] for key in sorted(wanted, key=int)]

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self.state:
            raise UserError(f"{self.path}: its weights lack {name}, which a {self.kind} head has")
        return tuple(self.state[name].shape)


def is_head_folder(path: Path) -> bool:
    """Whether a folder holds a transformers model rather than a run folder."""
    return (path / "config.json").is_file() and not (path / "config.yaml").is_file()


def _kind(path: Path, values: Mapping[str, Any]) -> str:
    named = values.get("architectures") or ["nothing"]
    for model_type, encoder in ENCODERS.items():
        for kind in HEADS:
            if named[0] == f"{encoder}{kind}" and values.get("model_type", model_type) == model_type:
                return kind
    raise UserError(
        f"{path}: its config.json names {named[0]}, which is not a supported head; give one of "
        f"{', '.join(f'WavLM{kind}' for kind in HEADS)}"
    )


def _tokens(path: Path, vocabulary: Mapping[str, Any], state: Mapping[str, Tensor]) -> list[str]:
    size = len(state["lm_head.weight"]) if "lm_head.weight" in state else 0
    if any(isinstance(value, Mapping) for value in vocabulary.values()):
        raise UserError(f"{path / 'vocab.json'}: holds vocabularies of several languages; keep only the one in use")
    by_number = {number: token for token, number in vocabulary.items()}
    # Published models have logits for tokens that only the tokeniser adds, such as <s>; they are never predicted.
    return [str(by_number.get(number, f"<{number}>")) for number in range(size)]


def huggingface_head(
    source: str,
    task: Literal["KS", "SID", "ER", "IC", "SV", "SD", "ASR", "PR"] | None = None,
    learning_rate: float = 1e-4,
    frozen: bool = True,
    seed: int = 1337,
) -> Task:
    """A model with a head from the transformers library as a task: to apply, to score on a corpus, or to train further.

    Heads agree with `WavLMForSequenceClassification`, `WavLMForXVector`, `WavLMForAudioFrameClassification` and
    `WavLMForCTC` (and those of HuBERT and wav2vec 2.0) on single recordings. In a padded batch our outputs stay the same,
    while transformers' norms and means then include padding.

    Args:
        source: a folder with `config.json`, weights and, for CTC, `vocab.json`.
        task: the task of the head, where the folder does not name it: KS, SID or ER for a classifier, ASR (by default) or
            PR for CTC.
        learning_rate: of Adam, to train it further.
        frozen: False trains the encoder, too.
        seed: of training.

    Raises:
        UserError: the folder holds no supported head, or its tensors do not fit.

    Example:
        >>> huggingface_head("exports/ks").name
        'KS'
    """
    folder = HeadFolder.read(Path(source))
    own = folder.own
    kind = _choose(folder, task or own.get("task"))
    upstream = heads.HeadEncoder(source, folder.values, frozen)
    arguments: dict[str, Any] = {"upstream": upstream, "learning_rate": learning_rate, "seed": seed}
    if folder.kind == CLASSIFICATION:
        arguments["hidden"] = folder.shape("projector.weight")[0]
    elif folder.kind == VERIFICATION:
        kind, shapes = _verification(folder, kind)
        arguments |= shapes
    elif folder.kind == FRAMES:
        arguments["speakers"] = folder.shape("classifier.weight")[0]
    model = kind(**arguments)
    model.build(_labels(folder, kind))
    model.trained = {"processing": dict(own.get("processing") or {})}
    state = to_ours(folder, model)
    encoder = {name: value for name, value in model.state_dict().items() if name.startswith("upstream.")}  # if trained
    expected = {name: value for name, value in model.state_dict().items() if name not in encoder}
    wrong = sorted(expected.keys() ^ state.keys()) or [n for n in expected if expected[n].shape != state[n].shape]
    if wrong:
        raise UserError(f"{source}: its weights do not fit a {folder.kind} head ({', '.join(wrong[:3])})")
    model.load_state_dict({**{name: value.float() for name, value in state.items()}, **encoder})
    return model.eval()


def to_ours(folder: HeadFolder, model: Task) -> dict[str, Tensor]:
    """The head's tensors under the names of a task."""
    state = {SAME_NAMES.get(name, name): value for name, value in folder.state.items()}
    if not getattr(model.upstream, "weighted", True):
        state.pop("weighted_sum.logits", None)
    if folder.kind == VERIFICATION:
        affine = "embedder" if isinstance(model, heads.FolderSpeakerVerification) else "network.affine"
        state = dict(from_transformers(name, value, affine) for name, value in state.items())
    if folder.kind == CTC:
        order = _blank_first(folder)
        state = {name: value[order] if name.startswith("lm_head.") else value for name, value in state.items()}
    return state


def _choose(folder: HeadFolder, task: str | None) -> type[Task]:
    known = TASKS[folder.kind]
    if task is None:
        return heads.FolderClassification if folder.kind == CLASSIFICATION else next(iter(known.values()))
    if task not in known:
        raise UserError(f"{folder.path} is a {folder.kind} head, which cannot do {task}; it can do {', '.join(known)}")
    if task == "IC" and not isinstance(folder.own.get("labels"), Mapping):
        raise UserError(
            f"{folder.path} does not name the slot of each label, so it cannot be scored as IC; export the head again"
        )
    return known[task]


def _labels(folder: HeadFolder, kind: type[Task]) -> Any:
    if folder.kind == CTC:
        return [folder.tokens[number] for number in _blank_first(folder)]
    if kind is heads.FolderIntentClassification:
        return {slot: list(values) for slot, values in folder.own["labels"].items()}
    if folder.kind == VERIFICATION:
        given = folder.values.get("id2label") or {}
        return [str(given.get(str(n), f"LABEL_{n}")) for n in range(folder.shape("objective.weight")[1])]
    return folder.names


def _blank_first(folder: HeadFolder) -> list[int]:
    """Order of the logits in which the blank is the first: it and the first are swapped."""
    order = list(range(len(folder.tokens)))
    blank = folder.values.get("pad_token_id", 0)
    if blank not in order:
        raise UserError(f"{folder.path / 'config.json'}: pad_token_id {blank} is not among the {len(order)} logits")
    order[0], order[blank] = blank, 0
    return order


def _verification(folder: HeadFolder, kind: type[Task]) -> tuple[type[Task], dict[str, Any]]:
    for name, wanted in TIME_DELAY.items():
        given = folder.values.get(name, wanted)
        if list(given) != wanted:
            raise UserError(f"{folder.path / 'config.json'}: {name} is {list(given)}, but our network has {wanted}")
    widths = [folder.shape(f"tdnn.{layer}.kernel.weight")[0] for layer in range(len(CONTEXTS))]
    hidden, embedding = (folder.shape(f"{layer}.weight")[0] for layer in ("projector", "feature_extractor"))
    sizes = {"hidden": hidden, "widths": widths, "embedding": embedding}
    return (heads.OwnSpeakerVerification if folder.own.get("embedding") == "relu" else kind), sizes
