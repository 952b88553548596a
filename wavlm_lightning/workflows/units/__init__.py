"""`wavlm units`: measures of encoders' layers, label sets and alignments that need no training.

ABX of every layer of any upstream from one pass (`layer_frames`), and of label sets; PNMI, purities, boundaries, lengths and
stability of label sets (`labels`). Everything is in `OUT/units.json`, which `wavlm report` draws. Tests:
`tests/workflows/test_units_command.py`.
"""

from wavlm_lightning.workflows.units.measuring import measure_units

__all__ = ["measure_units"]
