"""Recipes of recorded meetings with speaker turns, for diarization and overlap detection: AMI, DIHARD III, AliMeeting.

Read `ami` first, then what they share, `recordings_with_turns`. RTTM of any other corpus: `wavlm prepare rttm`
(`foreign/rttm.py`). Tests: `tests/data/test_corpora_meetings.py`.
"""
