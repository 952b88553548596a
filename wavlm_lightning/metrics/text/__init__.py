"""Measures of texts that are no error rates of words: `translation` (BLEU, chrF, exact answers).

Imports `system` at most. Tests: `tests/metrics/`.
"""
