"""The LSTMs' fast path on CPUs is the packed one."""

from __future__ import annotations

import torch
from torch import nn

from wavlm_lightning.tasks.components.recurrent import run_packed, run_reversed


def test_rows_turned_around_give_what_packed_rows_give():
    torch.manual_seed(0)
    for cells, lengths in ((8, [17, 1, 9, 16]), (5, [3, 3]), (16, [40])):
        lstm = nn.LSTM(6, cells, batch_first=True, bidirectional=True)
        features = torch.randn(len(lengths), max(lengths) + 2, 6)
        results = []
        for run in (run_packed, run_reversed):
            leaf = features.clone().requires_grad_()
            lstm.zero_grad()
            outputs = run(lstm, leaf, torch.tensor(lengths))
            (outputs * torch.sin(torch.arange(outputs.numel()).view_as(outputs))).sum().backward()
            results.append([outputs, leaf.grad, *(p.grad.clone() for p in lstm.parameters())])
        for one, other in zip(*results, strict=True):
            assert torch.allclose(one, other, atol=1e-5)
