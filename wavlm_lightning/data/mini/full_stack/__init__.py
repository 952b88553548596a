"""Data sets of the mini corpus for tasks beyond SUPERB's ten, one file each.

`accents`: recognition in accents, at rates and in a language that training lacks; `enhancement`: sentences in noise, and without
it; `noisy`: sentences in noise and rooms, every sentence of the test in every condition; `separation`: two talkers at once, and
each alone; `translation`: English sentences, read aloud, with their German text; `voices`: recordings of target voices, and
sentences of other speakers beside the same sentences of the targets.

Imports `data.mini`. Tests: `tests/data/test_mini_*.py`.
"""
