"""What pre-training and tasks share as Lightning code; imports `encoder` and `system` only.

- `module`: the base of every LightningModule of ours: optimiser, schedule, guard, random streams, sharding.
- `schedules`: the learning rate over updates.
- `optimizers`: parameter groups with and without weight decay, the guard against gradients that are not finite.
- `muon`: Muon for the matrices of the transformer beside AdamW.
- `averaging`: the moving average of the weights, which is validated and read by others.
- `trial`: short timings that choose CPU threads and precision before a run starts.
- `fsdp`: the strategy `fsdp2` and its sharded checkpoints.

Tests: `tests/training`, `tests/tasks/test_optimisation.py`, `tests/pretraining/test_updates.py`.
"""
