"""Tasks that make speech: enhancement and separation by masks on the spectrogram.

`mask_estimation` is what the two share: the recipes of SUPERB-SG and their better variants.

Imports `tasks.components`, `metrics`. Tests: `tests/tasks/test_enhancement_and_separation.py`.
"""
