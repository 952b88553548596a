"""Recipes of recorded meetings with speaker turns, for diarization and overlap detection: AMI, DIHARD III, AliMeeting.

Read `ami` first. What they share is `stretches_of` of `foreign/rttm.py`, which also reads RTTM of any other corpus
(`wavlm prepare rttm`). Tests: `tests/data/test_corpora_meetings.py`.
"""
