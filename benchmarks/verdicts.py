"""The rightness of verdicts: ours beside math-verify and lm-eval's filters, on cases that somebody stumbled over.

python benchmarks/verdicts.py CASES.jsonl: a line is {"task", "gold", "text", "expected": [verdicts]}, perhaps with
"question", "finish_reason" and "kind", the name of what is hard in it. FLOWTRACER_DATA names the folder whose golds are
respelled and changed. lm-eval's Minerva comparison needs antlr4-python3-runtime 4.11; elsewhere its column is empty.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import shlex
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import math_verify
from latex2sympy2_extended import NormalizationConfig
from math_verify import ExprExtractionConfig, LatexExtractionConfig
from math_verify.metric import math_metric
from report import Report, Row, Table
from rich.console import Console

import tasks
from tasks.verify import extraction

#: Tasks whose golds are respelled and changed.
PUBLISHED = ("math500", "minerva", "olympiadbench")
#: Seconds after which another verifier's comparison counts as a refusal.
PATIENCE = 10


@dataclass(frozen=True)
class Case:
    """A response to a problem, and the verdicts that are right."""

    kind: str
    task: str
    problem: tasks.Problem
    text: str
    reason: str | None
    expected: frozenset[str]

    @property
    def gold(self) -> str:
        """The gold as a text that other verifiers read; a published solution as its answer."""
        gold = self.problem.gold
        if isinstance(gold, dict):
            gold = gold.get("final_answer", gold)
        return ", ".join(map(str, gold)) if isinstance(gold, list) else str(gold)


def cases(path: Path) -> Iterator[Case]:
    """The cases of a file; a gold that its task refuses counts against us, as an error."""
    known: dict[str, tasks.Task] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        task = known.setdefault(row["task"], tasks.get(row["task"]))
        try:
            problem = task.problem_from(row.get("question", ""), row["gold"])
        except tasks.TaskError:
            problem = tasks.Problem("unreadable", row.get("question", ""), row["gold"])
        cut = row.get("finish_reason") or ("length" if row["expected"] == ["truncated"] else None)
        yield Case(
            row.get("kind", "00 judged rightly before"),
            row["task"],
            problem,
            row["text"],
            cut,
            frozenset(row["expected"]),
        )


def respelled() -> Iterator[Case]:
    """Published golds in other spellings, which are right, and changed, which are wrong."""
    for name in PUBLISHED:
        task = tasks.get(name)
        for problem in task.problems("test"):
            answer = task.gold_answer(problem)
            if answer is None:
                continue
            for other in task.respelled(answer):
                yield _published(task, problem, other, "respelled", "correct")
            for other in task.changed(problem, answer):
                yield _published(task, problem, other, "changed", "wrong")


def _published(task: tasks.Task, problem: tasks.Problem, answer: str, what: str, expected: str) -> Case:
    text = f"So the answer is {task.respond(answer)}."
    return Case(f"{task.name}, {what}", task.name, problem, text, None, frozenset((expected,)))


def ours(case: Case) -> bool:
    """True if our verdict is among those that are right."""
    task = tasks.get(case.task)
    try:
        return str(task.verify(case.problem, case.text, case.reason)) in case.expected
    except Exception:
        return False


def as_trl(case: Case) -> bool:
    """math-verify as `trl.rewards.accuracy_reward` calls it (TRL 1.16)."""
    gold = math_verify.parse(f"${case.gold}$", parsing_timeout=PATIENCE)
    config = LatexExtractionConfig(
        normalization_config=NormalizationConfig(units=True),
        boxed_match_priority=0,
        try_extract_without_anchor=False,
    )
    answer = math_verify.parse(
        case.text, extraction_config=[config], extraction_mode="first_match", parsing_timeout=PATIENCE
    )
    return math_verify.verify(gold, answer, timeout_seconds=5) == ("correct" in case.expected)


_LIGHTEVAL = math_metric(
    gold_extraction_target=(LatexExtractionConfig(),),
    pred_extraction_target=(ExprExtractionConfig(), LatexExtractionConfig(boxed_match_priority=0)),
    precision=6,
)


def as_lighteval(case: Case) -> bool:
    """math-verify's own metric with the targets of lighteval's MATH: LaTeX golds, LaTeX or plain answers, 6 digits."""
    score, _ = _LIGHTEVAL([f"${case.gold}$"], [case.text])
    return bool(score) == ("correct" in case.expected)


def _gsm8k(pattern: str) -> Callable[[Case], bool]:
    """lm-eval's GSM8K: a regular expression finds the answer, texts are compared without commas and dollar signs."""

    def plain(text: str) -> str:
        for ignored in (",", r"\$", r"(?s).*#### ", r"\.$"):
            text = re.sub(ignored, "", text)
        return text.strip().lower()

    def judge(case: Case) -> bool:
        matches = re.findall(pattern, case.text)
        last = matches[-1] if pattern.startswith("(-") and matches else matches[0] if matches else "[invalid]"
        last = next((part for part in last if part), "") if isinstance(last, tuple) else last
        return (plain(last) == plain(case.gold)) == ("correct" in case.expected)

    return judge


def as_minerva(case: Case) -> bool:
    """lm-eval's Minerva comparison on what the last box holds; its own marker occurs in none of these responses."""
    from lm_eval.tasks.minerva_math import utils

    span = extraction.last_box(case.text)
    answer = case.text[span[0] : span[1]] if span else "[invalidanswer]"
    gold, given = utils.normalize_final_answer(case.gold), utils.normalize_final_answer(answer)
    return bool(gold == given or utils.is_equiv(gold, given)) == ("correct" in case.expected)


VERIFIERS: dict[str, Callable[[Case], bool]] = {
    "ours": ours,
    "math-verify, TRL": as_trl,
    "math-verify, lighteval": as_lighteval,
    "lm-eval gsm8k, strict": _gsm8k(r"#### (\-?[0-9\.\,]+)"),
    "lm-eval gsm8k, flexible": _gsm8k(r"(-?[$0-9.,]{2,})|(-?[0-9]+)"),
    "lm-eval minerva": as_minerva,
}


class _LateError(Exception):
    pass


def _late(*_: Any) -> None:
    raise _LateError


def agreement(items: list[Case]) -> list[Row]:
    """Share of verdicts that are right, by kind and verifier, and seconds; what raises or hangs is not right."""
    signal.signal(signal.SIGALRM, _late)
    right: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    totals: dict[str, int] = defaultdict(int)
    for case in items:
        totals[case.kind] += 1
    seconds: dict[str, float] = {}
    for name, judge in VERIFIERS.items():
        began = time.perf_counter()
        for case in items:
            signal.setitimer(signal.ITIMER_REAL, 3 * PATIENCE)
            try:
                right[case.kind][name] += judge(case)
            except Exception:  # also an alarm of the verifier's own
                continue
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        seconds[name] = time.perf_counter() - began
        print(f"{name}: {seconds[name]:.1f} s", file=sys.stderr)
    rows: list[Row] = [
        {"kind": kind, "cases": total, **{name: right[kind][name] / total for name in VERIFIERS}}
        for kind, total in sorted(totals.items())
    ]
    whole = {name: sum(right[kind][name] for kind in totals) / len(items) for name in VERIFIERS}
    return [
        *rows,
        {"kind": "all", "cases": len(items), **whole},
        {"kind": "seconds", "cases": len(items), **seconds},
    ]


def _columns() -> dict[str, Callable[[Row], str]]:
    def cell(name: str) -> Callable[[Row], str]:
        return lambda row: f"{row[name]:.1f}" if row["kind"] == "seconds" else f"{row[name]:.0%}"

    return {
        "kind": lambda row: row["kind"],
        "cases": lambda row: str(row["cases"]),
        **{n: cell(n) for n in VERIFIERS},
    }


def main() -> int:
    """Judges the cases and the golds with all verifiers, in this process; prints the tables and keeps them."""
    parser = argparse.ArgumentParser(
        description="Whether verdicts are right: ours, math-verify's, lm-eval's."
    )
    parser.add_argument("cases", type=Path, help="JSON lines with task, gold, text, expected, kind")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    text = [
        "Share of verdicts that are right. The first table's cases were chosen because somebody stumbled over them: "
        "they are written after public reports of wrong verdicts, and say nothing of how often a verifier errs on a "
        "policy's responses. Cases of a named kind were judged wrongly by us before; 00 are those that were not.",
        "Ours was mended on these same cases, so its share here is no held-out measure.",
        "The second table takes the published golds of MATH-500, Minerva and OlympiadBench, in other spellings (right) "
        "and changed in value (wrong), as `flowtracer validate` does: both as we read the golds. A filter that accepts "
        "nothing is right on every changed gold.",
        "math-verify, TRL: as trl.rewards.accuracy_reward. lighteval: math_verify.metric.math_metric with LaTeX golds, "
        "LaTeX or plain answers, 6 digits. lm-eval gsm8k: its two filters, for integers after ####. lm-eval minerva: "
        "its normalization and comparison, on the last box. What raises, or takes 30 seconds, is not right.",
    ]
    try:
        from lm_eval.tasks.minerva_math import utils  # noqa: F401
    except (AssertionError, ImportError):
        text.append("lm-eval minerva: not measured; it needs antlr4-python3-runtime 4.11.")
        del VERIFIERS["lm-eval minerva"]
    tables = [
        Table(_columns(), agreement(items)) for items in (list(cases(options.cases)), list(respelled()))
    ]
    report = Report("verdicts", "Verdicts that are right", text, tables)
    report.show(Console())
    command = "python benchmarks/verdicts.py CASES.jsonl" if len(sys.argv) == 2 else shlex.join(sys.argv)
    report.write(options.out, command)
    return 0


if __name__ == "__main__":
    sys.exit(main())
