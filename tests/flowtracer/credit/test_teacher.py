"""Protects the methods with a teacher: what their options do, and oppo's recursion. Tables are in `authors`."""

import math

import pytest
import torch

from flowtracer import CreditError, credit
from flowtracer.credit.composition import Composed
from flowtracer.credit.teacher import filled
from tests.flowtracer.credit.cases import make, ten

STUDENT = [-0.1, -2.5, -0.7, -3.25, -0.01, -1.5, -0.9, -6.0, -0.25, -4.0]
TEACHER = [-0.15, -2.0, -0.9, -0.25, -0.02, -1.62, -0.8, -9.0, -0.25, -3.9]


def three(name, advantages=(1.0, -1.0, 0.0), rewards=(1.0, 0.0, 0.0), **options):
    """A method's weights or addends on three responses of the tables' log-probabilities, (3, 10) float64."""
    context = ten(
        name,
        rows=3,
        advantage=torch.tensor(advantages),
        reward=torch.tensor(rewards),
        logprobs=STUDENT,
        teacher_logprobs=TEACHER,
        step=options.pop("step", 0),
    )
    judged = credit.get(name, **options).assess(context)
    values = judged.weights if judged.addend is None else judged.addend
    return values[:, 1:].double()


@pytest.mark.parametrize(
    ("step", "share"), [(0, 59 / 60), (14, 0.75), (29, 0.5), (58, 1 / 60), (59, 0.0), (999, 0.0)]
)
def test_rlsd_fades_as_in_the_authors_code(step, share):
    """target_lambda * max(1 - step / decay_steps, 0), its first step being 1, and the rest of the weight with it."""
    whole = three("rlsd", mix=0.5)[0] - 1
    faded = three("rlsd", mix=0.5, fade_steps=60, step=step)[0] - 1
    assert faded.tolist() == pytest.approx((share * whole).tolist(), abs=1e-6)


def test_only_a_fading_rlsd_needs_the_step():
    assert "step" not in credit.get("rlsd").needs
    fading, context = make("rlsd", fade_steps=60)
    with pytest.raises(CreditError, match="needs the training step"):
        fading(context)
    context.step = 3
    assert fading(context).isfinite().all()


def test_rlsd_turns_no_sign_round_whatever_the_teacher_says():
    method, context = make("rlsd", mix=1.0, epsilon=1.0)
    context.teacher_logprobs[0] = -500.0
    context.teacher_logprobs[1] = 0.0
    weights = method(context)
    assert (weights >= 0).all() and weights.max() <= 2


def test_opsd_puts_the_evidence_in_place_of_the_advantage():
    """Whatever that was; beside it, where a share of it is to stay."""
    expected = [teacher - student for teacher, student in zip(TEACHER, STUDENT, strict=True)]
    addend = three("opsd")
    for row, advantage in enumerate((1.0, -1.0, 0.0)):
        assert (addend[row] + advantage).tolist() == pytest.approx(expected, abs=1e-6)
    kin = three("opsd", scale=0.5, outcome=1.0)
    assert kin[1].tolist() == pytest.approx([value / 2 for value in expected], abs=1e-6)


def test_oppo_is_the_recursion():
    """Without anchor the changes of a response add up to its last chance minus its first, V_T - V_0."""
    evidence = [teacher - student for teacher, student in zip(TEACHER, STUDENT, strict=True)]
    start = math.log(1 / 3 / (2 / 3))
    odds = [start]
    for value in evidence:
        odds.append(odds[-1] + max(-5.0, min(5.0, value)))
    chance = [1 / (1 + math.exp(-value)) for value in odds]
    expected = [after - before for before, after in zip(chance, chance[1:], strict=False)]
    addend = three("oppo", anchor=False)
    for row, advantage in enumerate((1.0, -1.0, 0.0)):
        assert (addend[row] + advantage).tolist() == pytest.approx(expected, abs=1e-6)
    assert float(addend[0].sum() + 10) == pytest.approx(chance[-1] - 1 / 3, abs=1e-5)
    anchored = three("oppo")
    assert (anchored[0] + 1).tolist() == pytest.approx([max(0, value) for value in expected], abs=1e-6)
    assert (anchored[1] - 1).tolist() == pytest.approx([min(0, value) for value in expected], abs=1e-6)


def test_oppo_bounds_the_evidence_of_one_token():
    method, context = make("oppo", clip=1.0)
    context.teacher_logprobs[0] = context.logprobs[0] + 100.0 * context.response[0]
    addend = method.assess(context).addend[0][context.response[0]].double() + context.advantage[0]
    assert float(addend.max()) < 0.25, "at odds 1 one nat moves the chance by 0.23"


@pytest.mark.parametrize("rewards", [(1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (float("nan"),) * 3, (2.0, 3.0, 1.0)])
def test_oppo_leaves_groups_alone_that_have_no_chance_between(rewards):
    assert (three("oppo", rewards=rewards) == 0).all()


@pytest.mark.parametrize("name", ["rlsd", "opsd", "oppo"])
@pytest.mark.parametrize("template", ["", "no places", "{question} only", "{gold} only", 7])
def test_a_template_without_question_or_gold_is_refused(name, template):
    with pytest.raises(CreditError, match=f"credit {name}: template must be a text that holds"):
        credit.get(name, template=template)


def test_braces_of_the_texts_are_left_as_they_are():
    text = filled("{question} -> \\boxed{{gold}} {x}", "is {gold} heavy?", "{question}")
    assert text == "is {gold} heavy? -> \\boxed{{question}} {x}"


def test_two_teachers_of_one_method_must_read_the_same():
    both = credit.get(["rlsd", "low_probability"], rlsd={"template": "{question}{gold}"})
    assert both.template == "{question}{gold}" and "teacher_logprobs" in both.needs
    assert not hasattr(credit.get(["gtpo", "low_probability"]), "template")

    class Other(type(credit.get("rlsd"))):
        name = "other"

    with pytest.raises(CreditError, match="templates differ"):
        Composed(parts=(credit.get("rlsd", template="{question}{gold}"), Other()))
