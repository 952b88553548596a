"""A pseudo-labelled corpus without a teacher: the audio of another corpus, linked, under records that say who wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.shards import with_other_records
from wavlm_lightning.tasks.contract import PROCESSING
from wavlm_lightning.tasks.pseudo_labels import LABEL_SOURCE, PSEUDO


def pseudo_of(corpus: Path, folder: Path, split: str = "train", about: dict[str, Any] | None = None) -> Path:
    """Write a corpus whose transcripts, the true ones, are said to come from a teacher; returns its folder."""
    opened = Corpus.open(corpus)
    told = {"round": 1, "labelled": [{"utterances": 3, "seconds": 9.0, "corpus": opened.name}], **(about or {})}
    kept = {name: value for name, value in opened.body["source"].items() if name in PROCESSING}
    writer = CorpusWriter(folder, f"{opened.name}-pseudo", "CC0", {**kept, PSEUDO: told})
    for number, shard in enumerate(opened.split(split).shards):
        places = range(shard.utterances)
        metas = [{**shard.meta(place), LABEL_SOURCE: {"kind": "pseudo", "round": 1}} for place in places]
        writer.add_shard("train", with_other_records(folder / f"train-{number:06d}.tar", shard, places, metas))
    writer.finish(opened.inventories)
    return folder
