"""Data sets of the mini corpus for tasks beyond SUPERB's ten, one file each.

`accents`: recognition in accents, at rates and in a language that training lacks.
`translation`: English sentences, read aloud, with their German translation.

Imports `data.mini`. Tests: `tests/data/test_mini_*.py`.
"""
