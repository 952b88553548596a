"""Networks and decoders that several heads share.

`recurrent` (ASR, SF), `xvector` (SV), `beam_search` with `ngrams` (language models for ASR), `spoken_text` (transcripts
as the letters that are spoken), `decoder/` (attention ASR, translation), `enrolment` (TSE, TS-ASR, pVAD). Tests: `tests/tasks/`.
"""
