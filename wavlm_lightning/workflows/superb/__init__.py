"""`wavlm superb`: any encoder on SUPERB's ten tasks, one table."""
