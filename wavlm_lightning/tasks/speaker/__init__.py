"""Who speaks: speaker identification, speaker verification, speaker diarization."""
