"""Rollouts that other trainers wrote to files, as rows that `replay` and `trace` read.

TRL (`log_completions=True`): parquet files, `step`, `prompt` and `completion` as text or messages, a column for each
reward function, `advantage` (trl.GRPOTrainer.log). verl (`trainer.rollout_data_dir`): a file of JSON lines a step,
`input`, `output`, `score`, `step`, in newer versions `gts` (verl/trainer/ppo/ray_trainer.py, _dump_generations).

Neither holds token ids unless a user logs them; columns `prompt_ids` and `completion_ids` or `response_ids` are taken
as they are. Texts are tokenised anew, and must decode to themselves. The text of a response lost its end token and
other special ones, and the sampler may have written the same text in other tokens; the text of a verl prompt lost the
marks of the chat template, which are put back where the result decodes to that text.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import ExperimentError
from harness.policy import Policy
from harness.runs.script import verdict

_IDS = ("completion_ids", "response_ids")
_NAMED = {"step", "prompt", "completion", "advantage", "prompt_ids", *_IDS}
_TURN = re.compile(r"(?:^|\n)(system|user|assistant)\n")


@dataclass(frozen=True)
class Dump:
    """Rollout batches of one size, each a list of rows as the record's table of rollouts has them, by group.

    samples: responses a group. lacks: what the files do not hold, in one line.
    """

    batches: list[list[dict[str, Any]]]
    samples: int
    lacks: str


@dataclass(frozen=True)
class _Written:
    """One response as a file has it. reward: None where it could not be judged."""

    step: int
    prompt: Any
    completion: Any
    reward: float | None
    prompt_ids: list[int] | None = None
    response_ids: list[int] | None = None


def is_dump(place: Path) -> bool:
    """True for a file of rollouts that another trainer wrote, or a folder with nothing but such files."""
    return bool(_files(place))


def read(place: Path, policy: Policy, extract: Any, batches: int) -> Dump:
    """The rollouts in a file, or in a folder of files, tokenised for `policy`, which wrote them.

    extract: a response's text -> the place of its answer, or None. batches: at most so many, the earliest.

    Raises ExperimentError for a file that is none of these, that lacks a column, or of which nothing can be tokenised
    without loss.
    """
    written = sorted(_all(place), key=lambda row: row.step)
    encoder = _Encoder(policy)
    whole, lost, reasons = [], 0, Counter[str]()
    for step in sorted({row.step for row in written}):
        rows = []
        for row in (each for each in written if each.step == step):
            try:
                rows.append(_row(row, encoder, extract))
            except _Loss as loss:
                reasons[str(loss)] += 1
        if len(rows) == sum(each.step == step for each in written):
            whole.append(rows)
        else:
            lost += 1
    if not whole:
        raise ExperimentError(
            f"{place}: nothing in it can be tokenised without loss: {reasons.most_common(1)[0][0]}"
        )
    grouped, samples, odd = _grouped(place, whole)
    lacks = _lacks(written, lost, odd, reasons)
    return Dump(grouped[:batches], samples, lacks)


def _lacks(written: Sequence[_Written], lost: int, odd: int, reasons: Counter[str]) -> str:
    parts = []
    if any(row.response_ids is None for row in written):
        parts.append("no token ids: texts were tokenised anew, and end tokens are missing")
    parts.append("no log-probabilities of the sampler, so that nothing shows whether this policy wrote them")
    if lost:
        parts.append(f"{lost} batches are left out: {reasons.most_common(1)[0][0]}")
    if odd:
        parts.append(f"{odd} batches of another size are left out")
    return "; ".join(parts)


# ------------------------------------------------------------------------------------- files


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place] if place.suffix in (".parquet", ".jsonl") else []
    if not place.is_dir() or (place / "manifest.json").exists():
        return []
    return sorted([*place.glob("completions_*.parquet"), *place.glob("[0-9]*.jsonl")])


def _all(place: Path) -> Iterator[_Written]:
    for file in _files(place):
        yield from (_of_trl(file) if file.suffix == ".parquet" else _of_verl(file))


def _of_trl(file: Path) -> Iterator[_Written]:
    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ExperimentError(f"{file}: cannot be read as parquet ({str(error).splitlines()[0]})") from None
    for name in ("step", "prompt", "completion"):
        if name not in table.column_names:
            raise ExperimentError(
                f"{file}: has no column {name!r}, which TRL's logged completions have; it has "
                f"{', '.join(table.column_names)}"
            )
    rewards = [
        entry.name
        for entry in table.schema
        if entry.name not in _NAMED and (pa.types.is_floating(entry.type) or pa.types.is_integer(entry.type))
    ]
    if not rewards:
        raise ExperimentError(f"{file}: has no column of rewards beside {', '.join(table.column_names)}")
    for row in table.to_pylist():
        earned = [row[name] for name in rewards if row[name] is not None and not math.isnan(row[name])]
        yield _Written(
            step=int(row["step"]),
            prompt=row["prompt"],
            completion=row["completion"],
            reward=float(sum(earned)) if earned else None,
            prompt_ids=row.get("prompt_ids"),
            response_ids=next((row[name] for name in _IDS if name in row), None),
        )


def _of_verl(file: Path) -> Iterator[_Written]:
    lines = file.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        place = f"{file}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ExperimentError(f"{place}: is no JSON ({error})") from None
        for name in ("input", "output", "score"):
            if not isinstance(row, dict) or name not in row:
                raise ExperimentError(f"{place}: has no {name!r}, which verl's rollout dumps have")
        yield _Written(
            step=int(row.get("step", 0)),
            prompt=_Stripped(row["input"]),
            completion=row["output"],
            reward=None if row["score"] is None else float(row["score"]),
            prompt_ids=row.get("prompt_ids"),
            response_ids=next((row[name] for name in _IDS if name in row), None),
        )


class _Stripped(str):
    """A text whose special tokens were left out when it was written."""


# ------------------------------------------------------------------------------------- tokens


class _Loss(Exception):
    """Why a text cannot be tokenised without loss."""


class _Encoder:
    """From texts to token ids that decode to them."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.tokenizer = policy, policy.tokenizer
        self.seen: dict[str, list[int]] = {}

    def prompt(self, prompt: Any) -> list[int]:
        key = prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)
        if key not in self.seen:
            self.seen[key] = self._prompt(prompt)
        return self.seen[key]

    def _prompt(self, prompt: Any) -> list[int]:
        if isinstance(prompt, _Stripped):
            return self._unstripped(prompt)
        if isinstance(prompt, str):
            return list(self.tokenizer(prompt).input_ids)
        messages = [{key: value for key, value in each.items() if value is not None} for each in prompt]
        return self._rendered(messages)

    def _rendered(self, messages: list[dict[str, Any]]) -> list[int]:
        if not self.tokenizer.chat_template:
            raise _Loss("prompts are messages, and the policy has no chat template")
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _unstripped(self, text: str) -> list[int]:
        """The tokens of a prompt whose marks are put back, so that it decodes to its text without them."""
        cuts = list(_TURN.finditer(text))
        if not self.tokenizer.chat_template or not cuts:
            ids = list(self.tokenizer(text).input_ids)
        else:
            ends = [cut.start() for cut in cuts[1:]] + [len(text)]
            turns = [(cut[1], text[cut.end() : end]) for cut, end in zip(cuts, ends, strict=True)]
            if turns[-1][0] == "assistant":
                turns.pop()  # the open turn, which the template writes
            ids = self._rendered([{"role": role, "content": content} for role, content in turns])
        if self._text(ids) != text:
            raise _Loss(
                "prompts lost the marks of the chat template, and with these put back they read otherwise"
            )
        return ids

    def response(self, text: str) -> list[int]:
        if not text:
            # Only special tokens were sampled.
            return [int(self.tokenizer.eos_token_id)]
        try:
            ids = list(self.tokenizer(text, add_special_tokens=False).input_ids)
        except Exception as error:  # tokenizers raises bare Exception
            raise _Loss(f"the policy's tokenizer cannot read a response ({error})") from None
        if self._text(ids) != text:
            raise _Loss("a response does not decode to its text")
        return ids

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


def _row(written: _Written, encoder: _Encoder, extract: Any) -> dict[str, Any]:
    """A response as a row of rollouts; group and sample come later."""
    text = _content(written.completion)
    known = written.prompt_ids
    prompt_ids = list(known) if known is not None else encoder.prompt(written.prompt)
    ids = list(written.response_ids) if written.response_ids is not None else encoder.response(text)
    end = encoder.tokenizer.eos_token_id
    reason = "length" if written.response_ids is not None and ids[-1:] != [end] else "stop"
    return {
        "step": written.step,
        "question": _question(written.prompt),
        "prompt_ids": prompt_ids,
        "response_ids": ids,
        "text": text,
        "finish_reason": reason,
        "verdict": verdict(written.reward, extract(text) is not None, reason),
        "reward": written.reward,
        "sampler_logprobs": [math.nan] * len(ids),
    }


def _content(completion: Any) -> str:
    if isinstance(completion, str):
        return completion
    if len(completion) != 1 or completion[0].get("tool_calls") or completion[0].get("reasoning_content"):
        raise _Loss("a completion is more than one message of text")
    return str(completion[0].get("content") or "")


def _question(prompt: Any) -> str:
    """The text of a prompt's last message."""
    return prompt if isinstance(prompt, str) else str(prompt[-1].get("content") or "")


def _grouped(
    place: Path, batches: Sequence[list[dict[str, Any]]]
) -> tuple[list[list[dict[str, Any]]], int, int]:
    """The batches of the most common size, by group; the size of a group; how many batches have another size.

    A group are the responses to one prompt, which verl deals out between others.
    """
    sizes: list[int] = []
    ordered = []
    for rows in batches:
        prompts: dict[tuple[int, ...], list[dict[str, Any]]] = {}
        for row in rows:
            prompts.setdefault(tuple(row["prompt_ids"]), []).append(row)
        sizes += map(len, prompts.values())
        ordered.append([row for group in prompts.values() for row in group])
    samples = math.gcd(*sizes)  # a prompt that a batch asks twice has two groups
    if samples < 2:
        counts = ", ".join(map(str, sorted(set(sizes))))
        raise ExperimentError(f"{place}: responses do not come in groups: prompts have {counts} responses")
    usual = Counter(map(len, ordered)).most_common(1)[0][0]
    whole = [rows for rows in ordered if len(rows) == usual]
    for rows in whole:
        for number, row in enumerate(rows):
            group, sample = divmod(number, samples)
            identity = f"{row['step']}/{group}"
            row |= {"group": group, "sample": sample, "problem_id": identity, "key": f"{identity}/{sample}"}
    return whole, samples, len(ordered) - len(whole)
