"""Metrics that torchmetrics and pyannote.metrics lack."""

from wavlm_lightning.metrics.cluster_quality import ClusterQuality, cluster_quality

__all__ = ["ClusterQuality", "cluster_quality"]
