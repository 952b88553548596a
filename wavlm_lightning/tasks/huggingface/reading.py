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
from wavlm_lightning.system.reading import shown
from wavlm_lightning.tasks.base import Task
from wavlm_lightning.tasks.components.beam_search import WORD_END
from wavlm_lightning.tasks.components.xvector import CONTEXTS, TIME_DELAY, from_transformers
from wavlm_lightning.tasks.content.letters import SPECIAL
from wavlm_lightning.tasks.huggingface import heads
from wavlm_lightning.tasks.transformers_form import CLASSIFICATION, CTC, FRAMES, VERIFICATION

# `problem_type` of a classifier -> the head that answers so; None is softmax, as in transformers' pipeline.
PROBLEMS: dict[str | None, type[Task]] = {
    None: heads.FolderClassification,
    "single_label_classification": heads.FolderClassification,
    "multi_label_classification": heads.FolderMultiLabel,
    "regression": heads.FolderRegression,
}

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
    tokenizer: dict[str, Any]  # of a model with CTC, what `tokenizer_config.json` says; {} without the file

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
        if kind != CTC:
            return cls(path, values, kind, state, [], {})
        tokens = _tokens(path, vocabulary, state)
        if not tokens:
            raise UserError(f"{path}: its weights lack lm_head.weight, which a {CTC} head has")
        if (size := values.get("vocab_size", len(tokens))) != len(tokens):
            raise UserError(f"{path / 'config.json'}: vocab_size is {size}, but the head has {len(tokens)} outputs")
        return cls(path, values, kind, state, tokens, _tokenizer(path))

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
        given = self.values.get("id2label") or {f"{key}": f"LABEL_{key}" for key in wanted}
        if (count := self.values.get("num_labels", len(wanted))) != len(wanted):
            raise UserError(
                f"{self.path / 'config.json'}: num_labels is {count}, but the head has {len(wanted)} outputs"
            )
        names = {str(key): str(name) for key, name in given.items()}
        if set(names) != wanted or len(set(names.values())) < len(wanted):
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
    named = values.get("architectures")
    named = named if isinstance(named, list) and named else ["nothing"]
    for model_type, encoder in ENCODERS.items():
        for kind in HEADS:
            if named[0] == f"{encoder}{kind}" and values.get("model_type", model_type) == model_type:
                return kind
    raise UserError(
        f"{path}: its config.json names {shown(named[0])}, which is not a supported head; give one of "
        f"{', '.join(f'WavLM{kind}' for kind in HEADS)}"
    )


def _tokens(path: Path, vocabulary: Mapping[str, Any], state: Mapping[str, Tensor]) -> list[str]:
    size = len(state["lm_head.weight"]) if "lm_head.weight" in state else 0
    if any(isinstance(value, Mapping) for value in vocabulary.values()):
        raise UserError(f"{path / 'vocab.json'}: holds vocabularies of several languages; keep only the one in use")
    by_number = {number: token for token, number in vocabulary.items()}
    # Published models have logits for tokens that only the tokeniser adds, such as <s>; they are never predicted.
    return [str(by_number.get(number, f"<{number}>")) for number in range(size)]


def _tokenizer(path: Path) -> dict[str, Any]:
    """What the tokeniser's files say, special tokens as text."""
    said: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (path / name).is_file():
            said |= read_json(path / name)
    return {key: value.get("content") if isinstance(value, Mapping) else value for key, value in said.items()}


def _word_end(folder: HeadFolder) -> str | None:
    """The label between two words, where the tokeniser names one that the vocabulary has."""
    token = folder.tokenizer.get("word_delimiter_token")
    if token is None or token not in folder.tokens:
        return None
    if len(token) > 1 or folder.tokenizer.get("replace_word_delimiter_char", " ") != " ":
        raise UserError(
            f"{folder.path / 'tokenizer_config.json'}: word_delimiter_token {token!r} with replace_word_delimiter_char "
            f"{folder.tokenizer.get('replace_word_delimiter_char', ' ')!r} is not supported; words must end with one character"
        )
    return token


def huggingface_head(
    source: str,
    task: Literal["KS", "SID", "ER", "IC", "SV", "SD", "ASR", "PR"] | None = None,
    learning_rate: float = 1e-4,
    frozen: bool = True,
    seed: int | None = None,
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
    if isinstance(model, heads.FolderCtc):
        model.word_end, model.lower_case = _word_end(folder), bool(folder.tokenizer.get("do_lower_case"))
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


def letter_rows(folder: HeadFolder) -> dict[str, tuple[Tensor, Tensor]]:
    """Weight `(dim,)` and bias `()` of each output of a CTC head over letters, by `SPECIAL[0]` (the blank), `|` or the letter.

    Letters are in upper case; other special symbols keep their names.

    Raises:
        UserError: it is another head, or two letters differ in their case only.
    """
    if folder.kind != CTC:
        raise UserError(f"{folder.path}: a {folder.kind} head, which has no letters; give a folder with a {CTC} head")
    blank, end = _blank_first(folder)[0], _word_end(folder)
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for number, token in enumerate(folder.tokens):
        name = SPECIAL[0] if number == blank else WORD_END if token in (end, WORD_END) else token
        if number != blank and name == SPECIAL[0]:
            continue  # the beginning of a sentence, which no output of ours is
        name = name.upper() if len(name) == 1 else name
        if name in found:
            raise UserError(f"{folder.path}: has {name!r} twice, in two cases; give a head with one case of letters")
        found[name] = (folder.state["lm_head.weight"][number], folder.state["lm_head.bias"][number])
    return found


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
    if folder.kind == CLASSIFICATION:
        problem, config = folder.values.get("problem_type"), folder.path / "config.json"
        if problem not in PROBLEMS:
            raise UserError(f"{config}: problem_type {problem!r} is not one of {', '.join(filter(None, PROBLEMS))}")
        if folder.shape("classifier.weight")[0] == 1 and PROBLEMS[problem] is heads.FolderClassification:
            raise UserError(
                f"{config}: a classifier with one output always has probability 1; set problem_type to regression or "
                "multi_label_classification, as the head was trained"
            )
        if task is None:
            return PROBLEMS[problem]
        if PROBLEMS[problem] is not heads.FolderClassification:
            raise UserError(f"{folder.path} has problem_type {problem}, which cannot do {task}; leave the task out")
    if task is None:
        return next(iter(known.values()))
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
        return _slots(folder)
    if folder.kind == VERIFICATION:
        given = folder.values.get("id2label") or {}
        return [str(given.get(str(n), f"LABEL_{n}")) for n in range(folder.shape("objective.weight")[1])]
    return folder.names


def _slots(folder: HeadFolder) -> dict[str, list[str]]:
    """The values of each slot, in the order of the logits: `id2label` has it, and `config.json` is written with sorted keys."""
    labels, names = folder.own["labels"], folder.names
    first = {slot: f"{slot}={values[0]}" for slot, values in labels.items() if values}
    order = sorted(first, key=lambda slot: names.index(first[slot]) if first[slot] in names else len(names))
    if [f"{slot}={value}" for slot in order for value in labels[slot]] != names:
        raise UserError(
            f"{folder.path / 'config.json'}: id2label and the labels of each slot do not agree; export the head again"
        )
    return {slot: list(labels[slot]) for slot in order}


def _blank_first(folder: HeadFolder) -> list[int]:
    """Order of the logits in which the blank is the first: it and the first are swapped."""
    order = list(range(len(folder.tokens)))
    blank = folder.values.get("pad_token_id", 0)
    if blank not in order:
        raise UserError(f"{folder.path / 'config.json'}: pad_token_id {blank} is not among the {len(order)} logits")
    if not isinstance(blank, int) or isinstance(blank, bool):
        raise UserError(f"{folder.path / 'config.json'}: pad_token_id {blank!r} is not a number")
    padding = folder.tokenizer.get("pad_token")
    if padding in folder.tokens and folder.tokens.index(padding) != blank:
        raise UserError(
            f"{folder.path / 'config.json'}: the blank, pad_token_id {blank}, is {folder.tokens[blank]!r}, but the tokeniser "
            f"pads with {padding!r}, which is {folder.tokens.index(padding)}; correct the one that is wrong"
        )
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
