"""PNMI and purity of first codebooks (no encoder) on held-out speakers: features, context, mean removal, PCA, random codes.

    wavlm prepare mini --out runs/codebooks/corpus --datasets pretrain
    python experiments/codebooks/first_codebook.py --corpus runs/codebooks/corpus/pretrain --out runs/codebooks

Each codebook is fitted on `train` and scored on `valid`; the table is printed and written to OUT/first_codebook.csv.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

from wavlm_lightning.codebooks import Codebook, FeatureSource
from wavlm_lightning.codebooks.quality import quality_of, timed_phones
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.metrics import ClusterQuality
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.workflows.codebook import fit_codebook

CONTEXT: dict[str, Any] = {"features": "context"}
ROWS: dict[str, dict[str, Any]] = {
    "MFCC, k-means (HuBERT it1)": {"features": "mfcc", "rate": 50},
    "MFCC of one level, k-means": {"features": "mfcc", "rate": 50, "level_normalised": True},
    "log-mel, one frame, PCA 24, mean kept, k-means": {**CONTEXT, "context_ms": 0, "keep_mean": True},
    "log-mel ±30 ms, PCA 24, mean kept, k-means": {**CONTEXT, "keep_mean": True},
    "log-mel, one frame, mean removed, PCA 24, k-means": {**CONTEXT, "context_ms": 0},
    "**log-mel ±30 ms, mean removed, PCA 24, k-means**": CONTEXT,
    "the same, whitened": {**CONTEXT, "whiten": True},
    "the same, ±60 ms": {**CONTEXT, "context_ms": 60},
    "random projection 16, random codes (BEST-RQ)": {**CONTEXT, "quantiser": "random"},
    "PCA 16, random codes": {**CONTEXT, "quantiser": "pca", "whiten": False},
    "PCA 16 whitened, random codes": {**CONTEXT, "quantiser": "pca"},
}


def score(codebook: Codebook, corpus: Corpus, split: str) -> ClusterQuality:
    """Purity and PNMI of a codebook on a split, whose labels are not written."""
    source = FeatureSource.from_description(codebook.features)
    labels = (codebook.assign(source(waveform)) for _, waveform, _ in corpus.split(split).utterances())
    quality = quality_of(zip(timed_phones(corpus, split), labels, strict=True), codebook.rate)
    assert quality is not None, f"{corpus.directory}: {split} has no phones with times"
    return quality


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clusters", type=int, nargs="+", default=[500, 100])
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="of random codes; k-means has the first"
    )
    parser.add_argument("--restarts", type=int, default=3)
    options = parser.parse_args()
    corpus = Corpus.open(options.corpus)
    rows: list[list[str | int | float]] = []
    for name, settings in ROWS.items():
        for clusters in options.clusters:
            random = settings.get("quantiser") is not None
            for seed in options.seeds if random else options.seeds[:1]:
                folder = options.out / f"{len(rows):03d}-k{clusters}-seed{seed}-restarts{options.restarts}"
                made = {**settings, "restarts": options.restarts, "seed": seed}
                codebook = fit_codebook(options.corpus, folder, clusters, **made)
                assert isinstance(codebook, Codebook), "no part was asked for"
                found = score(codebook, corpus, "valid")
                row = [name, clusters, seed, found.pnmi, found.phone_purity, found.cluster_purity, found.perplexity]
                rows.append(row)
                print(f"| {name} | {clusters} | {seed} | {found.pnmi:.3f} | {found.phone_purity:.3f} |", flush=True)
    with (options.out / "first_codebook.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["codebook", "clusters", "seed", "pnmi", "phone_purity", "cluster_purity", "perplexity"])
        writer.writerows([each if isinstance(each, str | int) else f"{each:.4f}" for each in row] for row in rows)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
