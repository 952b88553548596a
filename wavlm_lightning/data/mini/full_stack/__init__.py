"""Data sets of the mini corpus for tasks beyond SUPERB's ten that generate: one file each.

`translation`: English commands and statements, read aloud, with their German translation.

Imports `data.mini`. Tests: `tests/data/test_mini_*.py`.
"""
