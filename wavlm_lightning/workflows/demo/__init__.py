"""`wavlm demo`: corpus, codebook, pre-training, three tasks, report."""
