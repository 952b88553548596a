"""Tasks that make speech: enhancement and separation by masks, the vocoder, and conversion to another voice.

`mask_estimation` is what enhancement and separation share: the recipes of SUPERB-SG and their better variants.

`vocoder` (features to audio), `voice_matching` (kNN-VC between any recordings), `conversion` (what tasks of conversion share), and
one file for each of them. Tests: `tests/tasks/generation/`.
"""
