"""Protects faithfulness: methods with public code give what that code's rule gives, by tables in float64."""

import json

import pytest
import torch

from flowtracer import credit
from flowtracer.credit import CreditContext
from tests.flowtracer.credit.authors import RULES, TABLES, tables

KEPT = json.loads(TABLES.read_text(encoding="utf-8"))

CASES = [(name, index) for name, table in KEPT.items() for index in range(len(table["cases"]))]

#: One token of prompt, and one of answer behind the response where a method looks at what stands before it.
FIRST = 1
BEFORE_THE_ANSWER = ("oar_perturb", "gradient", "answer_attention")


def context_of(name, case):
    """The context of a case: rows of the given lengths behind one prompt token, pads on the right."""
    values = next(
        case[field]
        for field in ("entropies", "pieces", "logprobs", "token_ids", "divergence", "saliency", "scores")
        if field in case
    )
    lengths = [len(row) + (name in BEFORE_THE_ANSWER) for row in values]
    rows, width = len(lengths), FIRST + max(lengths)
    column = torch.arange(width).expand(rows, width)
    ends = FIRST + torch.tensor(lengths).unsqueeze(1)
    context = CreditContext(
        token_ids=column.clone(),
        prompt=column < FIRST,
        response=(column >= FIRST) & (column < ends),
        source=column < FIRST,
        answer=column == ends - 1,
        advantage=torch.tensor(case.get("advantage", [1.0] * rows)),
        group=torch.zeros(rows, dtype=torch.long),
    )
    if "reward" in case:
        context.reward = torch.tensor(case["reward"])
        context.advantage = context.reward - context.reward.mean()
    context.step = case.get("step")
    for field in (
        "entropies",
        "logprobs",
        "squares",
        "divergence",
        "values",
        "teacher_logprobs",
        "saliency",
        "scores",
    ):
        if field in case:
            setattr(context, field, placed(case[field], width))
    if "token_ids" in case:
        context.token_ids = placed(case["token_ids"], width).long()
        context.ends = context.response & (context.token_ids == 1)
    if "pieces" in case:
        context.pieces = [["", *row, *[""] * (width - FIRST - len(row))] for row in case["pieces"]]
    return context


def placed(rows, width):
    """Rows of numbers in their columns, (rows, width) float32."""
    values = torch.zeros(len(rows), width)
    for row, numbers in zip(values, rows, strict=True):
        row[FIRST : FIRST + len(numbers)] = torch.tensor(numbers, dtype=torch.float32)
    return values


@pytest.mark.parametrize(("name", "index"), CASES)
def test_a_method_gives_what_its_authors_code_gives(name, index):
    table = KEPT[name]
    case, kind = table["cases"][index], table["gives"]
    judged = credit.get(name, **case["options"]).assess(context_of(name, case))
    assert not judged.abstentions
    for row, expected in zip(getattr(judged, kind), case[kind], strict=True):
        assert row[FIRST : FIRST + len(expected)].tolist() == pytest.approx(expected, rel=2e-6, abs=2e-6)


def test_the_tables_are_those_of_the_rules():
    """Numbers that nobody can make again would hold the methods to nothing."""
    assert json.loads(json.dumps(tables())) == KEPT


@pytest.mark.parametrize("name", list(RULES))
def test_a_docstring_names_the_code_that_its_table_comes_from(name):
    repository, _, place = RULES[name][1].partition(" at ")
    stated = " ".join(type(credit.get(name)).__doc__.split())
    assert repository in stated and place.split(",")[0] in stated


def test_the_tables_hold_different_numbers():
    """Against tables of ones, which any method of constant weights would pass."""
    for name, table in KEPT.items():
        values = {value for case in table["cases"] for row in case[table["gives"]] for value in row}
        assert len(values) > 1, name
