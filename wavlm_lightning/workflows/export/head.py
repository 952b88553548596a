"""A head on its encoder for everybody else, with a model card that says how to use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.pretraining.head_file import DESCRIPTION, WEIGHTS
from wavlm_lightning.reports.cards import CARD_NAME, ResultCard
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.huggingface.export import write_head_folder
from wavlm_lightning.tasks.huggingface.heads import HeadEncoder
from wavlm_lightning.upstreams import WavLMUpstream
from wavlm_lightning.workflows.export.model_card import HUB_LICENCES, MARK, Section, is_ours
from wavlm_lightning.workflows.predict.head_sources import open_head
from wavlm_lightning.workflows.predict.trained_head import TrainedHead

PIPELINES = {"ForSequenceClassification": "audio-classification", "ForCTC": "automatic-speech-recognition"}
"""End of the class' name -> what the Hub calls the use; others have no name of their own there."""
USAGE = """```python
import torch
from transformers import AutoFeatureExtractor, {architecture}

extractor = AutoFeatureExtractor.from_pretrained("{title}")
model = {architecture}.from_pretrained("{title}").eval()
with torch.no_grad():
    output = model(**extractor(waveform, sampling_rate=16_000, return_tensors="pt"))  # one recording, float32 at 16 kHz
{result}
```
"""
RESULTS = {
    "ForSequenceClassification": "label = model.config.id2label[output.logits.argmax().item()]",
    "ForXVector": "embedding = torch.nn.functional.normalize({embedding}, dim=1)  # the cosine of two is the score",
    "ForAudioFrameClassification": "speaks = output.logits[0].sigmoid() > 0.5  # (frames, speakers)",
    "ForCTC": "labels = output.logits[0].argmax(1).unique_consecutive()  # names are in vocab.json, 0 says nothing",
}
ALONE = (
    "\nOne recording at a time: in a padded batch transformers lets padding into norms and means, and `wavlm predict {title} "
    "FILE...` does not.\n"
)


def export_from_head(given: Path, directory: Path, form: str, only_encoder: bool, command: str) -> None:
    """Write a head, or the encoder below it.

    Args:
        given: run folder of a head, or a Hugging Face directory with one.
        directory: made if missing.
        form: `hf`, `onnx` or `torch`.
        only_encoder: leave the head out.
        command: that the user typed, for the card.

    Raises:
        UserError: there is no such class in transformers, or the graph does not agree with the head.
    """
    head = open_head(given, "cpu")
    if form in ("onnx", "torch"):
        from wavlm_lightning.workflows.export.graph import FILES, write_encoder, write_head_graph

        encoder = _encoder(head).encoder if only_encoder else None
        graph = write_head_graph(head, directory, form) if encoder is None else write_encoder(encoder, directory, form)
        print(
            f"{directory / FILES[form]}: off by at most {graph:.1e} from the {'head' if encoder is None else 'encoder'}"
        )
        return
    if only_encoder:
        _encoder(head).encoder.save_pretrained(directory)
        print(f"{directory}: the encoder of {given}, without its head")
        return
    processing: dict[str, Any] = {"gain_db": head.gain_db} if head.gain_db else {}
    processing |= {"trim": True} if head.trim else {}
    architecture = write_head_folder(directory, head.task, processing)
    for name in (WEIGHTS, DESCRIPTION):  # of a pre-training run that was exported here before
        (directory / name).unlink(missing_ok=True)
    card = directory / "README.md"
    if card.is_file() and not is_ours(card.read_text(encoding="utf-8")):
        print(f"{card}: kept, since `wavlm export` has not written it")
    else:
        card.write_text(head_card(directory, head, given, architecture, processing, command), encoding="utf-8")
    print(f"{directory}: {head.task.name} as a {architecture}")


def head_card(
    directory: Path, head: TrainedHead, given: Path, architecture: str, processing: dict[str, Any], command: str
) -> str:
    """The card as Markdown with the Hub's front matter.

    Args:
        directory: the exported folder, with its `config.json`.
        head: what was exported.
        given: where it was.
        architecture: name of the class that loads it.
        processing: see `write_head_folder`.
        command: that wrote the folder.
    """
    import lightning
    import torch

    import wavlm_lightning

    task, title = head.task, directory.resolve().name
    kind = next(end for end in RESULTS if architecture.endswith(end))
    values = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    rectified = values["wavlm_lightning"]["head"].get("embedding") == "relu"
    result = RESULTS[kind].format(embedding="output.embeddings.relu()" if rectified else "output.embeddings")
    text = f"# {title}\n\nSUPERB's {task.name}: a head on a speech encoder, both in one `{architecture}`.\n\n"
    text += USAGE.format(architecture=architecture, title=title, result=result) + ALONE.format(title=title)
    if rectified:
        text += "\nThe ReLU is the head's: transformers leaves it out of `embeddings`.\n"

    prepared = Section("Before the model")
    if "gain_db" in processing:
        prepared.add(
            "loudness", f"multiply waveforms by {10 ** (processing['gain_db'] / 20):.6g} ({processing['gain_db']:g} dB)"
        )
    if processing.get("trim"):
        prepared.add("quiet stretches", "removed in training: remove them")
    corpus = _corpus(given)
    training = Section("Training")
    training.add("corpus", corpus and corpus.name)
    licence = corpus.body.get("licence") if corpus else None
    training.add("licence of the recordings", None if licence in ("", "unknown") else licence)
    training.add("encoder", f"`{task.upstream.label}`, sha256 `{task.upstream.fingerprint()}`")
    for name in ("learning_rate", "seed", "protocol", "best_step"):
        training.add(name.replace("_", " "), task.trained.get(name))
    scores = Section("Test")
    if (given / CARD_NAME).is_file():
        tested = ResultCard.read(given / CARD_NAME)
        for name, metric in tested.metrics.items():
            scores.add(
                name, f"{metric['value']:.4g} {metric['unit']} on {tested.corpus['name']}, {tested.corpus['split']}"
            )
    labels = Section("Labels")
    shown = list(values.get("id2label", {}).values()) if kind != "ForXVector" else []
    labels.add("outputs", ", ".join(shown[:50]) + (f", ... ({len(shown)})" if len(shown) > 50 else ""))
    made = Section("Made with")
    made.add("command", f"`{command}`")
    for module in (wavlm_lightning, torch, lightning):
        made.add(f"{module.__name__} at export", module.__version__)

    matter: dict[str, Any] = {
        "library_name": "transformers",
        "tags": ["speech", values["model_type"], "wavlm_lightning"],
    }
    if kind in PIPELINES:
        matter["pipeline_tag"] = PIPELINES[kind]
    if training_licence := dict(training.facts).get("licence of the recordings"):
        name = training_licence.lower().replace(" ", "-")
        matter["license"] = name if name in HUB_LICENCES else "other"
    front = yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)
    sections = (prepared, training, scores, labels, made)
    return "\n".join([f"---\n{front}---\n{MARK}", text, *filter(None, map(str, sections))])


def _encoder(head: TrainedHead) -> WavLMUpstream:
    if not isinstance(head.task.upstream, WavLMUpstream):
        raise UserError(
            f"--encoder: the upstream of this head is a {type(head.task.upstream).__name__}, and only encoders of the WavLM "
            "family are exported"
        )
    if isinstance(head.task.upstream, HeadEncoder):  # which has given up its norms of waveforms and of the last layer
        raise UserError(
            f"--encoder: this head was begun from {head.task.upstream.label}; export the encoder from there"
        )
    return head.task.upstream


def _corpus(run: Path) -> Corpus | None:
    """What the head was trained on, if it is still there."""
    config = run / "config.yaml"
    content = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
    path = ((content.get("data") or {}).get("init_args") or {}).get("corpus")
    try:
        return Corpus.open(path) if isinstance(path, str) else None
    except UserError:
        return None
