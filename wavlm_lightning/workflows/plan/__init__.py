"""`wavlm plan`: memory, updates and GPU-hours of a pre-training before it starts."""
