"""Networks of voice conversion from features to log-mel frames.

`mel_scale` (mean and spread of a corpus' log-mel), `any_to_one` (autoregressive, SUPERB-SG's), `content_vae` (a sequential
autoencoder whose content prior knows units), `units` (k-means of a layer). Tests: `tests/tasks/components/conversion/`.
"""
