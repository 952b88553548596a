"""Tasks that make speech: enhancement and separation by masks, the vocoder, and conversion to another voice.

`mask_estimation` is what enhancement and separation share, the recipes of SUPERB-SG and their better variants; `front_end` a
base of tasks with an enhancement network in front of the upstream; `vocoder` (features to audio), `voice_matching` (kNN-VC
between any recordings), `conversion` (what tasks of conversion share), and one file for each task.

Tests: `tests/tasks/generation/`, `tests/tasks/test_enhancement_and_separation.py`.
"""
