"""Exporting a trained head as a folder that the transformers library loads, where the library has the same head."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from wavlm_lightning.encoder.checkpoints.huggingface import OWN_KEY, write_checkpoint
from wavlm_lightning.encoder.checkpoints.tensor_files import write_tensors
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import write_json, write_text
from wavlm_lightning.tasks.base import Task
from wavlm_lightning.tasks.classification import UtteranceClassification
from wavlm_lightning.tasks.content.phoneme_recognition import PhonemeRecognition
from wavlm_lightning.tasks.ctc import CtcTask
from wavlm_lightning.tasks.huggingface import heads
from wavlm_lightning.tasks.huggingface.reading import (
    CLASSIFICATION,
    CTC,
    ENCODERS,
    FRAMES,
    SAME_NAMES,
    TIME_DELAY,
    VERIFICATION,
    verification_name,
)
from wavlm_lightning.tasks.semantics.intent_classification import IntentClassification
from wavlm_lightning.tasks.speaker.speaker_diarization import SpeakerDiarization
from wavlm_lightning.tasks.speaker.speaker_verification import SpeakerVerification
from wavlm_lightning.upstreams import WavLMUpstream

# `model_type` -> kinds of heads for which transformers has no class.
TRANSFORMERS_LACK = {"hubert": (VERIFICATION, FRAMES)}


def head_kind(task: Task) -> str:
    """Suffix of the transformers class that has the same head; if there is none, an error names the difference."""
    reason = None
    kind = ""
    if isinstance(task, UtteranceClassification):
        kind = CLASSIFICATION
    elif isinstance(task, SpeakerVerification):
        kind = VERIFICATION
        if task.hidden != task.widths[0]:
            reason = f"its projection has {task.hidden} outputs, and WavLMForXVector needs those of the first layer"
    elif isinstance(task, heads.FolderSpeakerDiarization):
        kind = FRAMES
    elif isinstance(task, heads.FolderCtc):
        kind = CTC
    elif isinstance(task, SpeakerDiarization):
        reason = "it has an LSTM before its linear layer, which WavLMForAudioFrameClassification lacks"
    elif isinstance(task, PhonemeRecognition):
        reason = "it reads a weighted sum of all layers, and WavLMForCTC the last layer alone"
    elif isinstance(task, CtcTask):
        reason = "it has two LSTMs and reads all layers, where WavLMForCTC has one linear layer on the last"
    else:
        reason = "transformers has no such head"
    if task.weighted_sum.normalize:
        reason = "it normalises each layer before the weighted sum (model.normalize), and no head of transformers does"
    if not isinstance(task.upstream, WavLMUpstream):
        reason = (
            f"its upstream is a {type(task.upstream).__name__}, and only encoders of the WavLM family are supported"
        )
    elif (model_type := _model_type(task.upstream)) in TRANSFORMERS_LACK and kind in TRANSFORMERS_LACK[model_type]:
        reason = f"its encoder is a HuBERT, for which transformers has no {kind}"
    if reason is not None:
        raise UserError(f"this {task.name} head does not fit into the transformers library: {reason}")
    return kind


def write_head_folder(folder: Path, task: Task, processing: dict[str, Any]) -> str:
    """Write encoder and head, their configuration, that of the feature extractor and, for CTC, the vocabulary.

    Args:
        folder: made if missing.
        task: with a head that transformers has.
        processing: changes made to every waveform before the encoder (`gain_db`, `trim`), which transformers does not
            make; stored for `wavlm predict`.

    Returns:
        Name of the class that loads the folder.

    Raises:
        UserError: transformers has no such head; nothing is written.
    """
    kind = head_kind(task)
    upstream = task.upstream
    assert isinstance(upstream, WavLMUpstream)
    encoder = upstream.encoder
    state = encoder.state_dict()
    if isinstance(encoder.encoder.layer_norm, nn.Identity):  # the head reads the state before this norm
        state["encoder.layer_norm.weight"] = torch.ones(upstream.dim)
        state["encoder.layer_norm.bias"] = torch.zeros(upstream.dim)
    normalised = encoder.config.normalize_waveform or getattr(upstream, "normalize_eps", None) is not None
    write_checkpoint(folder, replace(encoder.config, normalize_waveform=normalised), state)

    path, weights = folder / "config.json", folder / "model.safetensors"
    values = json.loads(path.read_text(encoding="utf-8"))
    architecture = f"{ENCODERS[values['model_type']]}{kind}"
    labels = task.labels
    own: dict[str, Any] = {"task": task.name, "processing": processing}
    names = list(labels)
    if isinstance(task, IntentClassification):
        names = [f"{slot}={value}" for slot, each in labels.items() for value in each]
        own["labels"] = labels
    values |= {
        "architectures": [architecture],
        "use_weighted_layer_sum": task.weighted_sum.logits is not None,
        # Our heads read the last layer after the final norm; transformers 5 reads it before the norm unless this is set.
        "tie_last_hidden_states": not isinstance(encoder.encoder.layer_norm, nn.Identity),
        "final_dropout": 0.0,  # our heads have none
    }
    if kind == CTC:
        values |= {"vocab_size": len(names), "pad_token_id": 0}  # transformers takes the padding token for the blank
        vocabulary = {name: number for number, name in enumerate(names)}
        text = json.dumps(vocabulary, ensure_ascii=False, indent=1) + "\n"
        write_text(folder / "vocab.json", text, durable=True)
    else:
        (folder / "vocab.json").unlink(missing_ok=True)  # of an earlier export
        values |= {"id2label": {str(n): name for n, name in enumerate(names)}}
        values |= {"label2id": {name: n for n, name in enumerate(names)}}
    if isinstance(task, UtteranceClassification):
        values["classifier_proj_size"] = task.hidden
    if isinstance(task, SpeakerVerification):
        values |= {"tdnn_dim": list(task.widths), "xvector_output_dim": task.embedding, **TIME_DELAY}
        own["embedding"] = "linear" if isinstance(task, heads.FolderSpeakerVerification) else "relu"
    values[OWN_KEY]["head"] = own
    tensors = {f"{values['model_type']}.{name}": value for name, value in load_file(weights).items()}
    write_tensors(weights, tensors | head_tensors(task), {"format": "pt"})
    write_json(path, values, indent=2, sort_keys=True)
    return architecture


def head_tensors(task: Task) -> dict[str, Tensor]:
    """The head's tensors under transformers' names."""
    theirs = {ours: name for name, ours in SAME_NAMES.items()}
    state = {}
    for name, value in task.state_dict().items():
        if name.startswith("upstream.") or name == "setting":
            continue
        if isinstance(task, SpeakerVerification):
            name, value = _verification(task, name, value)
        state[theirs.get(name, name)] = value.detach().cpu().float().contiguous()
    return state


def _verification(task: SpeakerVerification, name: str, value: Tensor) -> tuple[str, Tensor]:
    affine = "embedder" if isinstance(task, heads.FolderSpeakerVerification) else "network.affine"
    for theirs in ("classifier.", "feature_extractor."):
        ours = verification_name(theirs, affine)
        if name.startswith(ours):
            return theirs + name.removeprefix(ours), value
    if name.startswith("network.time_delay."):
        layer, part = name.split(".")[2:]
        return f"tdnn.{layer}.kernel.{part}", value.transpose(1, 2).flatten(1) if part == "weight" else value
    return name, value


def _model_type(upstream: WavLMUpstream) -> str:
    return "hubert" if upstream.encoder.config.position_bias == "none" else "wavlm"
