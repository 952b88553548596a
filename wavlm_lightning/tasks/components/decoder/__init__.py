"""Transformer encoder-decoder for answers of any length: attention ASR, speech translation.

Reading order: `network` (`EncoderDecoder`: what a head builds), `subsampling` and `transformer` (its parts), `search` (beam
search over the decoder and further scores), `prefix_scores` (CTC), `ngram_scores` (an n-gram model of letters).
Tests: `tests/tasks/decoder/`.
"""
