"""SUPERB's content tasks: phoneme recognition (PR), speech recognition (ASR), keyword spotting (KS), query by example (QbE);
and recognition beyond the encoder's domain (OOD-ASR).

Read `keyword_spotting` first (a classifier), then `phoneme_recognition` (CTC in its simplest form).
"""
