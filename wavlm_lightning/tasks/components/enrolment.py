"""Who is asked for: a speaker vector from the encoder's layers of an enrolment, by attentive pooling (TS-SUPERB's MHFA)."""

from __future__ import annotations

from torch import Tensor, nn

from wavlm_lightning.encoder import Layers, padding_mask
from wavlm_lightning.upstreams import WeightedSum


class SpeakerVector(nn.Module):
    """Multi-head factorised attentive pooling: keys and values from two weighted sums of the layers, then a linear layer.

    Each head weighs the frames by a softmax over time of a linear function of the keys, and sums the values with these
    weights; padding gets no weight. The vector multiplies the hidden units of a head, so the last bias starts at 1: at first the
    head hears all speakers.

    Source: Peng et al., arXiv 2210.01273; sizes of TS-SUPERB (Peng et al., ICASSP 2025).

    Args:
        layers: hidden states of the encoder.
        dim: of each.
        width: of the vector.
        heads: of the attention; 8 in TS-SUPERB.
        compression: width of keys and values; 128 in TS-SUPERB.
        normalize: layer norm over each hidden state before the weighted sums.

    Example:
        >>> SpeakerVector(13, 768, 512)(upstream(waveforms, lengths)).shape
        torch.Size([2, 512])
    """

    def __init__(
        self, layers: int, dim: int, width: int, heads: int = 8, compression: int = 128, normalize: bool = False
    ) -> None:
        super().__init__()
        self.key_sum, self.value_sum = WeightedSum(layers, normalize), WeightedSum(layers, normalize)
        self.keys, self.values = nn.Linear(dim, compression), nn.Linear(dim, compression)
        self.attention = nn.Linear(compression, heads)
        self.output = nn.Linear(heads * compression, width)
        nn.init.ones_(self.output.bias)

    def forward(self, layers: Layers) -> Tensor:
        """Vectors `(batch, width)` of enrolments, from the encoder's hidden states of them."""
        values = self.values(self.value_sum(layers))
        scores = self.attention(self.keys(self.key_sum(layers))).float()
        padding = padding_mask(layers.lengths, scores.shape[1])[:, :, None]
        weights = scores.masked_fill(padding, float("-inf")).softmax(1).to(values.dtype)
        pooled = weights.transpose(1, 2) @ values.masked_fill(padding, 0.0)  # (batch, heads, compression)
        return self.output(pooled.flatten(1))
