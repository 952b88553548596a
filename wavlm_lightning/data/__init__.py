"""The corpus format, from recordings on disk to the batches of a training step.

Read `corpus` (the format), `split` and `shard_index` (random access), `recordings` and `writing` (how a corpus is made),
`batch`, then `loading/` (batches, order, resume), `alignments/` (times of phones), `remote/` (corpora behind a URL),
`corpora/` (one file per recipe) and
`mini/` (the embedded corpus). `noise` reads what waveform transforms add. Imports `audio`, `augment`, `encoder.Layers` and
`system`. Tests: `tests/data`.
"""
