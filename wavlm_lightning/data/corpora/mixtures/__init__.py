"""Recipes of corpora in which several speak at once: each of them alone (separation), or one who is asked for.

Tests: `tests/data/test_corpora_libri2mix_target.py` and `test_corpora_separation.py`.
"""
