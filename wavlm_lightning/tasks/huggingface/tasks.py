"""From a folder of the transformers library to a task, and back: which tensor is called what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Task
from wavlm_lightning.tasks.components.xvector import CONTEXTS
from wavlm_lightning.tasks.huggingface import heads
from wavlm_lightning.tasks.huggingface.encoder import HeadEncoder
from wavlm_lightning.tasks.huggingface.folder import CLASSIFICATION, CTC, FRAMES, SAME_NAMES, VERIFICATION, HeadFolder

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
"""What a head of each kind can be."""

TIME_DELAY = {"tdnn_kernel": [context for context, _ in CONTEXTS], "tdnn_dilation": [step for _, step in CONTEXTS]}
"""What `config.json` says of the x-vector network, as far as tensors do not."""


def huggingface_head(
    source: str,
    task: Literal["KS", "SID", "ER", "IC", "SV", "SD", "ASR", "PR"] | None = None,
    learning_rate: float = 1e-4,
    frozen: bool = True,
    seed: int = 1337,
) -> Task:
    """A model with a head from the transformers library, as a task: to apply, to score on a corpus, to train further.

    Heads agree with `WavLMForSequenceClassification`, `WavLMForXVector`, `WavLMForAudioFrameClassification` and
    `WavLMForCTC` (and those of HuBERT and wav2vec 2.0) on single recordings. In a padded batch ours still say the same;
    transformers' norms and means then take padding in.

    Args:
        source: a folder with `config.json`, weights and, for CTC, `vocab.json`.
        task: what the head does, where the folder does not say: KS, SID or ER for a classifier, ASR (by default) or PR for
            CTC.
        learning_rate: of Adam, to train it further.
        frozen: False trains the encoder, too.
        seed: of training.

    Raises:
        UserError: the folder holds no such head, or one of other parts.

    Example:
        >>> huggingface_head("exports/ks").name
        'KS'
    """
    folder = HeadFolder.read(Path(source))
    own = folder.own
    kind = _choose(folder, task or own.get("task"))
    upstream = HeadEncoder(source, folder.values, frozen)
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
    expected = {name: value for name, value in model.state_dict().items() if not name.startswith("upstream.")}
    state |= {name: value for name, value in expected.items() if name == "setting"}  # no parameter: SD's own choice
    wrong = sorted(expected.keys() ^ state.keys()) or [n for n in expected if expected[n].shape != state[n].shape]
    if wrong:
        raise UserError(f"{source}: its weights do not fit a {folder.kind} head ({', '.join(wrong[:3])})")
    model.load_state_dict({name: value.float() for name, value in state.items()})
    return model.eval()


def to_ours(folder: HeadFolder, model: Task) -> dict[str, Tensor]:
    """The head's tensors under the names of a task."""
    state = {SAME_NAMES.get(name, name): value for name, value in folder.state.items()}
    if not getattr(model.upstream, "weighted", True):
        state.pop("weighted_sum.logits", None)
    if folder.kind == VERIFICATION:
        affine = "embedder" if isinstance(model, heads.FolderSpeakerVerification) else "network.affine"
        state = {verification_name(name, affine): _convolution(name, value) for name, value in state.items()}
    if folder.kind == CTC:
        order = _blank_first(folder)
        state = {name: value[order] if name.startswith("lm_head.") else value for name, value in state.items()}
    return state


def verification_name(name: str, affine: str) -> str:
    """Our name of a parameter of `WavLMForXVector`."""
    for theirs, ours in (("classifier.", "affine."), ("feature_extractor.", f"{affine}.")):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    if name.startswith("tdnn."):
        return name.replace("tdnn.", "network.time_delay.").replace(".kernel.", ".")
    return name


def _convolution(name: str, value: Tensor) -> Tensor:
    """The weight of a time-delay layer, `(outputs, context * inputs)` there, `(outputs, inputs, context)` here."""
    if not (name.startswith("tdnn.") and name.endswith(".weight")):
        return value
    context = CONTEXTS[int(name.split(".")[1])][0]
    return value.unflatten(1, (context, -1)).transpose(1, 2).contiguous()


def _choose(folder: HeadFolder, task: str | None) -> type[Task]:
    known = TASKS[folder.kind]
    if task is None:
        return heads.FolderClassification if folder.kind == CLASSIFICATION else next(iter(known.values()))
    if task not in known:
        raise UserError(f"{folder.path} is a {folder.kind} head, which is no {task}; it can be {', '.join(known)}")
    if task == "IC" and not isinstance(folder.own.get("labels"), Mapping):
        raise UserError(
            f"{folder.path} does not say which of its labels are of which slot, so it cannot be scored as IC"
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
    """Numbers of the logits, those of the blank and of the first changed for each other."""
    order = list(range(len(folder.tokens)))
    blank = folder.values.get("pad_token_id", 0)
    if blank not in order:
        raise UserError(f"{folder.path / 'config.json'}: pad_token_id {blank} is none of the {len(order)} logits")
    order[0], order[blank] = blank, 0
    return order


def _verification(folder: HeadFolder, kind: type[Task]) -> tuple[type[Task], dict[str, Any]]:
    for name, wanted in TIME_DELAY.items():
        given = folder.values.get(name, wanted)
        if list(given) != wanted:
            raise UserError(f"{folder.path / 'config.json'}: {name} is {list(given)}, but our network has {wanted}")
    widths = [folder.shape(f"tdnn.{layer}.kernel.weight")[0] for layer in range(len(CONTEXTS))]
    sizes = {
        "hidden": folder.shape("projector.weight")[0],
        "widths": widths,
        "embedding": folder.shape("feature_extractor.weight")[0],
    }
    return (heads.OwnSpeakerVerification if folder.own.get("embedding") == "relu" else kind), sizes
