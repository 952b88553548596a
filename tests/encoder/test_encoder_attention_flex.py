"""FlexAttention's score function: as torch runs it on a CPU, and its gradients by torch's own dense reference."""

from __future__ import annotations

import math

import pytest
import torch
from attention_helpers import KINDS, NAMES, check, gradients, inputs, padding_of, plain, run, valid_of

from wavlm_lightning.encoder.attention_backends import attend
from wavlm_lightning.encoder.attention_backends.flex import score_mod


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [[17, 17], [17, 9]])
def test_forward(kind: str, lengths: list[int]):
    x, padding = inputs((2, 4, 17, 8), kind), padding_of(lengths, 17)
    x = {name: None if tensor is None else tensor.detach() for name, tensor in x.items()}
    with torch.no_grad():
        valid = valid_of(padding)
        check(run("flex", x, padding) * valid, plain(x, padding) * valid, 1e-5, "output")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [[17, 17], [17, 9]])
def test_scores_and_their_gradients(kind: str, lengths: list[int]):
    """The same function over all indices at once, which autograd can differentiate on a CPU."""
    x, padding = inputs((2, 4, 17, 8), kind), padding_of(lengths, 17)
    query, key, value = (x[name].transpose(1, 2) for name in NAMES[:3])
    scores = query @ key.mT / math.sqrt(8)
    score = score_mod(17, x["table"], x["gate"], None if padding is None else torch.tensor(lengths))
    if score is not None:
        index = (
            torch.arange(size).view([-1 if i == n else 1 for i in range(4)]) for n, size in enumerate(scores.shape)
        )
        scores = score(scores, *index)
    found, wanted, valid = scores.softmax(-1) @ value, plain(x, padding), valid_of(padding)
    check(found * valid, wanted * valid, 1e-5, "output")
    expected = gradients(x, wanted, valid)
    for name, gradient in gradients(x, found, valid).items():
        check(gradient, expected[name], 1e-5, name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ["flex", "recomputed", "sdpa"])
def test_on_a_gpu(kind: str, backend: str):
    x, padding = inputs((2, 4, 130, 64), kind), padding_of([130, 77], 130)
    wanted, valid = plain(x, padding), valid_of(padding)
    on_gpu = {name: None if tensor is None else tensor.detach().cuda().requires_grad_() for name, tensor in x.items()}
    found = run(backend, on_gpu, None if padding is None else padding.cuda())
    check(found.cpu() * valid, wanted * valid, 1e-3, "output")
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(9)) * valid
    (found * weight.cuda()).sum().backward()
    for name, gradient in gradients(x, wanted, valid).items():
        check(on_gpu[name].grad.cpu(), gradient, 1e-2, name)


def test_dropout_is_refused():
    x = torch.zeros(1, 1, 3, 4)
    with pytest.raises(ValueError, match=r"set attention_dropout to 0 instead of 0\.1 or choose recomputed"):
        attend("flex", x, x, x, dropout=0.1)
