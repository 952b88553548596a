"""A progress bar over hours of audio, with the speed in hours of audio per hour (94,000 h at 3,000 h/h take 31 h)."""

from __future__ import annotations

import time

from tqdm import tqdm

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.system.progress import progress_bar


class HoursBar:
    """A progress bar that counts audio in samples; what was `done` before does not count for the speed.

    Example:
        >>> with HoursBar(57_600_000, 0, "labels") as bar:
        ...     bar.add(28_800_000)  # labels:  50%|█████     | 0.50/1.00 h of audio [00:02<00:02, 900 h/h]
    """

    def __init__(self, samples: int, done: int, what: str) -> None:
        self.before = self.samples = done
        self.began = time.monotonic()
        digits = 2 if samples < 100 * 3600 * SAMPLE_RATE else 0
        self.bar: tqdm = progress_bar(
            total=samples,  # integers scaled to hours, because sums of fractions may end above the total
            initial=done,
            unit_scale=1 / SAMPLE_RATE / 3600,
            desc=what,
            bar_format=f"{{desc}}: {{percentage:3.0f}}%|{{bar}}| {{n:.{digits}f}}/{{total:.{digits}f}} h of audio "
            "[{elapsed}<{remaining}{postfix}]",
        )

    def __enter__(self) -> HoursBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    @property
    def speed(self) -> float:
        """Hours of audio per hour since the start."""
        return (self.samples - self.before) / SAMPLE_RATE / max(time.monotonic() - self.began, 1e-9)

    def add(self, samples: int) -> None:
        self.samples += samples
        self.bar.set_postfix_str(f"{self.speed:,.0f} h/h", refresh=False)
        self.bar.update(samples)
