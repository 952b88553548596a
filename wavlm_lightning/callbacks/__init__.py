"""Lightning callbacks and loggers: checkpoints, progress bar, probe, result card, Weights & Biases."""
