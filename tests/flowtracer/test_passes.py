"""Protects the passes of our own: what they read, against loops in float64, and that they leave nothing behind."""

import random

import pytest
import torch

from flowtracer import CreditError, CreditGRPOTrainer, credit, passes
from flowtracer.contexts import ContextBuilder
from flowtracer.layout import Padded, pad
from tests.flowtracer.conftest import tiny_model
from tests.flowtracer.test_trainer import SEAMS, Letters, train

PROMPTS = [[5, 6, 7], [8, 9]]
RESPONSES = [[10, 11, 12, 13], [14]]


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_distributions_against_a_loop(temperature, step):
    """Each response token's distribution, sequence by sequence without pads, summed in float64."""
    model = tiny_model("qwen3", seed=3)
    batch = pad(PROMPTS, RESPONSES, 0, "cpu")
    fields = passes.distributions(model, batch, temperature, step)
    assert set(fields) == {"logprobs", "entropies", "squares"}
    first = batch.input_ids.shape[1] - batch.length
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + response])).logits[0].double() / temperature
        for place, token in enumerate(response):
            p = logits[len(prompt) + place - 1].softmax(-1)
            column = first + place
            assert float(fields["logprobs"][row, column]) == pytest.approx(float(p[token].log()), abs=1e-5)
            assert float(fields["entropies"][row, column]) == pytest.approx(
                float(-(p * p.log()).sum()), abs=1e-5
            )
            assert float(fields["squares"][row, column]) == pytest.approx(float((p * p).sum()), abs=1e-6)
    assert all((values[:, :first] == 0).all() for values in fields.values())


def test_a_pass_leaves_no_gradient_no_draw_and_the_model_in_training():
    model = tiny_model("qwen3", seed=3).train()
    before = torch.get_rng_state(), random.getstate()
    fields = passes.distributions(model, pad(PROMPTS, RESPONSES, 0, "cpu"), 1.0, 2)
    assert model.training and not any(values.requires_grad for values in fields.values())
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("seam", list(SEAMS))
def test_otb_trains_in_every_seam_by_the_same_credit(tokenizer, tmp_path, seam):
    """The pass is over the generation batch, whatever becomes of it: the same addends as in one piece."""
    whole, other = (
        train(tokenizer, tmp_path, credit="otb", task=Letters(), steps=1, **SEAMS[name]).rollouts
        for name in ("training forward", seam)
    )
    assert whole.response_ids == other.response_ids
    torch.testing.assert_close(whole.addends, other.addends, rtol=0, atol=1e-5)
    assert len(whole.addends.unique()) > 10


def test_a_product_with_a_pass_of_its_own_is_read(tokenizer, tmp_path):
    """Entropies come from a forward, saliency from a pass of its own: a product of both needs both at once."""
    method = credit.get(["gtpo", "gradient"])
    batch = train(tokenizer, tmp_path, credit=method, task=Letters(), steps=1).rollouts
    assert len(batch.weights.unique()) > 10


@pytest.mark.parametrize("step", [1, 3])
def test_divergence_against_a_loop(step):
    """Each text with one token replaced, by a forward of its own: KL of the mean answer logits in float64."""
    model = tiny_model("qwen3", seed=3)
    batch = pad(PROMPTS, RESPONSES, 0, "cpu")
    answer = batch.on_response([[2, 3], []])
    got = passes.answer_divergence(model, batch, answer, 4, step)

    def answer_logs(response):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([PROMPTS[0] + response])).logits[0].double()
        drawn = [len(PROMPTS[0]) + place - 1 for place in (2, 3)]
        return logits[drawn].mean(0).log_softmax(-1)

    plain = answer_logs(RESPONSES[0])
    expected = torch.zeros(got.shape)
    for place in (0, 1):
        changed = answer_logs([4 if at == place else token for at, token in enumerate(RESPONSES[0])])
        expected[0, 3 + place] = (plain.exp() * (plain - changed)).sum()
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-6)
    assert got[0, 3:5].min() > 1e-4 and (got[1] == 0).all(), "the second response has no answer"


def test_perturbation_trains_by_the_pad_token(tokenizer, tmp_path):
    """Answers are the last letters: what stands before them is replaced, by what the tokenizer pads with."""
    seen = []

    class Watched(CreditGRPOTrainer):
        def context_of(self, inputs, fields):
            seen.append(super().context_of(inputs, fields))
            return seen[-1]

    trainer = train(tokenizer, tmp_path, cls=Watched, credit="oar_perturb", task=Letters(), steps=1)
    context = seen[0]
    batch = Padded(
        context.token_ids, (context.prompt | context.response).long(), trainer.rollouts.weights.shape[1]
    )
    expected = passes.answer_divergence(
        tiny_model("qwen3", seed=3), batch, context.answer, tokenizer.pad_token_id, 4
    )
    torch.testing.assert_close(context.divergence, expected, rtol=1e-3, atol=1e-6)
    assert expected.max() > 1e-3 and len(trainer.rollouts.weights.unique()) > 10


def test_a_tokenizer_without_pad_or_end_is_named():
    bare = type("", (), {"pad_token_id": None, "eos_token_id": None})()
    with pytest.raises(CreditError, match="'oar_perturb' puts the pad token in the place of others"):
        ContextBuilder(credit.get("oar_perturb"), Letters(), bare).replacement()
