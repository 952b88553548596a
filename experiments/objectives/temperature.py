"""Which temperature should soft labels have? The share of the posterior that K clusters hold at three candidates.

python experiments/objectives/temperature.py runs/tiny/codebook runs/tiny/corpus/pretrain
"""

import sys

import numpy as np

from wavlm_lightning.codebooks import Codebook, FeatureSource
from wavlm_lightning.codebooks.extraction import features_of
from wavlm_lightning.data.corpus import Corpus

UTTERANCES = 200


def main(folder: str, corpus: str) -> None:
    """Print a row for each candidate, over frames of utterances drawn from the training split."""
    codebook, split = Codebook.load(folder), Corpus.open(corpus).split("train")
    source = FeatureSource.from_description(codebook.features)
    drawn = np.random.default_rng(0).permutation(len(split))[:UTTERANCES]
    places = [split.locate(int(number)) for number in sorted(drawn)]
    frames = np.concatenate([features_of(source, shard, place) for shard, place in places]).astype(np.float64)
    squared = np.square(frames).sum(1, keepdims=True) + codebook.distances(frames)
    squared.sort(axis=1)
    nearest, second = squared[:, 0], squared[:, 1]
    candidates = {
        "mean squared distance": nearest.mean(),
        "twice the variance of a spherical Gaussian": 2 * nearest.mean() / frames.shape[1],
        "mean margin": (second - nearest).mean(),
    }
    print("| temperature | T | K = 1 | 2 | 4 | 8 | 16 | perplexity |\n|---|---|---|---|---|---|---|---|")
    for name, temperature in candidates.items():
        posteriors = np.exp((nearest[:, None] - squared) / temperature)
        posteriors /= posteriors.sum(1, keepdims=True)
        held = " | ".join(f"{posteriors[:, :count].sum(1).mean():.2f}" for count in (1, 2, 4, 8, 16))
        entropy = -(posteriors * np.log(np.maximum(posteriors, 1e-300))).sum(1)
        print(f"| {name} | {temperature:.4g} | {held} | {np.exp(entropy).mean():.1f} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
