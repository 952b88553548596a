"""Several heads, of one or more tasks, trained from one upstream forward.

In reading order: `many_heads` (the LightningModule and its joined optimisers), `head_hooks` (what each head gets from
Lightning), `shared_batches` (which tasks can share batches). The command line builds `ManyHeads` in
`workflows.fit.joint_heads`; the Lightning callbacks are in `callbacks.joint_heads`. Tests: `tests/tasks/test_many_*.py`.
"""
