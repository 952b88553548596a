"""Data sets of the mini corpus for tasks beyond SUPERB's ten that generate: one file each.

`noisy`: sentences in noise and rooms, every sentence of the test in every condition.

Imports `data.mini`. Tests: `tests/data/test_mini_*.py`.
"""
