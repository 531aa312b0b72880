"""A traced response: what its tokens pass on to its answer, as terminal text and as one HTML page."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text
from torch import Tensor, nn

from flowtracer import credit
from flowtracer.attention import AttentionTap, Layers
from flowtracer.credit import CreditContext, CreditMethod
from flowtracer.errors import CreditError
from flowtracer.flow import Flow, solve_flow
from flowtracer.spans import AnswerTask, Boxed, decode, tokens_in

#: Edges a token shows on the page: its largest inflows, and as many of its largest outflows.
EDGES = 8
#: Paths of the backbone on the page and in the terminal.
PATHS = 5


@dataclass(eq=False)
class Trace:
    """One response and the flow from its prompt to its answer.

    tokens: T pieces of text, prompt then response, safe to display: special tokens by their names, control
        characters by pictures; a token that only continues a character that an earlier one began is "".
    prompt_length: how many of them are the prompt. capacity: (T, T) float32, the mean attention of the traced
        layers. answer: (T,) boolean, the tokens of the answer. layers: the traced layers. decisive: (T,) boolean,
        the tokens that decide the answer, or None where the task does not know. name: what was traced, for titles.
    flow: the flow itself, from the whole prompt to the answer.

    Positions are those of the whole sequence, so the first token of the response is at `prompt_length`.
    Raises CreditError when nothing of the prompt reaches the answer.
    """

    token_ids: list[int]
    tokens: list[str]
    prompt_length: int
    capacity: Tensor
    answer: Tensor
    layers: list[int]
    decisive: Tensor | None = None
    name: str = ""
    flow: Flow = field(init=False)

    def __post_init__(self) -> None:
        positions = torch.arange(len(self.tokens))
        self.prompt = positions < self.prompt_length
        self.response = ~self.prompt
        self.flow = solve_flow(self.capacity, self.prompt, self.answer)
        if int(self.flow.reaching_sources) == 0:
            raise CreditError(
                f"nothing of the prompt reaches the answer {self.answer_text!r} through layers "
                f"{_ranges(self.layers)}: trace other layers, or check the attention map"
            )

    @property
    def throughput(self) -> Tensor:
        """tau, (T,) float32: flow into a token plus flow out of it, twice the share that passes it."""
        return self.flow.throughput

    @property
    def answer_text(self) -> str:
        """The tokens of the answer as text."""
        return "".join(self.tokens[position] for position in self.answer.nonzero().flatten().tolist())

    def top(self, ratio: float = 0.4) -> list[int]:
        """Positions of the response tokens that credit `flow` raises at this ratio, in their order."""
        raised = self.weights("flow", ratio=ratio, gamma=2.0) > 1
        return (raised & self.response).nonzero().flatten().tolist()

    def backbone(self, paths: int = PATHS) -> list[tuple[float, list[int]]]:
        """The most probable paths of the flow from the prompt to the answer, as (probability, positions)."""
        return self.flow.backbone(paths, self.prompt)

    def weights(self, name: str, **options: Any) -> Tensor:
        """Weights (T,) float32 that the credit method `name` gives this response, 1 on the prompt.

        Random methods draw from a generator of seed 0. Raises CreditError for an unknown method or option, and
        for one that cannot be computed from this trace: it needs rewards, the response's group or batch, a
        backward pass, another source or other layers, or decisive tokens that the task does not know.
        """
        if fixed := sorted({"layers", "source"} & set(options)):
            raise CreditError(f"credit {name}: option {fixed[0]!r} was fixed when the response was traced")
        return self._weigh(credit.get(name, **options))

    def to_terminal(self, width: int = 80) -> TerminalView:
        """A rich renderable: the response, its high-flow tokens and its answer marked, and what flows where."""
        return TerminalView(self, width)

    def to_html(self) -> str:
        """One self-contained HTML page; it loads nothing and needs no network."""
        return page(self)

    def _weigh(self, method: CreditMethod, scores: Tensor | None = None) -> Tensor:
        known = {"capacity"} if self.decisive is None else {"capacity", "decisive"}
        if missing := sorted(method.needs - known):
            raise CreditError(f"credit {method.name} needs {', '.join(missing)}, which this trace does not hold")
        if method.scope != "response":
            raise CreditError(f"credit {method.name} needs the whole {method.scope}; a trace holds one response")
        context = self._context()
        if "capacity" in method.needs and scores is None:
            # Methods may destroy the map that they are given.
            context.capacity = self.capacity.clone().unsqueeze(0)
        context.scores = scores
        try:
            weights = method(context)
        except CreditError:
            raise
        except ValueError as error:
            raise CreditError(f"{error}; a trace holds one response and no rewards") from None
        if context.abstentions:
            raise CreditError(f"credit {method.name} abstains on this response: {context.abstentions[0]}")
        return weights[0]

    def _context(self) -> CreditContext:
        def row(mask: Tensor) -> Tensor:
            return mask.unsqueeze(0)

        return CreditContext(
            token_ids=torch.tensor([self.token_ids]),
            prompt=row(self.prompt),
            response=row(self.response),
            source=row(self.prompt),
            answer=row(self.answer),
            decisive=None if self.decisive is None else row(self.decisive),
            generator=torch.Generator().manual_seed(0),
        )


def trace(
    model: nn.Module,
    tokenizer: Any,
    prompt: str | Sequence[int],
    response: str | Sequence[int],
    layers: Layers = "middle",
    task: AnswerTask | None = None,
) -> Trace:
    """Traces a response: one forward, and the flow from the prompt's tokens to the answer's.

    model: a causal language model of transformers that the tap can read. prompt: the exact text that the model
    reads, chat template and special tokens included, or its token ids. response: token ids as sampled, or text;
    ids are better, since one text has many tokenisations. layers: see `attention.traced_layers`. task: where the
    answer stands (`extract(text) -> (start, end) or None`); any `tasks.Task` serves. Without one, the last
    `\\boxed{}` is it.

    Raises CreditError when prompt or response is empty, the response holds no answer, nothing of the prompt
    reaches the answer, the sequence does not fit the model, or the model's attention cannot be tapped.
    """
    tap = AttentionTap(model, layers)
    prompt_ids = _token_ids(tokenizer, prompt, "prompt")
    response_ids = _token_ids(tokenizer, response, "response")
    ids = prompt_ids + response_ids
    _check_fit(model, ids)

    task = Boxed() if task is None else task
    text, spans = decode(tokenizer, response_ids)
    span = task.extract(text)
    if span is None:
        raise CreditError(
            f"no answer found in the response, which ends {text[-40:]!r}: trace one that gives an answer, "
            "or name the task whose answer format it uses"
        )
    answer = tokens_in(spans, [span])
    if not answer:
        raise CreditError(f"the answer in the response, which ends {text[-40:]!r}, is empty: nothing to trace")
    known = task.decisive(text)

    device = next(model.parameters()).device
    batch = torch.tensor([ids], device=device)
    everything = torch.ones_like(batch)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), tap.open(everything) as capture, _stopping_after(model, tap.layers[-1]):
            model(input_ids=batch, attention_mask=everything, use_cache=False)
    except _LastLayerSeen:
        pass
    finally:
        model.train(training)

    def mask(response_tokens: list[int]) -> Tensor:
        marked = torch.zeros(len(ids), dtype=torch.bool)
        marked[[len(prompt_ids) + token for token in response_tokens]] = True
        return marked

    return Trace(
        token_ids=ids,
        tokens=_pieces(tokenizer, prompt_ids) + _pieces(tokenizer, response_ids),
        prompt_length=len(prompt_ids),
        capacity=capture.capacity[0].cpu(),
        answer=mask(answer),
        layers=tap.layers,
        decisive=None if known is None else mask(tokens_in(spans, known)),
        name=_model_name(model),
    )


class _LastLayerSeen(Exception):
    """Ends a forward: what lies behind the last traced layer is not needed."""


@contextmanager
def _stopping_after(model: nn.Module, layer: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise _LastLayerSeen

    handles = [
        module.register_forward_hook(stop)
        for module in model.modules()
        if getattr(module, "layer_idx", None) == layer
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _token_ids(tokenizer: Any, text: str | Sequence[int], what: str) -> list[int]:
    ids = tokenizer(text, add_special_tokens=False).input_ids if isinstance(text, str) else list(text)
    if not ids:
        raise CreditError(f"the {what} is empty: a trace needs at least one token of it")
    return ids


def _check_fit(model: nn.Module, ids: list[int]) -> None:
    config: Any = model.config
    vocabulary = model.get_input_embeddings().num_embeddings  # type: ignore[operator, union-attr]
    if min(ids) < 0 or max(ids) >= vocabulary:
        raise CreditError(
            f"token ids from {min(ids)} to {max(ids)} do not fit a vocabulary of {vocabulary}: "
            "use the tokenizer that belongs to the model"
        )
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and len(ids) > longest:
        raise CreditError(f"prompt and response have {len(ids)} tokens in all; the model reads at most {longest}")


def _model_name(model: nn.Module) -> str:
    name = str(getattr(model.config, "_name_or_path", "")) or type(model).__name__
    return Path(name).name if Path(name).is_dir() else name


def _pieces(tokenizer: Any, ids: list[int]) -> list[str]:
    """One displayable piece of text a token."""
    special = set(tokenizer.all_special_ids)
    text, spans = decode(tokenizer, ids)
    pieces, shown = [], 0
    for token, (start, end) in zip(ids, spans, strict=True):
        if token in special:
            pieces.append(tokenizer.convert_ids_to_tokens(token))
        else:
            pieces.append("".join(map(_displayed, text[max(start, shown) : end])))
            shown = max(shown, end)
    return pieces


def _displayed(character: str) -> str:
    """The character, or a visible stand-in for one that would steer a terminal or reorder a line."""
    code = ord(character)
    harmless = unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
    if harmless or character in "\n\t\u200c\u200d":
        return character
    return chr(0x2400 + code) if code < 0x20 else f"\u27e8U+{code:04X}\u27e9"


def _ranges(numbers: Sequence[int]) -> str:
    """[3, 4, 5, 9] as "3-5, 9"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)


class TerminalView:
    """A trace as a rich renderable. Without colours, or off a terminal, brackets mark what styles would."""

    def __init__(self, traced: Trace, width: int = 80) -> None:
        self.trace = traced
        self.width = width

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text("".join(self.trace.tokens[self.trace.prompt_length :]))


def page(traced: Trace) -> str:
    """The HTML page of a trace."""
    return json.dumps(traced.tokens)
