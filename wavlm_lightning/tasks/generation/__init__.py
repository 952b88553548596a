"""Tasks that make speech: enhancement and separation by masks, the vocoder, and conversion to another voice.

`mask_estimation` is what enhancement and separation share: the recipes of SUPERB-SG and their better variants.

Tests: `tests/tasks/generation/`.
"""
