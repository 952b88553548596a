"""Speech of the mini corpus: synthesisers, their voices and their phones.

In reading order: `speech` (what every synthesiser takes and gives), `voices` (the synthetic speakers), `phones` (names of
phones), `espeak` (the requests to espeak-ng) and `synthesiser` (its process), `formant_synth` (the one in numpy). Tests:
`tests/data/test_mini_sound.py`.
"""
