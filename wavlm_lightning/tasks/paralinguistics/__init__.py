"""Paralinguistic tasks: emotion recognition (ER, with its cross-validation folds) and quality of speech (MOS)."""
