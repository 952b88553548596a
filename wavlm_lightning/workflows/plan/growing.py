"""The cost of batches and crops that grow over a run (`data.batch_growth`, `data.crop_growth`): means over its updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from wavlm_lightning.data.loading.growing import GrowingSizes, Growth
from wavlm_lightning.pretraining.flops import StepFlops
from wavlm_lightning.pretraining.objectives import ObjectiveCost
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.workflows.plan.assumptions import settings
from wavlm_lightning.workflows.recipe.chain import Configuration


@dataclass(frozen=True)
class Size:
    """Batches of one size in a run."""

    share: float  # of the updates
    batch_seconds: float  # audio of a micro-step in each process
    crop_seconds: float


@dataclass(frozen=True)
class RunSizes:
    """All sizes of the batches of a run; one where nothing grows."""

    full: GrowingSizes
    updates: int

    @property
    def sizes(self) -> list[Size]:
        """In the order of the run."""
        stretches = self.full.stretches(self.updates)
        return [Size(length / self.updates, batch, min(crop, batch)) for _, length, batch, crop in stretches]

    @property
    def mean_seconds(self) -> float:
        """Audio of a micro-step in each process, on average over the updates."""
        return sum(size.share * size.batch_seconds for size in self.sizes)

    def remarks(self, micro_steps: float) -> list[str]:
        """A sentence about what grows; `micro_steps` is the number of micro-steps of an update in all processes."""
        if not self.full.grown:
            return []
        first, last = self.sizes[0], self.sizes[-1]
        grows = (
            [f"batches grow from {first.batch_seconds:g} to {last.batch_seconds:g} s"] if self.full.batch_growth else []
        )
        grows += [f"crops grow from {first.crop_seconds:g} to {last.crop_seconds:g} s"] if self.full.crop_growth else []
        said = f"{' and '.join(grows)} over the first {self.full.grown:,} updates: {self.mean_seconds * micro_steps:,.4g} s an "
        text = f"{said}update on average"
        return [text if self.full.grown <= self.updates else f"{text}; the run ends before they are full"]


def run_sizes(stage: Configuration, batch_seconds: float, crop_seconds: float, updates: int) -> RunSizes:
    """The sizes of a run over its updates, from the section `data` of its configuration."""
    growths = {key: settings(stage, f"data.{key}", Growth) for key in ("batch_growth", "crop_growth")}
    try:
        return RunSizes(GrowingSizes(batch_seconds, crop_seconds, **growths), updates)
    except UserError as error:
        raise UserError(f"{stage.path}: {error}") from error


def mean_flops(parts: Sequence[tuple[float, StepFlops, float]], head: ObjectiveCost) -> tuple[StepFlops, ObjectiveCost]:
    """Operations of a micro-step on average: `parts` are shares of the updates with those of encoder and objectives."""
    names = [field.name for field in fields(StepFlops)]
    encoder = StepFlops(**{name: sum(share * getattr(each, name) for share, each, _ in parts) for name in names})
    return encoder, replace(head, flops=sum(share * flops for share, _, flops in parts))
