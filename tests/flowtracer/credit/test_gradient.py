"""Protects credit by the gradient of the answer: the reshaping of its source."""

import torch

from flowtracer import credit
from tests.flowtracer.credit.cases import ten


def test_gradient_reshaping_of_the_source():
    """Four tokens, log scores 0, 1/3, 2/3 and 1 after rescaling; threshold at the median, 1/2."""
    score = torch.tensor([[0.0, 1e-6, 1e-4, 1e-2, 1.0]])
    context = ten("gradient")
    for field in ("prompt", "response", "answer", "token_ids", "source"):
        setattr(context, field, getattr(context, field)[:, :5])
    context.answer = torch.tensor([[False] * 4 + [True]])
    context.saliency = score
    weights = credit.get("gradient", shape="oar")(context)[0, 1:]
    raw = torch.tensor([0.1, 2 / 3, 1 + 1 / 3, 2.0])
    assert torch.allclose(weights, raw * 4 / raw.sum(), atol=1e-4)
