"""Offline tokenisers (codebooks): k-means on MFCC or encoder layers, one label per frame.

Read `codebook`, `features`, `kmeans` (with `extraction`), `labelling`, `labels` (with `label_files`), `quality`; `job_shards`
and `budget` say who does how much. Imports `data`, `encoder`, `upstreams`. Tests: `tests/codebooks`.
"""

from wavlm_lightning.codebooks.codebook import Codebook
from wavlm_lightning.codebooks.features import FeatureSource, LayerFeatures, MfccFeatures
from wavlm_lightning.codebooks.kmeans import fit_kmeans
from wavlm_lightning.codebooks.labelling import label_corpus
from wavlm_lightning.codebooks.labels import LabelSet

__all__ = ["Codebook", "FeatureSource", "LabelSet", "LayerFeatures", "MfccFeatures", "fit_kmeans", "label_corpus"]
