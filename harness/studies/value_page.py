"""The result page of values, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.studies.answering import Page
from harness.studies.figures import UNSURE, Level
from harness.studies.value_figures import CUT, LEAST, SEGMENT, Ranked, reliability
from harness.studies.values import Asked, Values
from leaderboards.sheets import Sheet, level

LIMITS = (
    "A ranking that follows the changes need not train better: nothing was trained.",
    "A change between two cuts is that of the tokens that were drawn, not of the best or the usual ones; vine and spo "
    "credit it, other methods need not mean it.",
    "Values are means of few continuations. A change that the two halves do not agree on is noise, and no method can "
    "follow it: read every correlation beside that of the other half.",
    "0 of so many right is no proof that a response is lost: a first fall may be a small value.",
    "Problems without both right and wrong responses are left out, as GRPO leaves them out.",
    "One policy and one kind of problem.",
)


def facts(policy_name: str, task_name: str, asked: Asked, study: Values) -> list[str]:
    """The facts of the study, one line each."""
    total = sum(study.responses.values())
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(study.responses.items()))
    agreed = level(None, None) if study.halves is None else level(*study.halves)
    whole = "" if study.halves is None else f"; all of them would with as many others at {_brown(study)}"
    return [
        f"policy {policy_name}; task {task_name}; temperature {asked.sampling.temperature:g}, at most "
        f"{asked.longest} tokens, training seed {asked.seed}",
        f"{total} responses to {study.problems} problems: {verdicts}",
        f"{study.signal} problems have right and wrong responses, {study.with_signal} in all; {study.ranked} of these "
        f"could be cut and judged, {study.cuts / study.ranked:.1f} cuts each before tokens of probability below "
        f"{UNSURE:g}, at most {asked.cuts}",
        f"{study.continuations} continuations of each cut, {study.seconds / study.ranked:.1f} s a response; the "
        f"changes by their two halves agree at rank correlation {agreed}{whole}",
        f"asked for: {asked.agreement:g}, with at most {asked.continuations} continuations: "
        + ("reached" if study.reached else "not reached"),
        f"{study.falls} responses that are not right have a first fall of the value to 0",
        *(f"left out: {name}: {reason}" for name, reason in study.left_out.items()),
    ]


def _brown(study: Values) -> str:
    assert study.halves is not None
    return f"{reliability(study.halves[0]):.2f} (Spearman and Brown)"


def page(policy_name: str, task_name: str, asked: Asked, study: Values, command: str) -> Page:
    """The study's page."""

    def rows(all_rows: Sequence[Ranked], reading: str) -> list[Ranked]:
        return [row for row in all_rows if row.reading == reading]

    return Page(
        title=f"Values: who gives credit where the chance of being right changes? ({policy_name}, {task_name})",
        question="A response is cut where the policy was unsure, and continuations from each cut say how likely a "
        "right answer is. Which ranking of tokens follows the changes, by size and by direction, and which finds the "
        "step after which a response that is not right is lost?",
        facts=facts(policy_name, task_name, asked, study),
        rules=sheet("Rules that read no attention", rows(study.rules, CUT)),
        sheets=[
            sheet("Credit methods", rows(study.methods, CUT), NOTE),
            sheet("The same rules, by the mean over a segment's tokens", rows(study.rules, SEGMENT)),
            sheet(
                "The same methods, by the mean over a segment's tokens",
                rows(study.methods, SEGMENT),
                "A segment goes from a cut to the token before the next one.",
            ),
        ],
        limits=LIMITS,
        command=command,
    )


NOTE = (
    "Scores of the tokens at the cuts. Size: Spearman's correlation with the size of the change, within a response. "
    "By halves: with the product of the changes by two halves of the continuations, which noise does not move. "
    "Signed: with the change in the direction of the advantage. First fall: the chance that the segment after which "
    "the value is 0 outranks another of its response, ties half; 0.5 is chance. Means over problems, 95% "
    f"intervals over problems. Responses of fewer than {LEAST} segments rank nothing. The other half: "
    "one half of the continuations, held against the other."
)


def sheet(title: str, chosen: Sequence[Ranked], note: str = "") -> Sheet:
    """Rankings as one table, those that follow the size best first."""
    ordered = sorted(chosen, key=lambda row: -math.inf if row.size is None else row.size[0], reverse=True)
    return Sheet(
        title,
        ("tokens ranked by", "size", "by halves", "signed", "first fall", "abstains"),
        tuple(
            (
                row.name,
                *(_words(value, "+") for value in (row.size, row.by_halves, row.signed)),
                _words(row.fall),
                f"{row.abstained:.1%}",
            )
            for row in ordered
        ),
        note,
    )


def _words(value: Level, sign: str = "") -> str:
    return level(None, None) if value is None else level(*value, sign=sign)
