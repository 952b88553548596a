"""Recipes of other languages, accents and styles: translated speech, spontaneous speech, and the text rules of SUPERB-SG.

Tests: `tests/data/test_corpora_languages.py`.
"""
