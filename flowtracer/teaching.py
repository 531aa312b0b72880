"""The teacher of self-distillation: the policy itself, under a second prompt that holds the gold.

It reads the responses that the student wrote, and their log-probabilities are compared. Its prompts are made after a
generation has ended, from the prompts that the student read, and only a forward without gradient sees them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from flowtracer import seam
from flowtracer.credit.teacher import NEED, TEMPLATE, filled
from flowtracer.errors import CreditError
from flowtracer.layout import Padded, pad
from flowtracer.spans import decode


@dataclass(frozen=True)
class Words:
    """How the gold is shown to a teacher.

    text: the template, or whose words they are, for records. put: the question with the gold, of their two texts.
    """

    text: str
    put: Callable[[str, str], str]


def words_of(method: Any, task: Any) -> Words | None:
    """The words of a method's teacher: its template, else the task's own (`taught`), else `TEMPLATE`.

    None for a method without a teacher.
    """
    if NEED not in method.needs:
        return None
    template = getattr(method, "template", None)
    if template is None and hasattr(task, "taught"):
        return Words(f"the words of task {getattr(task, 'name', type(task).__name__)}", task.taught)
    template = template or TEMPLATE
    return Words(template, partial(filled, template))


def gold_text(task: Any, question: str, gold: Any) -> str:
    """The text of the gold that the teacher is shown.

    gold: of a task of the package `tasks`, JSON as `tasks.dataset` writes it, from which the task states the text of a
    right answer; else that text. Raises CreditError where there is none.
    """
    if not (isinstance(gold, str) and gold.strip()):
        raise CreditError(f"the gold of {question!r:.60} is {gold!r:.40}: the teacher needs its text")
    if not (hasattr(task, "gold_answer") and hasattr(task, "problem_from")):
        return gold
    try:
        value = json.loads(gold)
    except ValueError:
        raise CreditError(
            f"the gold of {question!r:.60} must be JSON as in tasks.dataset({task.name!r}, split), not {gold!r:.40}"
        ) from None
    text = task.gold_answer(task.problem_from(question, value))
    if not text:
        raise CreditError(
            f"task {task.name} states no right answer to {question!r:.60}: there is nothing to show the teacher; leave "
            "the problem out, or take a credit method without a teacher"
        )
    return str(text)


def asked(row: dict[str, Any]) -> str | None:
    """The question in a row of a TRL data set: its column `question`, else the last message of the user, or the prompt.

    None where it is no text.
    """
    prompt = row.get("prompt")
    if row.get("question") is not None:
        return row["question"]
    if isinstance(prompt, list):
        texts = [message.get("content") for message in prompt if message.get("role") == "user"]
        prompt = texts[-1] if texts else None
    return prompt if isinstance(prompt, str) else None


def taught_prompt(
    tokenizer: Any, prompt_ids: Sequence[int], question: str | None, gold: str, words: Words
) -> list[int]:
    """The token ids of the teacher's prompt: the student's, with the teacher's words in place of the question.

    prompt_ids: what the student read; of these every token stays that the question does not touch, those of a chat
    template too. question: stands in their text, last where it stands there more than once; None for all of it.
    Raises CreditError where it does not stand there, and for words that the tokenizer cannot read.
    """
    text, spans = decode(tokenizer, prompt_ids)
    question = (text if question is None else question).strip()
    at = text.rfind(question) if question else -1
    if at < 0:
        raise CreditError(
            f"the question {question!r:.60} does not stand in its prompt {text!r:.60}: the teacher's cannot be made"
        )
    end = at + len(question)
    touched = [index for index, (start, stop) in enumerate(spans) if start < end and stop > at]
    first, last = touched[0], touched[-1] + 1
    # Tokens may reach over the ends of the question: what they say of its neighbours is said again.
    before, behind = text[spans[first][0] : at], text[end : spans[last - 1][1]]
    middle = before + words.put(question, gold) + behind
    return [*prompt_ids[:first], *_encoded(tokenizer, middle, prompt_ids), *prompt_ids[last:]]


def _encoded(tokenizer: Any, text: str, student: Sequence[int]) -> list[int]:
    way_out = "set the credit method's `template` to words that it can read"
    try:
        ids = tokenizer(text, add_special_tokens=False).input_ids
    except Exception as error:  # a character that the vocabulary lacks raises no narrower one
        raise CreditError(
            f"the policy's tokenizer cannot read the teacher's prompt {text!r:.60} ({error}): {way_out}"
        ) from None
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is not None and unknown in ids and unknown not in student:
        raise CreditError(
            f"the policy's tokenizer does not know all of the teacher's prompt {text!r:.60}: {way_out}"
        )
    return list(ids)


def check_context(model: nn.Module, prompts: Sequence[Sequence[int]], length: int) -> None:
    """Raises CreditError where a teacher's prompt and a response of `length` tokens do not fit the model's context."""
    config: Any = seam.unwrapped(model).config.get_text_config(decoder=True)
    most = getattr(config, "max_position_embeddings", None)
    longest = max(map(len, prompts), default=0)
    if most is not None and longest + length > most:
        raise CreditError(
            f"the teacher's prompt has {longest} tokens and a response up to {length}; the model reads at most {most}: "
            "shorten the credit method's `template`, or the responses"
        )


def taught_batch(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad_id: int, device: Any
) -> Padded:
    """The responses behind the teacher's prompts, as `layout.pad` lays them out."""
    return pad(prompts, [list(ids) or [pad_id] for ids in responses], pad_id, device)


def placed(logprobs: Tensor, length: int) -> Tensor:
    """Log-probabilities (B, n) in `length` columns, 0 beyond: of responses that a trainer padded further."""
    columns = torch.zeros(len(logprobs), length, dtype=torch.float32, device=logprobs.device)
    columns[:, : logprobs.shape[1]] = logprobs.detach()[:, :length]
    return columns
