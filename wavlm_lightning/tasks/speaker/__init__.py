"""Speaker tasks: identification (SID), verification (SV) and diarization (SD) of SUPERB, and those of the full stack.

Read `speaker_identification` first (a classifier), then `speaker_verification` and `speaker_diarization`. Speech and overlap:
`overlap_detection`. Of DIAR, any number of speakers in recordings of any length, `speaker_segmentation` has windows, network and
loss, `voice_embeddings` tells speakers apart, `meeting_diarization` joins both. Of a target speaker, whom an enrolment makes
known: `target_extraction`, `target_recognition`, `personal_activity`.
"""
