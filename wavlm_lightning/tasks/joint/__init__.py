"""Several heads trained on one pass of the upstream."""
