"""Augmentation of waveforms and features, used by pre-training and by tasks; imports `encoder` and `system` only.

- `mixing`: utterance and noise mixing on waveforms (WavLM).
- `voice_perturbation`: formants and frequency response of what the encoder hears in pre-training (ContentVec).
- `span_masking`: which frames the encoder must predict (wav2vec 2.0, HuBERT).
- `transforms`: noise, rooms, speed, gain, mixing and crops of the waveforms of a task, composed in YAML.
- `spec_augment`: time warping, time masks and feature masks on features (SUPERB's ASR and SF).

Tests: `tests/augment`.
"""
