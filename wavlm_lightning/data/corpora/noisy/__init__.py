"""Recipes of speech in noise: with clean references for enhancement, with texts for recognition.

Tests: `tests/data/test_corpora_noisy.py`.
"""
