"""SUPERB's speaker tasks: identification (SID), verification (SV), diarization (SD).

Read `speaker_identification` first (a classifier), then `speaker_verification` and `speaker_diarization`.
"""
