"""OlympiadBench (He et al. 2024, arXiv 2402.14008): its English, text-only, open-ended mathematics
problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar

from tasks.marked import ExpressionTask
from tasks.problem import Problem, register
from tasks.source import Hub, Row, load
from tasks.verdict import TaskError, Verdict
from tasks.verify import answers, numbers, units

#: Published answers that no reader could give as they are printed, and what they mean.
MISPRINTS = {"$t(0,4]$": "$t \\in (0,4]$", "$221,$8$": "$221$,$8$"}


def _gold(row: Row) -> dict[str, Any]:
    return {"final_answer": row["final_answer"], **{key: row.fields.get(key) for key in ("unit", "error")}}


@register
class OlympiadBench(ExpressionTask):
    """675 problems to test (the hub's copy lacks one).

    A gold is the published list of final answers, or, where a tolerance or a unit belongs to it, a record
    with
    `final_answer`, `error` and `unit`. A question's context, where it has one, is asked with it.
    """

    name: ClassVar[str] = "olympiadbench"
    source: ClassVar[str] = "OpenBMB/OlympiadBench, part OE_TO_maths_en_COMP"
    licence: ClassVar[str] = "Apache-2.0"
    splits: ClassVar[tuple[str, ...]] = ("test",)
    hub: ClassVar[Hub] = Hub("math-ai/olympiadbench", "4faaf1e6ec17d11a4218a9bf4c049ecaf954dd84")

    def problems(self, split: str, limit: int | None = None) -> Sequence[Problem]:
        if split not in self.splits:
            raise self.unknown_split(split)

        def question(row: Row) -> str:
            context = row.fields.get("context")
            return f"{context}\n{row.text('question')}" if context else row.text("question")

        return load(self, split, "olympiadbench.jsonl", self.hub, question, _gold)[:limit]

    def problem_from(self, question: str, gold: Any) -> Problem:
        """`gold` is the list `final_answer`, one answer's text or number, or a record that holds
        `final_answer`.
        """
        record = gold if isinstance(gold, dict) else {"final_answer": gold}
        final = record.get("final_answer")
        listed = list(final) if isinstance(final, (list, tuple)) else [final]
        try:
            golds = [self.gold_of(MISPRINTS.get(str(answer), answer)) for answer in listed]
        except TaskError:
            golds = []
        if not golds:
            raise TaskError(f"task olympiadbench: final_answer must be a list of answers, not {final!r:.60}")
        extra = {key: str(record[key]) for key in ("unit", "error") if record.get(key)}
        if "error" in extra and numbers.parse(extra["error"]) is None:
            raise TaskError(f"task olympiadbench: error must be a number, not {extra['error']!r:.60}")
        full = {"final_answer": golds, **extra} if extra else golds
        return Problem(f"{self.name}/given", question, full)

    def gold_answer(self, problem: Problem) -> str | None:
        golds = problem.gold["final_answer"] if isinstance(problem.gold, dict) else problem.gold
        return ", ".join(golds)

    def judge(self, problem: Problem, answer: str) -> Verdict:
        record = problem.gold if isinstance(problem.gold, dict) else {"final_answer": problem.gold}
        golds: list[str] = record["final_answer"]
        unit = record.get("unit", "").strip("$")
        given = numbers.parse(answer)
        if "error" in record and len(golds) == 1 and given is not None:
            wanted, error = numbers.parse(golds[0]), numbers.parse(record["error"])
            if wanted is not None and error is not None and given.percent <= (unit == "%"):
                near = abs(given.value - wanted.value) <= Fraction(error.value)
                return Verdict.CORRECT if near else Verdict.WRONG
        gold = ", ".join(golds)
        if len(golds) == 1 and units.is_unit(unit) and numbers.parse(gold) is not None:
            gold = f"{gold.strip('$')} \\text{{ {unit}}}"
        verdict = answers.judge(gold, answer, problem.question)
        if (
            verdict is not Verdict.CORRECT
            and gold != ", ".join(golds)
            and given is not None
            and not given.unit
        ):
            return answers.judge(", ".join(golds), answer, problem.question)
        return verdict
