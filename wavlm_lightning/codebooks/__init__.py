"""Offline tokenisers: audio in, one label a frame out."""

from wavlm_lightning.codebooks.codebook import Codebook
from wavlm_lightning.codebooks.features import FeatureSource, LayerFeatures, MfccFeatures
from wavlm_lightning.codebooks.kmeans import fit_kmeans
from wavlm_lightning.codebooks.labelling import label_corpus
from wavlm_lightning.codebooks.labels import LabelSet

__all__ = ["Codebook", "FeatureSource", "LabelSet", "LayerFeatures", "MfccFeatures", "fit_kmeans", "label_corpus"]
