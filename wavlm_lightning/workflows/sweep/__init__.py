"""`wavlm sweep`: hyper-parameter search from a W&B sweep file, without a server."""
