"""Speaker tasks: identification (SID), verification (SV), diarization (SD) of SUPERB, and of recordings of any length (DIAR).

Read `speaker_identification` first (a classifier), then `speaker_verification` and `speaker_diarization`. Of DIAR,
`speaker_segmentation` has windows, network and loss, `voice_embeddings` tells speakers apart, `meeting_diarization` joins both.
"""
