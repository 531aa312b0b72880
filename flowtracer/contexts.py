"""From texts and token ids to a CreditContext: where an answer stands among the sampled tokens, and what else a
credit method may look at. The trainer, `weigh` and `trace` all stand on it.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from flowtracer import credit as credit_methods
from flowtracer.boxed import Boxed
from flowtracer.credit import CreditContext, CreditMethod
from flowtracer.credit.method import MAPS
from flowtracer.errors import CreditError
from flowtracer.spans import AnswerTask, Span, decode, tokens_in

#: What a credit method can need that only a forward of the policy shows.
FROM_FORWARD = MAPS | {"logprobs", "entropies"}

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
        raise CreditError(f"task={name!r} is not known; known: {', '.join(tasks.names())}")
    return tasks.get(name)


def credit_method(credit: Any) -> CreditMethod:
    """The credit method that is meant, by its name or itself. Raises CreditError for anything else."""
    if isinstance(credit, str):
        return credit_methods.get(credit)
    if isinstance(credit, CreditMethod):
        return credit
    if isinstance(credit, type):
        name = getattr(credit, "name", credit.__name__)
        raise CreditError(f"credit={credit.__name__}: this is a class; give credit.get({name!r}, ...)")
    raise CreditError(
        f"credit={credit!r} is no credit method: give a name ({', '.join(credit_methods.names())}) or "
        "credit.get(name, **options); 'uniform' is GRPO as it is"
    )


def stream(seed: int, step: int, group: int, sample: int) -> int:
    """The seed, 63 bits, of one response's own random numbers: of its place in the training and of nothing else.

    step: optimizer steps before its generation. group, sample: counted over the generation batch of all processes.
    """
    name = f"credit/{seed}/{step}/{group}/{sample}"
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


# ------------------------------------------------------------------------------------- one response


@dataclass(frozen=True)
class Turn:
    """A part of a response that the policy wrote in one go: tokens `start` to `end` - 1.

    text: its content, as the reward saw it; None where that is all that the tokens say. calls: what it asked of tools,
    each call as its name and the texts of its arguments, which stand behind the content.
    """

    start: int
    end: int
    text: str | None = None
    calls: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Located:
    """Tokens of one response, counted from its first: of the answer, and of what decides it.

    trouble: why the answer's tokens are not known, where there is more to say than that it has none.
    """

    answer: list[int] = field(default_factory=list)
    decisive: list[int] = field(default_factory=list)
    trouble: str | None = None


def turns_of(mask: Sequence[int] | None, length: int) -> list[Turn]:
    """The parts of a response of `length` tokens that the policy wrote, by its mask: 1 = its own token."""
    if mask is None:
        return [Turn(0, length)]
    turns, start = [], None
    for index, own in enumerate([*mask, 0]):
        if own and start is None:
            start = index
        elif not own and start is not None:
            turns.append(Turn(start, index))
            start = None
    return turns


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
    """Tokens of the question's text in a prompt, where it stands last; empty where it does not stand there."""
    text, spans = decode(tokenizer, prompt_ids)
    at = text.rfind(question)
    return [] if at < 0 else tokens_in(spans, [(at, at + len(question))])


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token. Of tokens that share one character, each has it."""
    text, spans = decode(tokenizer, ids)
    return [text[start:end] for start, end in spans]


# ------------------------------------------------------------------------------------- a batch


@dataclass(frozen=True)
class Padded:
    """B sequences as a trainer lays them out: prompts padded on the left, responses on the right.

    input_ids, attention_mask: (B, T) integers. length: columns of the responses, the last ones.
    """

    input_ids: Tensor
    attention_mask: Tensor
    length: int

    def __getitem__(self, rows: slice) -> Padded:
        return Padded(self.input_ids[rows], self.attention_mask[rows], self.length)

    def on_response(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Tokens of each response, counted from its first, as a mask (B, T)."""
        mask = torch.zeros(self.input_ids.shape, dtype=torch.bool)
        first = mask.shape[1] - self.length
        for row, positions in enumerate(tokens):
            mask[row, [first + position for position in positions]] = True
        return mask.to(self.input_ids.device) & self.attention_mask.bool()

    def on_prompt(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Tokens of each prompt, counted from its first, as a mask (B, T)."""
        mask = torch.zeros(self.input_ids.shape, dtype=torch.bool)
        # Prompts are left-padded: count from the first real token.
        firsts = self.attention_mask.to(torch.uint8).argmax(1).tolist()
        for row, (first, positions) in enumerate(zip(firsts, tokens, strict=True)):
            mask[row, [first + position for position in positions]] = True
        return mask.to(self.input_ids.device)


def pad(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad_id: int, device: Any
) -> Padded:
    """The batch of these token ids, padded with `pad_id` to the longest prompt and the longest response."""
    left, length = max(map(len, prompts)), max(map(len, responses))
    input_ids = torch.full((len(prompts), left + length), pad_id, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        columns = slice(left - len(prompt), left + len(response))
        input_ids[row, columns] = torch.tensor([*prompt, *response], dtype=torch.long)
        attention_mask[row, columns] = 1
    return Padded(input_ids.to(device), attention_mask.to(device), length)


class ContextBuilder:
    """Makes the contexts of one credit method: what it needs of a batch is in them, and nothing else costs anything."""

    def __init__(self, method: CreditMethod, task: AnswerTask, tokenizer: Any) -> None:
        self.method, self.task, self.tokenizer = method, task, tokenizer
        self.reads_attention = method.reading() is not None
        self.reads_forward = bool(method.needs & FROM_FORWARD)
        self.wants_answer = self.reads_attention or "saliency" in method.needs
        self.wants_decisive = "decisive" in method.needs
        self.wants_question = getattr(method, "source", "prompt") == "question"
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
        """Tokens of the question in each prompt, for methods whose source is the question alone; else None."""
        if not self.wants_question:
            return None
        if questions is None or not all(isinstance(question, str) and question for question in questions):
            raise CreditError(
                f"credit {self.method.name!r} with source='question' needs the question's text for each prompt: a "
                "column `question` of the data set, or questions=[...]"
            )
        return [
            question_tokens(self.tokenizer, ids, question)
            for ids, question in zip(prompt_ids, questions, strict=True)
        ]

    def context(
        self,
        batch: Padded,
        located: Sequence[Located],
        source: Sequence[Sequence[int]] | None = None,
        fields: dict[str, Any] | None = None,
    ) -> CreditContext:
        """The context of a batch. source: tokens of each question, as `questions` gives them. fields: what a forward
        showed, by the names of context fields.
        """
        token = batch.attention_mask.bool()
        in_response = torch.zeros_like(token)
        in_response[:, -batch.length :] = True
        prompt = token & ~in_response
        context = CreditContext(
            batch.input_ids,
            prompt,
            token & in_response,
            prompt if source is None else batch.on_prompt(source),
            batch.on_response([row.answer for row in located]),
        )
        if self.wants_decisive:
            context.decisive = batch.on_response([row.decisive for row in located])
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

    def read(
        self, batch: Padded, logprobs: Tensor | None, entropies: Tensor | None, fields: dict[str, Any]
    ) -> dict[str, Any]:
        """What a forward showed, by the names of context fields. logprobs, entropies: (B, length), if it gave them."""
        fields = dict(fields)
        for name, values in (("logprobs", logprobs), ("entropies", entropies)):
            if name in self.method.needs:
                assert values is not None
                fields[name] = torch.zeros(batch.input_ids.shape, dtype=torch.float32, device=values.device)
                fields[name][:, -values.shape[1] :] = values.detach()
        return fields

    def scored(
        self,
        batch: Padded,
        located: Sequence[Located],
        source: Sequence[Sequence[int]] | None,
        fields: dict[str, Any],
    ) -> dict[str, Any]:
        """`fields` with the method's scores in place of the maps that it reads them from, which are large."""
        if not self.reads_attention:
            return fields
        scores = self.method.score(self.context(batch, located, source, fields))
        assert scores is not None
        return {**{name: value for name, value in fields.items() if name not in MAPS}, "scores": scores}


@dataclass(frozen=True)
class _Assessed:
    weights: Tensor | None
    addend: Tensor | None
    abstentions: dict[int, str]


def assess(method: CreditMethod, context: CreditContext) -> Any:
    """The method's judgement of a context, which is left as it was."""
    if hasattr(method, "assess"):
        return method.assess(context)
    # Until every method has `assess`: the first row's stream for all.
    streams = getattr(context, "streams", None)
    copy = replace(context, abstentions={})
    if streams:
        copy.generator = torch.Generator().manual_seed(streams[0])
    return _Assessed(method(copy), None, copy.abstentions)


def named(abstentions: dict[int, str], located: Sequence[Located]) -> dict[int, str]:
    """Abstentions with the reason why an answer's tokens are not known, where there is one."""
    return {
        row: (located[row].trouble or reason) if reason == NO_ANSWER else reason
        for row, reason in abstentions.items()
    }


def answer_gradient(
    model: Any,
    logprobs_of: Callable[[Any, Padded], Tensor],
    batch: Padded,
    answer: Tensor,
    step: int,
) -> Tensor:
    """|gradient . embedding| of the answers' log-probabilities, (B, T) float32; 0 for a response without answer.

    logprobs_of: log-probabilities (b, length) of the response tokens of a batch, by a model. step: rows at once.
    """
    embedded: list[Tensor] = []

    def keep(module: Any, inputs: Any, vectors: Tensor) -> Tensor:
        embedded.append(vectors.requires_grad_())
        return vectors

    training = model.training
    handle = model.get_input_embeddings().register_forward_hook(keep)
    parts = []
    try:
        # Without dropout: it would draw from the global generator, and blur what is measured.
        model.eval()
        for start in range(0, len(batch.input_ids), step):
            rows = slice(start, start + step)
            with torch.enable_grad():
                answers = (logprobs_of(model, batch[rows]) * answer[rows, -batch.length :]).sum()
                (gradient,) = torch.autograd.grad(answers, embedded[-1])
            parts.append((gradient.float() * embedded.pop().detach().float()).sum(-1).abs())
    finally:
        handle.remove()
        model.train(training)
    return torch.cat(parts)
