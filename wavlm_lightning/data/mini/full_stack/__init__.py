"""Data sets of the mini corpus for tasks beyond SUPERB's ten that generate: one file each.

`voices`: recordings of target voices, and sentences of other speakers beside the same sentences of the targets.

Imports `data.mini`. Tests: `tests/data/test_mini_*.py`.
"""
