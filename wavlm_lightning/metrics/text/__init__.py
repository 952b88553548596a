"""Measures of texts that are no error rates of words: `translation` (BLEU, chrF, exact answers), `ngram_counts` (BLEU
from counts of utterances; numpy alone).

Imports `system` at most. Tests: `tests/metrics/`.
"""
