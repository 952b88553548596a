"""Data sets of the mini corpus for tasks beyond SUPERB's ten, one file each.

`accents`: recognition in accents, at rates and in a language that training lacks; `noisy`: sentences in noise and rooms, every
sentence of the test in every condition; `translation`: English sentences, read aloud, with their German text.

Imports `data.mini`. Tests: `tests/data/test_mini_*.py`.
"""
