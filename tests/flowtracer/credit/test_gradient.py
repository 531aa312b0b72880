"""Protects credit by the gradient of the answer: the reshaping of its source."""

import numpy
import pytest
import torch

from flowtracer import credit
from tests.flowtracer.credit.cases import make, ten


def test_gradient_reshaping_of_the_source():
    """Four tokens, log scores 0, 1/3, 2/3 and 1 after rescaling; threshold at the median, 1/2."""
    score = torch.tensor([[0.0, 1e-6, 1e-4, 1e-2, 1.0, 0.0]])
    context = ten("gradient")
    for field in ("prompt", "response", "answer", "token_ids", "source"):
        setattr(context, field, getattr(context, field)[:, :6])
    context.answer = torch.tensor([[False] * 5 + [True]])
    context.saliency = score
    weights = credit.get("gradient", shape="oar")(context)[0, 1:5]
    raw = torch.tensor([0.1, 2 / 3, 1 + 1 / 3, 2.0])
    assert torch.allclose(weights, raw * 4 / raw.sum(), atol=1e-4)


def test_gradient_reshaping_with_log1p_is_that_of_the_authors_code():
    """OAR-main.py:207-236, worked out apart in float64 with numpy: quantile 0.5, beta 1, sum_to_L."""
    scores = numpy.array([0.1, 0.4, 0.0, 3.0, 0.0, 0.1, 0.2, 7.0, 0.05])
    logs = numpy.log1p(scores)
    share = (logs - logs.min()) / (logs.max() - logs.min())
    threshold = numpy.quantile(share, 0.5)
    expected = numpy.where(
        share < threshold, numpy.maximum(share / threshold, 0.1), 1 + (share - threshold) / (1 - threshold)
    )
    context = ten("gradient", saliency=[*scores.tolist(), 0.0])
    weights = credit.get("gradient", shape="oar", scale="log1p")(context)[0, 1:]
    assert numpy.allclose(weights[:-1].numpy(), expected * 9 / expected.sum(), atol=1e-5)
    assert not torch.allclose(weights, credit.get("gradient", shape="oar")(context)[0, 1:], atol=0.01)


def test_gradient_reshaping_is_of_the_tokens_before_the_answer():
    """As in the authors' code, whose weights are those of the reasoning; the answer and what follows it weigh 1."""
    scores = [0.1, 0.4, 0.0, 3.0, 0.0, 0.1, 9.0, 9.0, 0.0, 0.0]
    context = ten("gradient", saliency=scores)
    context.answer = (torch.arange(11) >= 7).unsqueeze(0) & (torch.arange(11) <= 8)
    weights = credit.get("gradient", shape="oar", scale="log1p")(context)[0, 1:]
    by_itself = credit.get("oar_perturb")(ten("oar_perturb", divergence=scores, answer=context.answer))[0, 1:]
    assert weights[6:].tolist() == [1.0] * 4
    assert torch.allclose(weights, by_itself) and float(weights[:6].mean()) == pytest.approx(1.0, abs=1e-6)
    method, context = make("gradient", answers="first", shape="oar")
    assert set(method.assess(context).abstentions.values()) == {"no token before the answer"}
    method, context = make("gradient", answers="first")
    assert not method.assess(context).abstentions, "two levels rank all tokens"


def test_perturbation_weighs_what_stands_before_the_answer_only():
    """The mean over those tokens is 1, and tokens from the answer on weigh 1 whatever their divergence."""
    context = ten("oar_perturb", divergence=[0.1, 0.4, 0.0, 3.0, 0.0, 0.1, 9.0, 9.0, 9.0, 9.0])
    context.answer = (torch.arange(11) >= 7).unsqueeze(0) & (torch.arange(11) <= 8)
    weights = credit.get("oar_perturb")(context)[0, 1:]
    assert weights[6:].tolist() == [1.0] * 4
    assert float(weights[:6].mean()) == pytest.approx(1.0, abs=1e-6) and weights[3] == weights.max()


def test_perturbation_abstains_where_nothing_stands_before_the_answer():
    method, context = make("oar_perturb", answers="first")
    assert set(method.assess(context).abstentions.values()) == {"no token before the answer"}
