"""How fast a run goes, and what it asks of the machine."""

from __future__ import annotations

import time

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.encoder.config import SAMPLE_RATE
from wavlm_lightning.pretraining.flops import encoder_flops, model_flops_utilisation


class Speed:
    """Audio and arithmetic since the last reading, over all processes.

    The clock stands still during validation. Waiting for data counts, and so do checkpoints and probes: that is what the
    run costs. Only a reading waits for the device.

    Args:
        config: shape of the encoder.
    """

    def __init__(self, config: WavLMConfig) -> None:
        self.config = config
        self.begun: float | None = None
        self.paused: float | None = None
        self.seconds = self.flops = 0.0

    def count(self, batch: int, samples: int) -> None:
        """Add a batch of this process; the first one, which brings loader processes and kernels up, begins the clock."""
        if self.begun is None:
            self.begun = time.perf_counter()
            return
        self.seconds += batch * samples / SAMPLE_RATE
        self.flops += encoder_flops(self.config, batch, samples).training

    def pause(self) -> None:
        """Stop the clock."""
        self.paused = time.perf_counter()

    def go_on(self) -> None:
        """Let it run again."""
        if self.begun is not None and self.paused is not None:
            self.begun += time.perf_counter() - self.paused
        self.paused = None

    def read(self, strategy: Strategy) -> dict[str, float]:
        """Figures since the last reading, by name; none before there is anything to tell. All processes must call it.

        Returns:
            `audio_seconds_per_second` and `model_teraflops_per_second` (10^12 operations of the encoder, forward and
            backward) of all processes together; on a GPU whose peak is known `model_flops_utilisation`, the share of
            it that one process reaches; on CUDA `peak_memory_gib`, the most that any process has allocated so far.
        """
        if self.begun is None or not self.seconds:
            return {}
        device = strategy.root_device
        sums = strategy.reduce(torch.tensor([self.seconds, self.flops], device=device), reduce_op="sum").tolist()
        now = time.perf_counter()  # after waiting for the sums: the work is done
        elapsed = now - self.begun
        self.begun, self.seconds, self.flops = now, 0.0, 0.0
        audio, flops = (value / elapsed for value in sums)
        figures = {"audio_seconds_per_second": audio, "model_teraflops_per_second": flops / 1e12}
        if device.type == "cuda":
            processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
            share = model_flops_utilisation(flops / processes, torch.cuda.get_device_name(device))
            if share is not None:
                figures["model_flops_utilisation"] = share
            peak = torch.tensor(torch.cuda.max_memory_allocated(device) / 2**30, device=device)
            figures["peak_memory_gib"] = float(strategy.reduce(peak, reduce_op="max"))
        return figures


def padding_share(audio: Tensor) -> Tensor:
    """Share of the samples that are zeros at the end of their row, a float32 scalar.

    Crops are cut out of utterances, so nothing is padded on purpose; what this finds is digital silence at the ends of
    recordings (or a row of it), which a corpus should not have.

    Args:
        audio: `(batch, samples)`.
    """
    heard = (audio != 0).to(torch.uint8)
    behind = heard.flip(1).cummax(1).values == 0
    return behind.float().mean()
