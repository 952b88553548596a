"""Augmentation of waveforms and features: utterance mixing, span masking, SpecAugment."""
