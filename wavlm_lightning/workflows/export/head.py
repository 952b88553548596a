"""Export of a trained head with its encoder: a transformers folder with a model card, or a graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wavlm_lightning.encoder.checkpoints.labels_seen import said
from wavlm_lightning.pretraining.head_file import forget_export
from wavlm_lightning.reports.cards import CARD_NAME, ResultCard
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.run_folder import init_args, read_run_config
from wavlm_lightning.tasks.huggingface.export import check_encoder, head_form, write_head_folder
from wavlm_lightning.tasks.huggingface.heads import HeadEncoder
from wavlm_lightning.upstreams import WavLMUpstream
from wavlm_lightning.workflows.export.model_card import Section, as_card, hub_licence, licence, versions, write_card
from wavlm_lightning.workflows.export.run_facts import open_corpus
from wavlm_lightning.workflows.predict.head import TrainedHead, open_head

# End of the class' name -> the Hub's name of the use; the Hub has no name for the other classes.
PIPELINES = {"ForSequenceClassification": "audio-classification", "ForCTC": "automatic-speech-recognition"}
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
    "ForCTC": "labels = output.logits[0].argmax(1).unique_consecutive()  # names are in vocab.json, 0 is the blank",
}
ALONE = (
    "\nOne recording at a time: in a padded batch transformers lets padding into norms and means, and `wavlm predict {title} "
    "FILE...` does not.\n"
)


def export_head(source: Path, directory: Path, format: str, encoder_only: bool, command: str) -> list[str]:
    """Write a head with its encoder, or only the encoder; arguments and returned sentences as in `workflows.export.export`.

    Raises a `UserError` if transformers has no class for this head, or if the graph does not agree with it.
    """
    head = open_head(source, "cpu")
    if format in ("onnx", "torch"):
        from wavlm_lightning.workflows.export.graph import FILES, write_encoder, write_head_graph

        if encoder_only:
            what, difference = "encoder", write_encoder(_upstream(head).encoder, directory, format)
        else:
            what, difference = "head", write_head_graph(head, directory, format)
        return [f"{directory / FILES[format]}: off by at most {difference:.1e} from the {what}"]
    if encoder_only:  # refuse it before anything is removed
        check_encoder(_upstream(head).encoder.config)
    else:
        head_form(head.task)
    forget_export(directory)
    if encoder_only:
        encoder = _upstream(head).encoder
        encoder.labelled = [dict(entry) for entry in head.task.upstream.labelled]
        encoder.save_pretrained(directory)
        return [f"{directory}: the encoder of {source}, without its head"]
    processing: dict[str, Any] = {"gain_db": head.gain_db} if head.gain_db else {}
    processing |= {"trim": True} if head.trim else {}
    architecture = write_head_folder(directory, head.task, processing)
    notes = write_card(directory, head_card(directory, head, source, architecture, processing, command))
    return [*notes, f"{directory}: {head.task.name} as a {architecture}"]


def head_card(
    directory: Path, head: TrainedHead, source: Path, architecture: str, processing: dict[str, Any], command: str
) -> str:
    """The card as Markdown with the Hub's front matter, for the exported folder of a head that was read from `source`."""
    task, title = head.task, directory.resolve().name
    kind = next(end for end in RESULTS if architecture.endswith(end))
    values = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    rectified = values["wavlm_lightning"]["head"].get("embedding") == "relu"
    result = RESULTS[kind].format(embedding="output.embeddings.relu()" if rectified else "output.embeddings")
    text = f"# {title}\n\nSUPERB's {task.name}: a head on a speech encoder, both in one `{architecture}`.\n\n"
    text += USAGE.format(architecture=architecture, title=title, result=result) + ALONE.format(title=title)
    if rectified:
        text += "\nThe ReLU belongs to the head; transformers leaves it out of `embeddings`.\n"

    prepared = Section("Before the model")
    if "gain_db" in processing:
        decibels = processing["gain_db"]
        prepared.add("loudness", f"multiply waveforms by {10 ** (decibels / 20):.6g} ({decibels:g} dB)")
    if processing.get("trim"):
        prepared.add("quiet stretches", "remove them, as in training")
    corpus = open_corpus(init_args(read_run_config(source), "data").get("corpus"))
    training = Section("Training")
    training.add("corpus", corpus and corpus.name)
    terms = licence(corpus) if corpus else None
    training.add("licence of the recordings", terms)
    training.add("encoder", f"`{task.upstream.label}`, sha256 `{task.upstream.fingerprint()}`")
    training.add("labels of the head", _counted(task.trained.get("labelled")))
    training.add("pseudo-labels of the head", _counted(task.trained.get("pseudo_labelled")))
    training.add("labels that the encoder has seen", said(task.upstream.labelled))
    for name in ("learning_rate", "seed", "protocol", "best_step"):
        training.add(name.replace("_", " "), task.trained.get(name))
    scores = Section("Test")
    if (source / CARD_NAME).is_file():
        tested = ResultCard.read(source / CARD_NAME)
        part = f"{tested.corpus['name']}, {tested.corpus['split']}"
        if tested.best_step == task.trained.get("best_step", tested.best_step):
            for name, metric in tested.metrics.items():
                scores.add(name, f"{metric['value']:.4g} {metric['unit']} on {part}")
        else:
            scores.add("figures", f"none of these weights: the last test was of update {tested.best_step}; test again")
    labels = Section("Labels")
    shown = list(values.get("id2label", {}).values()) if kind != "ForXVector" else []
    labels.add("outputs", ", ".join(shown[:50]) + (f", ... ({len(shown)})" if len(shown) > 50 else ""))
    made = Section("Made with")
    made.add("command", f"`{command}`")
    versions(made)

    tags = ["speech", values["model_type"], "wavlm_lightning"]
    matter: dict[str, Any] = {"library_name": "transformers", "tags": tags}
    if kind in PIPELINES:
        matter["pipeline_tag"] = PIPELINES[kind]
    if terms:
        matter["license"] = hub_licence(terms)
    return as_card(matter, text, (prepared, training, scores, labels, made))


def _counted(labels: dict[str, Any] | None) -> str:
    return f"{said([labels])}, {labels['utterances']:,} utterances" if labels else ""


def _upstream(head: TrainedHead) -> WavLMUpstream:
    upstream = head.task.upstream
    if not isinstance(upstream, WavLMUpstream):
        kind = type(upstream).__name__
        raise UserError(
            f"--encoder: the upstream of this head is a {kind}, and only encoders of the WavLM family are exported"
        )
    if isinstance(upstream, HeadEncoder):  # it has lost the norms of the waveform and of the last layer
        raise UserError(f"--encoder: this head was started from {upstream.label}; export the encoder from there")
    return upstream
