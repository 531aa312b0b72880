"""How responses lie in a batch: which of their tokens the policy wrote, and where they stand among pads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


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


def turns_of(mask: Sequence[int] | None, length: int) -> list[Turn]:
    """The parts of a response of `length` tokens that the policy wrote, by its mask: 1 = its own token."""
    if mask is None:
        return [Turn(0, length)]
    turns, start = [], None
    for index, written in enumerate([*mask, 0]):
        if written and start is None:
            start = index
        elif not written and start is not None:
            turns.append(Turn(start, index))
            start = None
    return turns


@dataclass(frozen=True)
class Padded:
    """B sequences as a trainer lays them out: prompts padded on the left, responses on the right.

    input_ids, attention_mask: (B, T) integers. length: columns of the responses, the last ones.
    """

    input_ids: Tensor
    attention_mask: Tensor
    length: int

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Padded:
        """The batch in TRL's tensors: prompt_ids and prompt_mask, completion_ids and completion_mask."""
        return cls(
            torch.cat([tensors["prompt_ids"], tensors["completion_ids"]], dim=1),
            torch.cat([tensors["prompt_mask"], tensors["completion_mask"]], dim=1),
            tensors["completion_ids"].shape[1],
        )

    def __getitem__(self, rows: slice) -> Padded:
        return Padded(self.input_ids[rows], self.attention_mask[rows], self.length)

    def in_columns(self, values: Tensor) -> Tensor:
        """Values (B, length) of the responses in their columns of (B, T), float32, detached; 0 elsewhere."""
        placed = torch.zeros(self.input_ids.shape, dtype=torch.float32, device=values.device)
        placed[:, -values.shape[1] :] = values.detach()
        return placed

    def on_response(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Tokens of each response, counted from its first, as a mask (B, T)."""
        mask = torch.zeros(self.input_ids.shape, dtype=torch.bool)
        first = mask.shape[1] - self.length
        for row, positions in enumerate(tokens):
            mask[row, [first + position for position in positions]] = True
        return mask.to(self.input_ids.device) & self.attention_mask.bool()

    def on_own(self, masks: Sequence[Sequence[int] | None]) -> Tensor:
        """The tokens of each response that the policy wrote, (B, T): those with a 1 in its mask, all without one."""
        return self.on_response(
            [
                range(self.length)
                if mask is None
                else [index for index, written in enumerate(mask) if written]
                for mask in masks
            ]
        )

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
