"""Speaker tasks: identification (SID), verification (SV), diarization (SD); about one speaker: TSE, TS-ASR, pVAD.

Read `speaker_identification` first (a classifier), then `speaker_verification` and `speaker_diarization`. Of a target speaker,
whom an enrolment makes known: `target_extraction`, `target_recognition`, `personal_activity`.
"""
