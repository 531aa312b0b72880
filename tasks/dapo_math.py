"""DAPO-Math-17K (Yu et al. 2025, arXiv 2503.14476): competition problems with integer answers, for
training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tasks.aime import Aime24, Aime25
from tasks.amc import Amc23
from tasks.hendrycks_math import Math500
from tasks.marked import NumberTask
from tasks.minerva import Minerva
from tasks.olympiadbench import OlympiadBench
from tasks.problem import Problem, Task, register
from tasks.source import Hub, Row, load, without_overlap
from tasks.verdict import TaskError

_BEFORE = "where $Answer is the answer to the problem.\n\n"
_AFTER = '\n\nRemember to put your answer on its own line after "Answer:".'

#: The test sets that the paper scores after training on this one.
HELD_OUT: tuple[type[Task], ...] = (Aime24, Aime25, Amc23, Math500, Minerva, OlympiadBench)


def asked(row: Row) -> str:
    """The last user message of a row's `prompt`, without the instructions that the publisher put around
    it.
    """
    messages = row["prompt"]
    if isinstance(messages, str):
        text = messages
    else:
        contents = [message.get("content") for message in messages if isinstance(message, dict)]
        text = contents[-1] if contents and isinstance(contents[-1], str) else ""
    text = text.split(_BEFORE, 1)[-1].removesuffix(_AFTER).strip()
    if not text:
        raise TaskError(f"{row.place}: field 'prompt' must hold a text or a list of messages")
    return text


def rule_gold(row: Row) -> Any:
    """`ground_truth` of a row's `reward_model`."""
    model = row["reward_model"]
    if not isinstance(model, dict) or "ground_truth" not in model:
        raise TaskError(f"{row.place}: field 'reward_model' must hold a 'ground_truth'")
    return model["ground_truth"]


@register
class DapoMath(NumberTask):
    """About 17,000 problems to train; the published copy holds each of them about a hundred times.

    What overlaps the test sets of the paper is left out and listed in `removed`.
    """

    name: ClassVar[str] = "dapo_math"
    source: ClassVar[str] = "BytedTsinghua-SIA/DAPO-Math-17k"
    licence: ClassVar[str] = "Apache-2.0"
    splits: ClassVar[tuple[str, ...]] = ("train",)
    answer_format: ClassVar[str] = "an integer in the last \\boxed{}"
    marker: ClassVar[str] = "boxed"
    hub: ClassVar[Hub] = Hub("BytedTsinghua-SIA/DAPO-Math-17k", "65877096c24ffa7abc4e4fa5edb95cf3413a5674")

    def problems(self, split: str, limit: int | None = None) -> Sequence[Problem]:
        if split not in self.splits:
            raise self.unknown_split(split)
        problems = load(self, split, "dapo_math_train.jsonl", self.hub, asked, rule_gold, repeated=True)
        problems, self.removed = without_overlap(problems, *(test().problems("test") for test in HELD_OUT))
        return problems[:limit]
