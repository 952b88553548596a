"""Measures of speech that a model makes: the parts of a mixture.

Imports `metrics` and `system`. Tests: `tests/metrics/`.
"""
