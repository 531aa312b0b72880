"""From texts and token ids to a CreditContext: where an answer stands among the sampled tokens, and what else a
credit method may look at. The trainer, `weigh` and `trace` all stand on it.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flowtracer import credit as credit_methods
from flowtracer import forwards, teaching
from flowtracer.boxed import Boxed
from flowtracer.credit import CreditContext, CreditMethod
from flowtracer.credit.method import MAPS
from flowtracer.errors import CreditError
from flowtracer.hints import hint
from flowtracer.layout import Padded, Turn
from flowtracer.spans import AnswerTask, Span, decode, tokens_in

Extract = Callable[[str], Span | None]

#: The reason that a method gives for a response without answer tokens.
NO_ANSWER = "no answer"

# ------------------------------------------------------------------------------------- what the user named


@dataclass(frozen=True)
class _Function:
    """A task made of a function that finds the answer."""

    extract: Extract

    def decisive(self, text: str) -> list[Span] | None:
        """None: nothing is known."""
        return None


def answer_task(task: AnswerTask | Extract | str | None) -> Any:
    """The task that is meant: an object with `extract`, a name of the package `tasks`, a function text -> (start, end)
    or None, or None for the last `\\\\boxed{}`. Raises CreditError for anything else.
    """
    if task is None:
        return Boxed()
    if isinstance(task, str):
        return _named_task(task)
    if isinstance(task, type):
        raise CreditError(f"task={task.__name__}: this is a class; give an instance, {task.__name__}(...)")
    if hasattr(task, "extract"):
        return task
    if callable(task):
        return _Function(task)
    raise CreditError(
        f"task={task!r} finds no answer: give a task, its name, or a function text -> (start, end) or None"
    )


def _named_task(name: str) -> AnswerTask:
    # By its name and only when asked: flowtracer does not need the package, which may not be installed.
    try:
        tasks = importlib.import_module("tasks")
    except ImportError as error:
        raise CreditError(
            f"task={name!r}: names of tasks are those of the package `tasks`, which is not here ({error}); "
            "install flowtracer[harness], or give a function text -> (start, end) or None"
        ) from None
    if not hasattr(tasks, "get") or not hasattr(tasks, "names"):
        raise CreditError(
            f"task={name!r}: {getattr(tasks, '__file__', None) or list(tasks.__path__)} hides the package `tasks` of "
            "flowtracer; rename it, or give a task itself"
        )
    if name not in tasks.names():
        raise CreditError(f"task={name!r} is not known; {hint(name, tasks.names())}")
    return tasks.get(name)


def credit_method(credit: Any) -> CreditMethod:
    """The credit method that is meant: itself, by its name, or by the names of several that are multiplied.

    Raises CreditError for anything else.
    """
    if isinstance(credit, (str, list, tuple)):
        return credit_methods.get(credit)
    if isinstance(credit, type):
        name = getattr(credit, "name", credit.__name__)
        raise CreditError(f"credit={credit.__name__}: this is a class; give credit.get({name!r}, ...)")
    if isinstance(credit, CreditMethod):
        return credit
    raise CreditError(
        f"credit={credit!r} is no credit method: give a name of flowtracer.credit.names() or credit.get(name, "
        "**options); 'uniform' is GRPO as it is"
    )


def stream(seed: int, step: int, group: int, sample: int) -> int:
    """The seed, 63 bits, of one response's own random numbers: of its place in the training and of nothing else.

    step: optimizer steps before its generation. group, sample: counted over the generation batch of all processes.
    """
    name = f"credit/{seed}/{step}/{group}/{sample}"
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


# ------------------------------------------------------------------------------------- one response


@dataclass(frozen=True)
class Located:
    """Tokens of one response, counted from its first: of the answer, and of what decides it.

    trouble: why the answer's tokens are not known, where there is more to say than that it has none.
    """

    answer: list[int] = field(default_factory=list)
    decisive: list[int] = field(default_factory=list)
    trouble: str | None = None


def locate(
    tokenizer: Any, task: AnswerTask, ids: Sequence[int], turns: Sequence[Turn], *, decisive: bool = False
) -> Located:
    """Where the answer stands: in the last of `turns` that holds one.

    decisive: whether to ask the task for what decides it, in the same turn.
    """
    for turn in reversed(turns):
        content, spans, offset = _content(tokenizer, ids, turn)
        answer = task.extract(content)
        if answer is None and turn is not turns[0]:
            continue
        if offset is None:
            return Located(trouble=None if answer is None else "text changed after sampling")
        known = (task.decisive(content) or []) if decisive else []

        moved = _mover(spans, offset, turn.start)
        if answer is None:
            return Located(decisive=moved(known))
        wrote = moved([answer])
        return Located(wrote, moved(known), None if wrote else "empty answer")
    return Located()


def _mover(spans: list[Span], offset: int, first: int) -> Callable[[Sequence[Span]], list[int]]:
    """From character spans of a content to tokens of the response: `offset` characters and `first` tokens before it."""

    def moved(wanted: Sequence[Span]) -> list[int]:
        inside = tokens_in(spans, [(offset + start, offset + end) for start, end in wanted])
        return [first + token for token in inside]

    return moved


def _content(tokenizer: Any, ids: Sequence[int], turn: Turn) -> tuple[str, list[Span], int | None]:
    """The content of a turn, the span of each of its tokens in what they say, and where the content begins in it."""
    part = ids[turn.start : turn.end]
    said, spans = decode(tokenizer, part)
    if turn.text is None:
        return said, spans, 0
    offset = _offset(said, turn)
    if offset is None:
        # A parser, or a tokenizer of the user's, that keeps special tokens.
        said, spans = decode(tokenizer, part, special=True)
        offset = _offset(said, turn)
    return turn.text, spans, offset


def _offset(said: str, turn: Turn) -> int | None:
    """Where the content of a turn stands in what its tokens say: last, in front of what it asks of tools.

    Reasoning comes before the content, and so may the same words; a call may repeat them behind it.
    """
    assert turn.text is not None
    at = said.rfind(turn.text)
    while at >= 0:
        behind = said[at + len(turn.text) :]
        if all(part in behind for call in turn.calls for part in call):
            return at
        at = said.rfind(turn.text, 0, at + len(turn.text) - 1) if at else -1
    return None


def question_tokens(tokenizer: Any, prompt_ids: Sequence[int], question: str) -> list[int]:
    """Tokens of the question's text in a prompt, where it stands last; empty where it does not stand there.

    Chat templates strip the blanks at its ends: it is also found without them.
    """
    text, spans = decode(tokenizer, prompt_ids)
    for wanted in (question, question.strip()):
        at = text.rfind(wanted)
        if wanted and at >= 0:
            return tokens_in(spans, [(at, at + len(wanted))])
    return []


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token. Of tokens that share one character, each has it."""
    text, spans = decode(tokenizer, ids)
    return [text[start:end] for start, end in spans]


# ------------------------------------------------------------------------------------- a batch


class ContextBuilder:
    """Makes the contexts of one credit method: what it needs of a batch is in them, and nothing else costs anything."""

    def __init__(
        self, method: CreditMethod, task: AnswerTask, tokenizer: Any, ends: Sequence[int] | None = None
    ) -> None:
        """ends: the tokens that end a response, the tokenizer's own where they are not given."""
        self.method, self.task, self.tokenizer = method, task, tokenizer
        end = tokenizer.eos_token_id
        self.ends = list(ends) if ends is not None else [] if end is None else [end]
        self.reads_attention = method.reading() is not None
        #: Fields that the method needs of a forward that the trainer makes anyway.
        self.from_forward = forwards.from_forward(method)
        self.reads_distributions = forwards.reads_distributions(method)
        self.reads_forward = bool(self.from_forward)
        self.wants_answer = self.reads_attention or bool(method.needs & {"divergence", "saliency"})
        self.wants_decisive = "decisive" in method.needs
        self.wants_question = getattr(method, "source", "prompt") == "question"
        #: How the method's teacher is shown the gold; None without a teacher.
        self.words = teaching.words_of(method, task)
        # A task that knows none says so of every text, an empty one too.
        if self.wants_decisive and task.decisive("") is None:
            raise CreditError(
                f"credit {method.name!r} needs a task that knows its decisive tokens, and this one does not: give one "
                "whose decisive(text) lists their spans, or take another credit method"
            )

    def locate(self, ids: Sequence[int], turns: Sequence[Turn]) -> Located:
        """Answer and decisive tokens of a response, where the method looks at them."""
        if not (self.wants_answer or self.wants_decisive):
            return Located()
        return locate(self.tokenizer, self.task, ids, turns, decisive=self.wants_decisive)

    def questions(
        self, prompt_ids: Sequence[Sequence[int]], questions: Sequence[Any] | None
    ) -> list[list[int]] | None:
        """Tokens of the question in each prompt, for methods whose source is the question alone; else None.

        No tokens where a prompt does not hold its question: such a response cannot be judged.
        """
        if not self.wants_question:
            return None
        if questions is None:
            raise CreditError(
                f"credit {self.method.name!r} with source='question' needs the question's text for each prompt: a "
                "column `question` of the data set, or questions=[...]"
            )
        for question in questions:
            if question is not None and not isinstance(question, str):
                raise CreditError(
                    f"the question {question!r:.60} is no text: give the text that stands in the prompt"
                )
        return [
            question_tokens(self.tokenizer, ids, question) if question else []
            for ids, question in zip(prompt_ids, questions, strict=True)
        ]

    def teacher_prompts(
        self, prompt_ids: Sequence[Sequence[int]], questions: Sequence[str | None], golds: Sequence[str]
    ) -> list[list[int]]:
        """The teacher's prompt for each of the student's: for methods with a teacher.

        questions: their texts in the prompts, None for all of a prompt. golds: the texts that the teacher is shown.
        """
        assert self.words is not None
        return [
            teaching.taught_prompt(self.tokenizer, ids, question, gold, self.words)
            for ids, question, gold in zip(prompt_ids, questions, golds, strict=True)
        ]

    def context(
        self,
        batch: Padded,
        located: Sequence[Located],
        source: Sequence[Sequence[int]] | None = None,
        fields: dict[str, Any] | None = None,
        masks: Sequence[Sequence[int] | None] | None = None,
    ) -> CreditContext:
        """The context of a batch. source: tokens of each question, as `questions` gives them. fields: what a forward
        showed, by the names of context fields. masks: see `Padded.on_own`; what the policy did not write is no part of
        its response.
        """
        token = batch.attention_mask.bool()
        in_response = torch.zeros_like(token)
        in_response[:, -batch.length :] = True
        prompt = token & ~in_response
        response = token & in_response
        if masks is not None and any(mask is not None for mask in masks):
            response &= batch.on_own(masks)
        context = CreditContext(
            batch.input_ids,
            prompt,
            response,
            prompt if source is None else batch.on_prompt(source),
            batch.on_response([row.answer for row in located]),
        )
        if self.wants_decisive:
            context.decisive = batch.on_response([row.decisive for row in located])
        if "ends" in self.method.needs:
            ends = torch.tensor(self.ends, dtype=torch.long, device=batch.input_ids.device)
            context.ends = context.response & torch.isin(batch.input_ids, ends)
        for name, value in (fields or {}).items():
            setattr(context, name, value)
        return context

    def pieces(self, batch: Padded, response_ids: Sequence[Sequence[int]]) -> list[list[str]] | None:
        """The text of each response token in its column, "" elsewhere; None where the method reads none."""
        if "pieces" not in self.method.needs:
            return None
        width = batch.input_ids.shape[1]
        rows = []
        for ids in response_ids:
            texts = pieces(self.tokenizer, ids)
            rows.append([""] * (width - batch.length) + texts + [""] * (batch.length - len(texts)))
        return rows

    def replacement(self) -> int:
        """The token that stands in the place of another: the pad token, or the end of a sequence where there is none.

        Raises CreditError where the tokenizer has neither.
        """
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        raise CreditError(
            f"credit {self.method.name!r} puts the pad token in the place of others, and the tokenizer has none; set "
            "its pad_token"
        )

    def read(
        self, batch: Padded, logprobs: Tensor | None, entropies: Tensor | None, fields: dict[str, Any]
    ) -> dict[str, Any]:
        """A forward's results by the names of context fields. logprobs, entropies: (B, length), if it gave them."""
        fields = dict(fields)
        for name, values in (("logprobs", logprobs), ("entropies", entropies)):
            if name in self.from_forward:
                assert values is not None
                fields[name] = batch.in_columns(values)
        return fields

    def scored(
        self,
        batch: Padded,
        located: Sequence[Located],
        source: Sequence[Sequence[int]] | None,
        fields: dict[str, Any],
        masks: Sequence[Sequence[int] | None],
    ) -> dict[str, Any]:
        """`fields` with the method's scores in place of the maps that it reads them from, which are large."""
        if not self.reads_attention:
            return fields
        scores = self.method.score(self.context(batch, located, source, fields, masks))
        assert scores is not None
        return {**{name: value for name, value in fields.items() if name not in MAPS}, "scores": scores}


def named(
    abstentions: dict[int, str],
    located: Sequence[Located],
    source: Sequence[Sequence[int]] | None = None,
) -> dict[int, str]:
    """Abstentions by row, with what is known of why: of an answer's tokens, and of the question's."""
    reasons = {}
    for row, reason in abstentions.items():
        if reason == NO_ANSWER:
            reasons[row] = located[row].trouble or reason
        elif source is not None and not source[row]:
            reasons[row] = "question not in the prompt"
        else:
            reasons[row] = reason
    return reasons
