"""The model card of an exported encoder: facts from its run folder. Facts that are not known are left out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml

import wavlm_lightning
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import WavLM
from wavlm_lightning.encoder.checkpoints.labels_seen import Entry, said
from wavlm_lightning.system.files import write_text
from wavlm_lightning.workflows.export.run_facts import RunFacts

MARK = "<!-- Written by `wavlm export`, which writes it anew unless this line is gone. -->"
# Names of the Hugging Face Hub; any other licence is `other` there, and given in the text.
HUB_LICENCES = ("cc0-1.0", *(f"cc-by-{more}" for more in ("3.0", "4.0", "sa-4.0", "nc-4.0", "nc-sa-4.0", "nc-nd-4.0")))
HEADER = """# {title}

A speech encoder of {parameters:,} parameters ({layers} transformer layers of {dim} dimensions): 16 kHz audio in, a hidden state
every {milliseconds} ms out.

```python
import torch
from transformers import {model}

encoder = {model}.from_pretrained("{title}").eval()
with torch.no_grad():
    hidden = encoder(waveform, output_hidden_states=True).hidden_states  # {states} x (batch, frames, {dim})
```
"""


@dataclass
class Section:
    """A headline with a list of facts; empty as text if there are no facts."""

    title: str
    facts: list[tuple[str, str]] = field(default_factory=list)  # (name, value)

    def add(self, name: str, value: object) -> None:
        """Add a fact, unless it is None or empty."""
        if value not in (None, "", [], {}):
            self.facts.append((name, str(value)))

    def __str__(self) -> str:
        rows = "\n".join(f"- {name}: {value}" for name, value in self.facts)
        return f"## {self.title}\n\n{rows}\n" if rows else ""


def write_card(directory: Path, text: str) -> list[str]:
    """Write `README.md`; return a sentence instead if there is one that the user has written or taken our mark out of."""
    card = directory / "README.md"
    if card.is_file() and MARK not in card.read_text(encoding="utf-8"):
        return [f"{card}: kept, since it was not written by `wavlm export`"]
    write_text(card, text, durable=True)
    return []


def model_card(
    directory: Path, encoder: WavLM, source: Path, checkpoint: Mapping[str, Any] | None, command: str
) -> str:
    """The card as Markdown with the Hub's front matter, for the exported folder of an encoder that was read from `source`.

    `checkpoint` is the content of a `.ckpt` of a pre-training run, None for weights from elsewhere.
    """
    run = None if checkpoint is None else RunFacts.read(source, checkpoint)
    corpora = run.corpora if run else []
    written = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    shape = encoder.config
    header = HEADER.format(
        title=directory.resolve().name,
        parameters=encoder.parameter_count(),
        layers=shape.layers,
        dim=shape.dim,
        model=written["architectures"][0],
        milliseconds=f"{1000 / shape.frame_rate:g}",
        states=shape.layers + 1,
    )
    if shape.pre_norm:
        header += (
            "\nThe encoder's output is `last_hidden_state`; transformers leaves the final layer norm out of the last of the\n"
            "`hidden_states`, while heads of wavlm_lightning are trained on it with the norm.\n"
        )
    sections = [_labels(encoder.labelled), *([_data(run), _training(run), _scores(run)] if run else [])]
    sections.append(_made(source, run, command))
    return as_card(_front_matter(written["model_type"], corpora, encoder.labelled), header, sections)


def as_card(matter: Mapping[str, Any], text: str, sections: Iterable[Section]) -> str:
    """A card from the Hub's front matter, a first text, and sections, of which empty ones are left out."""
    front = yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)
    return "\n".join([f"---\n{front}---\n{MARK}", text, *filter(None, map(str, sections))])


def _labels(seen: Sequence[Entry]) -> Section:
    """The labelled speech behind an encoder; nothing for one that has seen none."""
    section = Section("Labels seen")
    for entry in seen:
        count = f", {entry['utterances']:,} utterances" if entry.get("utterances") else ""
        section.add(str(entry["corpus"]), f"{said([entry]).partition(' (')[0]}{count}")
    if seen:
        section.add(
            "so",
            "its weights, or the targets they learned, come from transcripts or other labels as well as from audio",
        )
    return section


def _front_matter(model_type: str, corpora: list[Corpus], seen: Sequence[Entry] = ()) -> dict[str, Any]:
    matter: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "feature-extraction"}
    matter["tags"] = ["speech", *([] if seen else ["self-supervised"]), model_type, "wavlm_lightning"]
    languages = corpora[0].inventories.get("languages") if corpora else None
    if languages:
        matter["language"] = sorted(languages)
    if names := {hub_licence(terms) for corpus in corpora if (terms := licence(corpus))}:
        matter["license"] = names.pop() if len(names) == 1 else "other"
    return matter


def licence(corpus: Corpus) -> str | None:
    """The licence of a corpus; None if it is not known."""
    stated = corpus.body.get("licence")
    return None if stated in (None, "", "unknown") else stated


def hub_licence(terms: str) -> str:
    """The Hub's name of a licence, or `other`."""
    name = terms.lower().replace(" ", "-")
    return name if name in HUB_LICENCES else "other"


def _data(run: RunFacts) -> Section:
    section = Section("Training data")
    if run.corpora:
        corpus, *noise = run.corpora
        part = corpus.body["splits"].get(run.split, {})
        hours = f", split `{run.split}`: {part['hours']:.4g} hours, {part['utterances']} utterances" if part else ""
        section.add("corpus", f"{corpus.name}{hours}")
        section.add("licence of the recordings", licence(corpus))
        for each in noise:
            section.add("noise mixed in", each.name)
            section.add("licence of the noise", licence(each))
        if any(map(licence, run.corpora)):
            section.add("licence above", "that of the audio; the weights may be published under another one")
    section.add("sha256 of the corpus", run.corpus_sha256 and f"`{run.corpus_sha256}`")
    for name, codebook in run.codebooks.items():
        rate = f" at {codebook['rate']:g} Hz" if "rate" in codebook else ""
        section.add(f"labels `{name}`", f"{codebook['size']} clusters{rate}, codebook sha256 `{codebook['sha256']}`")
    return section


def _training(run: RunFacts) -> Section:
    section = Section("Pre-training")
    model, trainer = run.model, run.trainer
    section.add("started from", model.get("encoder") and f"`{model['encoder']}`")
    section.add("changed in the encoder", _arguments(model.get("encoder_overrides")))
    planned = trainer.get("max_steps")
    section.add("updates", f"{run.steps}" + (f" of {planned}" if planned and planned != run.steps else ""))
    section.add("audio per update, at most", run.seconds_per_update and f"{run.seconds_per_update:g} s")
    section.add("processes", run.processes)
    section.add("precision", trainer.get("precision"))
    for name in ("learning_rate", "warmup", "decay", "weight_decay"):
        section.add(name.replace("_", " "), model.get(name))
    section.add("gradient clipping", trainer.get("gradient_clip_val"))
    for objective in model.get("objectives") or []:
        name = objective["class_path"].rsplit(".", 1)[-1]
        section.add("objective", f"{name}({_arguments(objective.get('init_args'))})")
    section.add("masking", _arguments(model.get("masking")))
    section.add("mixing", _arguments(model.get("mixing")))
    section.add("perturbed voices", _arguments(model.get("voices")))
    return section


def _arguments(values: Any) -> str:
    """Arguments as `name=value` pairs; `values` may be a class with `init_args`."""
    if not isinstance(values, Mapping):
        return ""
    values = values.get("init_args", values)
    return ", ".join(f"{name}={value}" for name, value in values.items() if value is not None)


def _scores(run: RunFacts) -> Section:
    section = Section("Validation")
    for name, (step, value) in sorted(run.scores.items()):
        section.add(name.removeprefix("valid/").replace("_", " "), f"{value:.4g} (logged at step {step})")
    return section


def _made(source: Path, run: RunFacts | None, command: str) -> Section:
    section = Section("Made with")
    section.add("command", f"`{command}`")
    if run is None and source.is_file():
        with source.open("rb") as file:
            section.add("source", f"`{source.name}`, sha256 `{hashlib.file_digest(file, 'sha256').hexdigest()}`")
    versions(section)
    section.add("lightning at training", run and run.lightning)
    return section


def versions(section: Section) -> None:
    """Add the versions of this package, torch and Lightning to a section."""
    for module in (wavlm_lightning, torch, lightning):
        section.add(f"{module.__name__} at export", module.__version__)
