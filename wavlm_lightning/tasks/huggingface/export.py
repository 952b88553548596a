"""Exporting a trained head as a folder that the transformers library loads, where the library has the same head."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.encoder.checkpoints.huggingface import OWN_KEY, described, without_a_class, write_folder
from wavlm_lightning.encoder.checkpoints.labels_seen import LABELLED
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import write_json, write_text
from wavlm_lightning.tasks.base import Task
from wavlm_lightning.tasks.components.beam_search import WORD_END
from wavlm_lightning.tasks.huggingface.reading import ENCODERS, SAME_NAMES
from wavlm_lightning.tasks.transformers_form import CTC, FRAMES, VERIFICATION, TransformersForm
from wavlm_lightning.upstreams import WavLMUpstream

TOKENIZER = "tokenizer_config.json"
# `model_type` -> kinds of heads for which transformers has no class.
TRANSFORMERS_LACK = {"hubert": (VERIFICATION, FRAMES)}


def check_encoder(config: WavLMConfig) -> None:
    """Raise a `UserError` if transformers has no class for an encoder."""
    if (reason := without_a_class(config)) is not None:
        raise UserError(
            f"this encoder does not fit into the transformers library: {reason}; give its run folder or checkpoint itself, which "
            "all commands read, or export a graph with --format onnx or torch"
        )


def head_form(task: Task) -> TransformersForm:
    """The same head in transformers; if there is none, an error names the difference."""
    form = task.transformers_form()
    reason = form if isinstance(form, str) else None
    if task.weighted_sum.normalize:
        reason = "it normalises each layer before the weighted sum (model.normalize), and no head of transformers does"
    if not isinstance(task.upstream, WavLMUpstream):
        reason = (
            f"its upstream is a {type(task.upstream).__name__}, and only encoders of the WavLM family are supported"
        )
    elif (lacking := without_a_class(task.upstream.encoder.config)) is not None:
        reason = lacking
    elif (
        isinstance(form, TransformersForm)
        and (model_type := _model_type(task.upstream)) in TRANSFORMERS_LACK
        and form.kind in TRANSFORMERS_LACK[model_type]
    ):
        reason = f"its encoder is a HuBERT, for which transformers has no {form.kind}"
    if isinstance(form, str) or reason is not None:
        raise UserError(f"this {task.name} head does not fit into the transformers library: {reason}")
    return form


def head_kind(task: Task) -> str:
    """Suffix of the transformers class that has the same head; if there is none, an error names the difference."""
    return head_form(task).kind


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
    form = head_form(task)
    upstream = task.upstream
    assert isinstance(upstream, WavLMUpstream)
    encoder = upstream.encoder
    state = encoder.state_dict()
    if isinstance(encoder.encoder.layer_norm, nn.Identity):  # the head reads the state before this norm
        state["encoder.layer_norm.weight"] = torch.ones(upstream.dim)
        state["encoder.layer_norm.bias"] = torch.zeros(upstream.dim)
    normalised = encoder.config.normalize_waveform or getattr(upstream, "normalize_eps", None) is not None
    values, preprocessor, weights = described(replace(encoder.config, normalize_waveform=normalised), state)
    architecture = f"{ENCODERS[values['model_type']]}{form.kind}"
    own: dict[str, Any] = {"task": task.name, "processing": processing, **form.own}
    names = form.labels
    values |= {
        "architectures": [architecture],
        "use_weighted_layer_sum": task.weighted_sum.logits is not None,
        # Our heads read the last layer after the final norm; transformers 5 reads it before the norm unless this is set.
        "tie_last_hidden_states": not isinstance(encoder.encoder.layer_norm, nn.Identity),
        "final_dropout": 0.0,  # our heads have none
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)  # written last: it says that the folder is complete
    if form.kind == CTC:
        values |= {"vocab_size": len(names), "pad_token_id": 0}  # transformers takes the padding token for the blank
        vocabulary = {name: number for number, name in enumerate(names)}
        text = json.dumps(vocabulary, ensure_ascii=False, indent=1) + "\n"
        write_text(folder / "vocab.json", text, durable=True)
    else:
        (folder / "vocab.json").unlink(missing_ok=True)  # of an earlier export
        values |= {"id2label": {str(n): name for n, name in enumerate(names)}}
        values |= {"label2id": {name: n for n, name in enumerate(names)}}
    if form.kind == CTC and WORD_END in names:
        preprocessor = {**preprocessor, "processor_class": "Wav2Vec2Processor"}
        write_json(folder / TOKENIZER, _tokenizer(names))
    else:
        (folder / TOKENIZER).unlink(missing_ok=True)
    values |= form.config
    values[OWN_KEY]["head"] = own
    if upstream.labelled:
        values[OWN_KEY][LABELLED] = [dict(entry) for entry in upstream.labelled]
    tensors = {f"{values['model_type']}.{name}": value for name, value in weights.items()}
    write_folder(folder, values, preprocessor, tensors | head_tensors(task))
    return architecture


def _tokenizer(names: list[str]) -> dict[str, Any]:
    """What transformers' tokenizer for letters must know; its padding token is the blank, the first output."""
    known = {"eos_token": "</s>", "unk_token": "<unk>", "bos_token": "<s>"}
    return {
        "tokenizer_class": "Wav2Vec2CTCTokenizer",
        "processor_class": "Wav2Vec2Processor",
        "pad_token": names[0],
        "word_delimiter_token": WORD_END,
        "do_lower_case": False,
        **{key: name for key, name in known.items() if name in names},
    }


def head_tensors(task: Task) -> dict[str, Tensor]:
    """The head's tensors under transformers' names."""
    form = head_form(task)
    theirs = {ours: name for name, ours in SAME_NAMES.items()}
    state = {}
    for name, value in task.state_dict().items():
        if name.startswith("upstream."):
            continue
        name, value = form.rename(name, value)
        state[theirs.get(name, name)] = value.detach().cpu().float().contiguous()
    return state


def _model_type(upstream: WavLMUpstream) -> str:
    return "hubert" if upstream.encoder.config.position_bias == "none" else "wavlm"
