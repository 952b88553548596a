"""Measures of speech that a model has made: separated, or converted to another voice.

`separation` (the parts of a mixture), `cepstra` (mel-cepstral distortion, time alignment), `pitch` (fundamental frequency),
`conversion` (what the test of a conversion counts), `judges` (models of others that nobody here has trained).
Tests: `tests/metrics/`.
"""
