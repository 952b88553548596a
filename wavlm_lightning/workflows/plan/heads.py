"""What the objectives of a configuration add to the cost of a step, without making them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.pretraining.flops import linear_flops, masked_share, objective_flops

PUBLISHED = ({"class_path": "MaskedPrediction"}, {"class_path": "FeaturePenalty"})
"""The objectives of a configuration that names none."""


@dataclass(frozen=True)
class HeadCost:
    """Cost of all objectives for a micro-step.

    Attributes:
        parameters: of all.
        flops: operations of a forward pass.
        kept: bytes kept for the backward pass.
        unknown: class names of objectives that are not in these figures.
    """

    parameters: int
    flops: float
    kept: float
    unknown: tuple[str, ...]


def head_cost(
    model: Mapping[str, Any], config: WavLMConfig, labels: int, frames: float, compute_bytes: int
) -> HeadCost:
    """The cost of the objectives.

    Args:
        model: `model.init_args` of a configuration.
        config: shape of the encoder.
        labels: size of the codebook; 0 without.
        frames: of a micro-step.
        compute_bytes: of a number in matrix products.
    """
    entries: Sequence[Mapping[str, Any] | str] = model.get("objectives") or PUBLISHED
    masking = model.get("masking") or {}
    masked = frames * masked_share(masking.get("probability", 0.8), masking.get("span", 10))
    parameters, flops, kept = 0, 0.0, 0.0
    unknown = []
    for entry in entries:
        entry = {"class_path": entry} if isinstance(entry, str) else entry
        name, arguments = str(entry["class_path"]).rpartition(".")[2], entry.get("init_args") or {}
        if name == "MaskedPrediction":
            cost = _masked_prediction(arguments, config, labels, frames, masked, compute_bytes)
        elif name == "ContrastivePrediction":
            cost = _contrastive(arguments, config, masked, compute_bytes)
        elif name == "LogMelRegression":
            bins = arguments.get("bins", 40)
            cost = (config.dim + 1) * bins, linear_flops(frames, config.dim, bins), 4 * frames * bins
        elif name == "FeaturePenalty":  # mixed precision keeps a copy in fp32
            cost = 0, 0.0, 4 * frames * config.conv_channels[-1] if compute_bytes < 4 else 0.0
        else:
            unknown.append(name)
            continue
        parameters, flops, kept = parameters + cost[0], flops + cost[1], kept + cost[2]
    return HeadCost(parameters, flops, kept, tuple(unknown))


def _layer_norm(arguments: Mapping[str, Any], config: WavLMConfig) -> int:
    """Parameters of the norm that an objective on a middle layer of a pre-norm encoder has."""
    return 2 * config.dim if config.pre_norm and arguments.get("layer") not in (None, config.layers) else 0


def _masked_prediction(
    arguments: Mapping[str, Any], config: WavLMConfig, labels: int, frames: float, masked: float, compute_bytes: int
) -> tuple[int, float, float]:
    width, codewords = arguments.get("final_dim", 256), labels + arguments.get("extra_codewords", 4)
    predicted = frames if arguments.get("unmasked_weight") else masked
    parameters = (config.dim + 1) * width + codewords * width + _layer_norm(arguments, config)
    # The hidden state; its projection before and after normalisation; logarithms of probabilities; unit codewords.
    kept = predicted * (compute_bytes * config.dim + 4 * (2 * width + codewords)) + 4 * codewords * width
    return parameters, objective_flops(predicted, config.dim, width, codewords), kept


def _contrastive(
    arguments: Mapping[str, Any], config: WavLMConfig, masked: float, compute_bytes: int
) -> tuple[int, float, float]:
    width, channels = arguments.get("final_dim", 256), config.conv_channels[-1]
    quantised, negatives = arguments.get("vq_dim") or width, arguments.get("negatives", 100)
    groups = arguments.get("groups", 2)
    codes = groups * arguments.get("entries", 320)
    parameters = (channels + 1) * codes + codes * quantised // groups  # quantiser
    parameters += (config.dim + 1) * width + (quantised + 1) * width + _layer_norm(arguments, config)
    products = ((channels, codes), (codes, quantised // groups), (config.dim, width), (quantised, width))
    flops = sum(linear_flops(masked, *product) for product in products)
    flops += linear_flops(masked, width, round(masked))  # cosines of all pairs
    kept = masked * (compute_bytes * config.dim + 5 * channels)
    kept += masked * 4 * (4 * width + quantised + 3 * codes + masked + 3 * negatives)
    return parameters, flops, kept
