"""Labelling a corpus: every shard once, whatever was done before."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.codebooks.codebook import Codebook
from wavlm_lightning.codebooks.features import FeatureSource
from wavlm_lightning.codebooks.labels import label_file, labels_directory
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.shards import ShardIndex
from wavlm_lightning.errors import UserError
from wavlm_lightning.progress import progress_bar


def label_corpus(corpus: Corpus, codebook: Codebook, name: str, splits: list[str] | None = None) -> int:
    """Label every shard; shards that already carry labels of this codebook are left alone.

    Args:
        corpus: what to label; gets `labels/NAME/SPLIT-NNNNNN.safetensors` and, last, `labels/NAME/labels.json`.
        codebook: the tokeniser.
        name: what to call this set of labels.
        splits: which splits; all by default.

    Returns:
        How many shards were labelled now.

    Raises:
        UserError: the folder holds labels of another codebook.
    """
    directory = labels_directory(corpus, name)
    directory.mkdir(parents=True, exist_ok=True)
    head = directory / "labels.json"
    body = {"codebook_sha256": codebook.sha256, "size": codebook.size, "rate": codebook.rate}
    if head.is_file() and json.loads(head.read_text())["codebook_sha256"] != codebook.sha256:
        raise UserError(f"{directory}: holds labels of another codebook; choose another --name or remove the folder")
    head.write_text(json.dumps(body))
    source = FeatureSource.from_description(codebook.features)
    parts = [corpus.split(split) for split in splits or corpus.splits]
    done = 0
    with progress_bar(total=round(sum(part.seconds for part in parts)), unit="s audio", desc="labels") as bar:
        for part in parts:
            for shard in part.shards:
                if not _is_labelled(directory, shard, codebook.sha256):
                    _label_shard(directory, shard, codebook, source)
                    done += 1
                bar.update(round(sum(shard.samples) / SAMPLE_RATE))
    return done


def _is_labelled(directory: Path, shard: ShardIndex, codebook_sha256: str) -> bool:
    path = label_file(directory, shard)
    if not path.is_file():
        return False
    with safe_open(path, framework="np") as file:
        meta = file.metadata()
    return meta["codebook_sha256"] == codebook_sha256 and meta["shard_sha256"] == shard.sha256


def _label_shard(directory: Path, shard: ShardIndex, codebook: Codebook, source: FeatureSource) -> None:
    rows = [codebook.assign(source(shard.waveform(place))) for place in range(len(shard.keys))]
    tensors = {
        "labels": np.concatenate(rows),
        "starts": np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
    }
    meta = {
        "codebook_sha256": codebook.sha256,
        "shard_sha256": shard.sha256,
        "rate": str(codebook.rate),
        "size": str(codebook.size),
    }
    temporary = label_file(directory, shard).with_suffix(".tmp")
    save_file(tensors, temporary, metadata=meta)
    temporary.rename(label_file(directory, shard))
