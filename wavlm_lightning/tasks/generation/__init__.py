"""Tasks that make speech: the vocoder, and conversion to another voice.

`vocoder` (features to audio), `voice_matching` (kNN-VC between any recordings), `conversion` (what tasks of conversion share),
and one file for each of these tasks. Tests: `tests/tasks/generation/`.
"""
