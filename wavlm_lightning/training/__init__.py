"""What pre-training and tasks share as Lightning code; imports `encoder` and `system` only.

- `optimizers`: parameter groups with and without weight decay, the learning rate over steps, the guard against gradients
  that are not finite.
- `trial`: short timings that choose CPU threads and precision before a run starts.
- `fsdp`: the strategy `fsdp2` and its sharded checkpoints.

Tests: `tests/training`, `tests/pretraining/test_updates.py`.
"""
