"""SUPERB's paralinguistic task: emotion recognition (ER), with its cross-validation folds."""
