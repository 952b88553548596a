"""Data sets of the mini corpus for tasks beyond SUPERB's ten, one file each.

`translation`: English commands and statements, read aloud, with their German translation; `accents`: recognition in accents, at rates and in a language that training lacks.

Imports `data.mini`. Tests: `tests/data/test_mini_*.py`.
"""
