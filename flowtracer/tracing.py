"""A traced response: the flow from its prompt to its answer, and the weights that credit methods give it."""

from __future__ import annotations

import inspect
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from flowtracer import contexts, credit, view, weighing
from flowtracer.attention import AttentionTap, Layers
from flowtracer.blocked import BlockedCapacity
from flowtracer.contexts import Extract
from flowtracer.credit import CreditContext, CreditMethod
from flowtracer.credit.levels import TwoLevel
from flowtracer.errors import CreditError
from flowtracer.flow import Capacity, Flow, solve_flow
from flowtracer.layout import pad, turns_of
from flowtracer.readings import DENSE_TOKENS, MeanMap
from flowtracer.spans import AnswerTask, Span, decode


@dataclass(eq=False, repr=False)
class Trace:
    """One response and the flow from its prompt to its answer.

    tokens: T pieces of text, prompt then response, safe to display: special tokens by their names, control
        characters by pictures; a token that only continues a character that an earlier one began is "".
    prompt_length: how many of the tokens are the prompt.
    capacity: (T, T) float32, the mean attention of the traced layers; computed tile by tile for very long sequences,
        which `to_html` does not show.
    answer: (T,) boolean, the tokens of the answer.
    layers: the traced layers.
    decisive: (T,) boolean, the tokens that decide the answer, or None where the task does not know.
    pieces: the T texts as decoded, special tokens "", or None where they are not known.
    name: what was traced, for titles.
    flow: the flow itself, from the whole prompt to the answer.

    Positions are those of the whole sequence, so the first token of the response is at `prompt_length`.
    Raises CreditError when nothing of the prompt reaches the answer.
    """

    token_ids: list[int]
    tokens: list[str]
    prompt_length: int
    capacity: Tensor | BlockedCapacity
    answer: Tensor
    layers: list[int]
    decisive: Tensor | None = None
    pieces: list[str] | None = None
    name: str = ""
    flow: Flow = field(init=False)

    def __post_init__(self) -> None:
        positions = torch.arange(len(self.tokens))
        self.prompt = positions < self.prompt_length
        self.response = ~self.prompt
        device = self.capacity.device
        self.flow = solve_flow(self.capacity, self.prompt.to(device), self.answer.to(device)).cpu()
        if int(self.flow.reaching_sources) == 0:
            raise CreditError(
                f"nothing of the prompt reaches the answer {self.answer_text!r} through layers "
                f"{view.ranges(self.layers)}: trace other layers, or check the attention map"
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
        """Positions of the response tokens that credit `flow` up-weights at this ratio, in their order."""
        chosen = self.weights("flow", ratio=ratio) > 1
        return (chosen & self.response).nonzero().flatten().tolist()

    def backbone(self, paths: int = view.PATHS) -> list[tuple[float, list[int]]]:
        """The most probable paths of the flow from the prompt to the answer, as (probability, positions)."""
        return self.flow.backbone(paths, self.prompt)

    def weights(self, name: str, **options: Any) -> Tensor:
        """Weights (T,) float32 that the credit method `name` gives this response, 1 on the prompt.

        Random methods draw what they would for the first sample of the first prompt in a training of seed 0.
        Raises CreditError for an unknown method or option, and for one that cannot be computed from this trace: it
        needs rewards, the response's group or batch, a backward pass, another source or other layers, or decisive
        tokens that the task does not know.
        """
        if fixed := sorted({"layers", "source"} & set(options)):
            raise CreditError(f"credit {name}: option {fixed[0]!r} was fixed when the response was traced")
        return self._weigh(credit.get(name, **options))

    def to_terminal(self, width: int = 80) -> view.TerminalView:
        """A rich renderable: the response with high-flow tokens and answer marked, and what flows where."""
        return view.TerminalView(self, width)

    def to_html(self) -> str:
        """One self-contained HTML page; it loads nothing and needs no network."""
        return view.page(self, _page_methods(self))

    def _weigh(self, method: CreditMethod, scores: Tensor | None = None) -> Tensor:
        known = {"capacity": self.capacity, "decisive": self.decisive, "pieces": self.pieces}
        if missing := [need for need in sorted(method.needs) if known.get(need) is None]:
            raise CreditError(f"credit {method.name} needs {', '.join(missing)}, which this trace has not")
        if method.scope != "response":
            raise CreditError(f"credit {method.name} needs a whole {method.scope}; a trace is one response")
        if (layers := getattr(method, "layers", "middle")) != "middle":
            raise CreditError(
                f"credit {method.name} reads layers {layers!r}; a trace holds one mean over its own"
            )
        context = self._context()
        if "pieces" in method.needs:
            assert self.pieces is not None
            context.pieces = [[""] * self.prompt_length + self.pieces[self.prompt_length :]]
        if "capacity" in method.needs and scores is None:
            context.capacity = self._map()
        context.scores = scores
        try:
            credit = method.assess(context)
        except ValueError as error:
            raise CreditError(f"{error}; a trace holds one response, no advantages and no rewards") from None
        if credit.abstentions:
            raise CreditError(f"credit {method.name} abstains on this response: {credit.abstentions[0]}")
        assert credit.weights is not None  # additive methods need a whole group
        return credit.weights[0].cpu()

    def _map(self) -> Capacity:
        """The map as a batch of one for a credit method, which may change it."""
        whole = self.capacity
        return whole.clone().unsqueeze(0) if isinstance(whole, Tensor) else whole.batch()

    def _context(self) -> CreditContext:
        def row(mask: Tensor) -> Tensor:
            return mask.unsqueeze(0).to(self.capacity.device)

        context = CreditContext(
            token_ids=row(torch.tensor(self.token_ids)),
            prompt=row(self.prompt),
            response=row(self.response),
            source=row(self.prompt),
            answer=row(self.answer),
            decisive=None if self.decisive is None else row(self.decisive),
        )
        context.streams = [contexts.stream(0, 0, 0, 0)]
        return context


def trace(
    model: nn.Module,
    tokenizer: Any,
    prompt: str | Sequence[int],
    response: str | Sequence[int],
    layers: Layers = "middle",
    task: AnswerTask | Extract | str | None = None,
    dense_tokens: int = DENSE_TOKENS,
) -> Trace:
    """Traces a response: one forward, and the flow from the prompt's tokens to the answer's.

    model: a causal language model of transformers that the tap can read.
    prompt: the exact text that the model reads, chat template and special tokens included, or its token ids.
    response: token ids as sampled, or text; ids are better, since one text has many tokenisations.
    layers: see `attention.traced_layers`.
    task: where the answer stands: a task (`extract(text) -> (start, end) or None`), the name of one of the package
        `tasks`, or a function like `extract`. Without one, the last `\\boxed{}` is it.
    dense_tokens: the attention map of a longer sequence is never held; see `blocked.BlockedCapacity`.

    Raises CreditError when prompt or response is empty, the response holds no answer, nothing of the prompt
    reaches the answer, the sequence does not fit the model, or the model's attention cannot be tapped.
    """
    tap = AttentionTap(model, layers)
    prompt_ids = weighing.token_ids(tokenizer, prompt, "prompt")
    response_ids = weighing.token_ids(tokenizer, response, "response")
    ids = prompt_ids + response_ids
    weighing.check_fit(model, [ids])
    text, spans = decode(tokenizer, response_ids)
    judged = contexts.answer_task(task)
    knows = hasattr(judged, "decisive") and judged.decisive(text) is not None
    turns = turns_of(None, len(response_ids))
    located = contexts.locate(tokenizer, judged, response_ids, turns, decisive=knows)
    if located.trouble is not None:
        raise CreditError(f"the answer of the response, which ends {text[-40:]!r}, is empty")
    if not located.answer:
        raise CreditError(
            f"no answer found in the response, which ends {text[-40:]!r}: trace one that gives an answer, "
            "or name the task whose answer format it uses"
        )
    batch = pad([prompt_ids], [response_ids], 0, next(model.parameters()).device)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), tap.open(batch.attention_mask, MeanMap(dense_tokens)) as capture:
            weighing.forward_to(model, tap.layers[-1], batch.input_ids, batch.attention_mask)
    finally:
        model.train(training)
    capacity = capture.capacity[0]
    pieces = _pieces(*decode(tokenizer, prompt_ids)) + _pieces(text, spans)
    special = set(tokenizer.all_special_ids)
    return Trace(
        token_ids=ids,
        tokens=[
            str(tokenizer.convert_ids_to_tokens(token)) if token in special else "".join(map(_visible, piece))
            for token, piece in zip(ids, pieces, strict=True)
        ],
        prompt_length=len(prompt_ids),
        capacity=capacity.cpu() if isinstance(capacity, Tensor) else capacity,
        answer=batch.on_response([located.answer])[0].cpu(),
        layers=tap.layers,
        decisive=batch.on_response([located.decisive])[0].cpu() if knows else None,
        pieces=pieces,
        name=weighing.model_name(model),
    )


def _pieces(text: str, spans: list[Span]) -> list[str]:
    """The text of each token. Of tokens that share one character, the first has it all."""
    pieces, shown = [], 0
    for start, end in spans:
        pieces.append(text[max(start, shown) : end])
        shown = max(shown, end)
    return pieces


def _visible(character: str) -> str:
    """The character, or a stand-in for one that would steer a terminal or reorder a line."""
    code = ord(character)
    harmless = unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
    if harmless or character in "\n\t\u200c\u200d":
        return character
    return chr(0x2400 + code) if code < 0x20 else f"\u27e8U+{code:04X}\u27e9"


def _page_methods(traced: Trace) -> list[dict[str, Any]]:
    """Every credit method that this trace suffices for, flow first."""
    methods = []
    for name in sorted(credit.names(), key=lambda name: name != "flow"):
        method = credit.get(name)
        try:
            weights = traced._weigh(method)[traced.response]
        except CreditError:
            continue
        rule = (inspect.getdoc(type(method)) or "").split("\n\n")[0].replace("\n", " ")
        entry: dict[str, Any] = {"name": name, "rule": rule}
        if isinstance(method, TwoLevel) and (smallest := _up_weighted_from(traced, method)) is not None:
            entry |= {"gamma": method.gamma, "raisedAt": smallest}
        elif bool((weights == weights[0]).all()):
            entry["weights"] = round(float(weights[0]), 4)
        else:
            entry["weights"] = [round(weight, 4) for weight in weights.tolist()]
        methods.append(entry)
    return methods


def _up_weighted_from(traced: Trace, method: TwoLevel) -> list[int] | None:
    """For each response token, the smallest percentage at which the method up-weights it; 0 = never.

    None for a method whose up-weighted tokens at one ratio are not among those at a larger one: no slider can show it.
    """
    scores = None
    if "capacity" in method.needs:
        context = traced._context()
        context.capacity = traced._map()
        scores = method.score(context)
    levels = [
        traced._weigh(replace(method, ratio=percentage / 100), scores)[traced.response] != 1.0
        for percentage in range(101)
    ]
    chosen = torch.stack(levels)
    if bool((chosen[:-1] & ~chosen[1:]).any()):
        return None
    return torch.where(chosen.any(0), chosen.to(torch.uint8).argmax(0), 0).tolist()
