"""Recipes of corpora in which several speak at once and one is asked for.

Tests: `tests/data/test_corpora_libri2mix_target.py`.
"""
