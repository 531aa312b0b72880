"""An unknown name is answered alike in all three packages, which do not import each other."""

import pytest

import flowtracer.hints
import leaderboards.names
import tasks
import tasks.hints
from flowtracer import CreditError, credit
from flowtracer.contexts import credit_method
from tasks.problem import TaskError

METHODS = ["uniform", "flow", "raw_flow", "attention_rollout", "answer_attention"]


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("flwo", "did you mean 'flow'?"),
        ("Flow", "did you mean 'flow'?"),
        ("ppo", "known: uniform, flow, raw_flow, attention_rollout, answer_attention"),
        ("attention", "did you mean 'answer_attention' or 'attention_rollout'?"),
    ],
)
def test_the_nearest_names_or_all_of_them(name, answer):
    hints = {module.hint(name, METHODS) for module in (flowtracer.hints, tasks.hints, leaderboards.names)}
    assert len(hints) == 1
    assert sorted(hints.pop().replace("?", "").split("'")) == sorted(answer.replace("?", "").split("'"))
    assert flowtracer.hints.hint(name, []) == "known: "


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: credit.get("entrpy"),
            CreditError,
            "unknown credit method 'entrpy'; did you mean 'entropy'?",
        ),
        (
            lambda: credit.get(["flow", "gtop"]),
            CreditError,
            "method 'gtop'; did you mean 'gtpo'?",
        ),
        (lambda: credit_method("flwo"), CreditError, "did you mean 'flow'?; `flowtracer methods` lists all"),
        (
            lambda: credit.get("flow", gama=2.0),
            CreditError,
            "no option 'gama'; did you mean 'gamma'?",
        ),
        (lambda: credit.get("zzz"), CreditError, ", flow, "),
        (
            lambda: tasks.get("gsm9k"),
            TaskError,
            "task 'gsm9k'; did you mean 'gsm8k'?; `flowtracer tasks`",
        ),
        (lambda: tasks.kind("countdwon"), TaskError, "did you mean 'countdown'?"),
        (
            lambda: tasks.get("decision", varaint="x"),
            TaskError,
            "no option 'varaint'; did you mean 'variant'?",
        ),
        (lambda: tasks.get("decision", variant="aligend"), TaskError, "did you mean 'aligned'?"),
    ],
)
def test_a_name_is_looked_up_in_one_line_with_the_nearest(call, error, message):
    with pytest.raises(error) as raised:
        call()
    assert message in str(raised.value) and "\n" not in str(raised.value)
