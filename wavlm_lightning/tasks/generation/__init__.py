"""Tasks that make speech: the vocoder, and conversion to another voice.

Tests: `tests/tasks/generation/`.
"""
