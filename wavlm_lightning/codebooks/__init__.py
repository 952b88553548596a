"""Offline tokenisers (codebooks): k-means or random codes on MFCC, log-mel or encoder layers, one label per frame.

Read `codebook` (with `linear_map`), `features`, `kmeans` (with `extraction` and `projection`), `random_codes`, `labelling`,
`labels` (with `label_files`), `quality`, `layer_sweep`; `job_shards` and `budget` say who does how much. Imports `data`,
`encoder`, `upstreams`. Tests: `tests/codebooks`.
"""

from wavlm_lightning.codebooks.codebook import Codebook
from wavlm_lightning.codebooks.features import ContextFeatures, FeatureSource, LayerFeatures, LayerStack, MfccFeatures
from wavlm_lightning.codebooks.kmeans import fit_kmeans
from wavlm_lightning.codebooks.labelling import label_corpus
from wavlm_lightning.codebooks.labels import LabelSet
from wavlm_lightning.codebooks.random_codes import fit_random_codes

__all__ = [
    "Codebook",
    "ContextFeatures",
    "FeatureSource",
    "LabelSet",
    "LayerFeatures",
    "LayerStack",
    "MfccFeatures",
    "fit_kmeans",
    "fit_random_codes",
    "label_corpus",
]
