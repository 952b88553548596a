"""Data sets of the mini corpus for tasks beyond SUPERB's ten that generate: one file each.

`enhancement`: sentences in noise, and without it; `separation`: two talkers at once, and each alone.

Imports `data.mini`. Tests: `tests/data/test_mini_*.py`.
"""
