"""A traced response: what its tokens pass on to its answer, as terminal text and as one HTML page."""

from __future__ import annotations

import inspect
import json
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import resources
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from flowtracer import credit
from flowtracer.attention import DENSE_TOKENS, AttentionTap, Layers, MeanMap
from flowtracer.blocked import BlockedCapacity
from flowtracer.credit import CreditContext, CreditMethod
from flowtracer.credit.controls import TwoLevel
from flowtracer.errors import CreditError
from flowtracer.flow import Capacity, Flow, solve_flow
from flowtracer.spans import AnswerTask, Boxed, Span, decode, tokens_in

#: Edges a token shows on the page: its largest inflows, and as many of its largest outflows.
EDGES = 8
#: Paths of the backbone on the page and in the terminal.
PATHS = 5


@dataclass(eq=False, repr=False)
class Trace:
    """One response and the flow from its prompt to its answer.

    tokens: T pieces of text, prompt then response, safe to display: special tokens by their names, control
        characters by pictures; a token that only continues a character that an earlier one began is "".
    prompt_length: how many of them are the prompt.
    capacity: (T, T) float32, the mean attention of the traced layers; computed tile by tile for very long sequences,
        which have no page.
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
        raised = self.weights("flow", ratio=ratio) > 1
        return (raised & self.response).nonzero().flatten().tolist()

    def backbone(self, paths: int = PATHS) -> list[tuple[float, list[int]]]:
        """The most probable paths of the flow from the prompt to the answer, as (probability, positions)."""
        return self.flow.backbone(paths, self.prompt)

    def weights(self, name: str, **options: Any) -> Tensor:
        """Weights (T,) float32 that the credit method `name` gives this response, 1 on the prompt.

        Random methods draw from a generator of seed 0. Raises CreditError for an unknown method or option,
        and for one that cannot be computed from this trace: it needs rewards, the response's group or batch,
        a backward pass, another source or other layers, or decisive tokens that the task does not know.
        """
        if fixed := sorted({"layers", "source"} & set(options)):
            raise CreditError(f"credit {name}: option {fixed[0]!r} was fixed when the response was traced")
        return self._weigh(credit.get(name, **options))

    def to_terminal(self, width: int = 80) -> TerminalView:
        """A rich renderable: the response with high-flow tokens and answer marked, and what flows where."""
        return TerminalView(self, width)

    def to_html(self) -> str:
        """One self-contained HTML page; it loads nothing and needs no network."""
        page = resources.files("flowtracer").joinpath("view.html").read_text(encoding="utf-8")
        # json escapes everything beyond ASCII; a "<" in the text must not end the script element either.
        data = json.dumps(_page_data(self), separators=(",", ":")).replace("<", "\\u003c")
        return page.replace("{{DATA}}", data)

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
            weights = method(context)
        except ValueError as error:
            raise CreditError(f"{error}; a trace holds one response, no advantages and no rewards") from None
        if context.abstentions:
            raise CreditError(f"credit {method.name} abstains on this response: {context.abstentions[0]}")
        return weights[0].cpu()

    def _map(self) -> Capacity:
        """The map as a batch of one for a credit method, which may change it."""
        whole = self.capacity
        return whole.clone().unsqueeze(0) if isinstance(whole, Tensor) else whole.batch()

    def _context(self) -> CreditContext:
        def row(mask: Tensor) -> Tensor:
            return mask.unsqueeze(0).to(self.capacity.device)

        return CreditContext(
            token_ids=row(torch.tensor(self.token_ids)),
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
    dense_tokens: int = DENSE_TOKENS,
) -> Trace:
    """Traces a response: one forward, and the flow from the prompt's tokens to the answer's.

    model: a causal language model of transformers that the tap can read.
    prompt: the exact text that the model reads, chat template and special tokens included, or its token ids.
    response: token ids as sampled, or text; ids are better, since one text has many tokenisations.
    layers: see `attention.traced_layers`.
    task: where the answer stands (`extract(text) -> (start, end) or None`); any `tasks.Task` serves. Without
        one, the last `\\boxed{}` is it.
    dense_tokens: the attention map of a longer sequence is never held; see `blocked.BlockedCapacity`.

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
    pieces = _pieces(*decode(tokenizer, prompt_ids)) + _pieces(text, spans)
    span = task.extract(text)
    if span is None:
        raise CreditError(
            f"no answer found in the response, which ends {text[-40:]!r}: trace one that gives an answer, "
            "or name the task whose answer format it uses"
        )
    answer = tokens_in(spans, [span])
    if not answer:
        raise CreditError(f"the answer of the response, which ends {text[-40:]!r}, is empty")
    known = task.decisive(text)
    special = set(tokenizer.all_special_ids)

    device = next(model.parameters()).device
    batch = torch.tensor([ids], device=device)
    everything = torch.ones_like(batch)
    training = model.training
    model.eval()
    try:
        with (
            torch.no_grad(),
            tap.open(everything, MeanMap(dense_tokens)) as capture,
            _stopping_after(model, tap.layers[-1]),
        ):
            model(input_ids=batch, attention_mask=everything, use_cache=False)
    except _LastLayerSeen:
        pass
    finally:
        model.train(training)

    capacity = capture.capacity[0]

    def mask(response_tokens: list[int]) -> Tensor:
        marked = torch.zeros(len(ids), dtype=torch.bool)
        marked[[len(prompt_ids) + token for token in response_tokens]] = True
        return marked

    return Trace(
        token_ids=ids,
        tokens=[
            str(tokenizer.convert_ids_to_tokens(token)) if token in special else "".join(map(_visible, piece))
            for token, piece in zip(ids, pieces, strict=True)
        ],
        prompt_length=len(prompt_ids),
        capacity=capacity.cpu() if isinstance(capacity, Tensor) else capacity,
        answer=mask(answer),
        layers=tap.layers,
        decisive=None if known is None else mask(tokens_in(spans, known)),
        pieces=pieces,
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
    try:
        ids = tokenizer(text, add_special_tokens=False).input_ids if isinstance(text, str) else list(text)
    except Exception as error:  # a character that the vocabulary lacks raises no narrower one
        raise CreditError(f"the tokenizer cannot read the {what} {text!r:.60} ({error})") from None
    if not ids:
        raise CreditError(f"the {what} is empty: a trace needs at least one token of it")
    return ids


def _check_fit(model: nn.Module, ids: list[int]) -> None:
    config: Any = model.config
    vocabulary = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    if min(ids) < 0 or max(ids) >= vocabulary:
        raise CreditError(
            f"token ids from {min(ids)} to {max(ids)} do not fit a vocabulary of {vocabulary}: "
            "use the tokenizer that belongs to the model"
        )
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and len(ids) > longest:
        raise CreditError(f"prompt and response have {len(ids)} tokens; the model reads at most {longest}")


def _model_name(model: nn.Module) -> str:
    name = str(getattr(model.config, "_name_or_path", "")) or type(model).__name__
    return Path(name).name if Path(name).is_dir() else name


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
        styled = console.is_terminal and console.color_system is not None
        options = options.update_width(min(self.width, options.max_width))
        for part in (self._summary(), self._text(styled), self._table(), self._paths()):
            for segment in console.render(part, options):
                yield _in_ascii(segment) if options.ascii_only else segment
            yield Text()

    def _summary(self) -> Text:
        traced = self.trace
        raised, responses = len(traced.top()), int(traced.response.sum())
        summary = Text(traced.name or "Trace", style="bold")
        summary.append(
            f"\n{traced.prompt_length} prompt and {responses} response tokens, layers {_ranges(traced.layers)}; "
            f"answer {traced.answer_text.strip()!r}; flow raises {raised} of {responses} tokens",
            style="not bold dim",
        )
        return summary

    def _text(self, styled: bool) -> Text:
        """The response; runs of raised tokens and the answer in a style, or in brackets with a legend."""
        traced, text = self.trace, Text()
        raised = set(traced.top())

        def mark(kind: str, run: str) -> None:
            # A line break has to show something before it breaks, or nobody sees that it is marked.
            for line in run.replace("\n", "\u21b5\n").splitlines(keepends=True):
                body = line.rstrip("\n")
                if styled:
                    text.append(body, style=_STYLES[kind])
                else:
                    text.append(body.join(_BRACKETS[kind]))
                text.append(line[len(body) :])

        for kind in _BRACKETS:
            mark(kind, f" {kind} " if styled else kind)
            text.append("  ")
        text.append("\n\n")
        positions = range(traced.prompt_length, len(traced.tokens))
        kinds = ["answer" if traced.answer[at] else "raised" if at in raised else "" for at in positions]
        for kind, run in groupby(zip(kinds, positions, strict=True), key=itemgetter(0)):
            words = "".join(traced.tokens[position] for _, position in run)
            if kind:
                mark(kind, words)
            else:
                text.append(words)
        return text

    def _table(self) -> Table:
        """The ten response tokens of largest throughput."""
        traced = self.trace
        flow = traced.flow.flow
        table = Table(
            title="Response tokens of largest throughput", box=box.SIMPLE_HEAD, title_justify="left"
        )
        table.add_column("position", justify="right")
        table.add_column("token")
        table.add_column("share of flow", justify="right")
        table.add_column("largest inflow")
        for position in _largest(flow * traced.response, 10):
            # A row at a time: a long response has no edges as a whole.
            inflow = traced.flow.edge_flow(slice(position, position + 1))[0]
            source = int(inflow.argmax())
            share = float(inflow[source] / flow[position])
            table.add_row(
                str(position),
                Text(
                    _label(traced.tokens[position]),
                    style=_STYLES["answer" if traced.answer[position] else "raised"],
                ),
                f"{float(flow[position]):.1%}",
                Text(f"{_label(traced.tokens[source])} @{source}, {share:.1%}"),
            )
        return table

    def _paths(self) -> Text:
        text = Text("Backbone: the most probable paths from the prompt to the answer\n", style="italic")
        for probability, path in self.trace.backbone():
            text.append(f"\n{probability:7.2%}  ", style="not italic")
            steps = [f"{_label(self.trace.tokens[position])} @{position}" for position in path]
            text.append(" \u2192 ".join(steps), style="not italic")
        return text


_BRACKETS = {"raised": ("\u27e6", "\u27e7"), "answer": ("\u27ea", "\u27eb")}
_STYLES = {"raised": "bold black on yellow", "answer": "bold black on green"}


# For consoles without Unicode: the signs above and below in ASCII, any other character by its number.
_ASCII = str.maketrans(
    {
        "\u27e6": "[",
        "\u27e7": "]",
        "\u27ea": "{",
        "\u27eb": "}",
        "\u21b5": "\\n",
        "\u2423": "_",
        "\u2192": "->",
    }
)


def _in_ascii(segment: Segment) -> Segment:
    text = segment.text.translate(_ASCII).encode("ascii", "backslashreplace").decode()
    return Segment(text, segment.style, segment.control)


def _label(piece: str) -> str:
    """A token on one line, its blanks visible."""
    stripped = piece.strip(" ")
    left = len(piece) - len(piece.lstrip(" ")) if stripped else len(piece)
    right = len(piece) - left - len(stripped)
    return "\u2423" * left + stripped.replace("\n", "\u21b5").replace("\t", "\u21e5") + "\u2423" * right


def _largest(values: Tensor, count: int) -> list[int]:
    """Positions of the `count` largest values above 0, largest first, ties by position."""
    order = values.argsort(descending=True, stable=True)[:count].tolist()
    return [position for position in order if values[position] > 0]


def _page_data(traced: Trace) -> dict[str, Any]:
    """What the page draws. Only the largest edges of each token: whole maps of long responses fit no page."""
    flow = traced.flow.flow
    edges = traced.flow.edge_flow()
    sources = int(traced.flow.reaching_sources)
    return {
        "name": traced.name,
        "layers": _ranges(traced.layers),
        "prompt": traced.prompt_length,
        "tokens": traced.tokens,
        "answer": traced.answer.nonzero().flatten().tolist(),
        "flow": [float(f"{share:.3g}") for share in flow.tolist()],
        "sources": sources,
        "entering": float(f"{1 / sources:.3g}"),
        "into": _largest_shares(edges, flow),
        "out": _largest_shares(edges.mT, flow),
        "backbone": [
            {"probability": float(f"{probability:.3g}"), "path": path}
            for probability, path in traced.backbone()
        ],
        "methods": _page_methods(traced),
    }


def _largest_shares(edges: Tensor, flow: Tensor) -> list[list[int]]:
    """For each row, the columns of its largest edges and their thousandths of the token's flow, alternating."""
    shares, columns = (edges / flow.clamp(min=torch.finfo(flow.dtype).tiny).unsqueeze(1)).topk(
        min(EDGES, len(flow))
    )
    thousandths = (1000 * shares).round().int()
    rows = torch.stack((columns, thousandths), -1).tolist()
    return [[number for column, share in row if share > 0 for number in (column, share)] for row in rows]


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
        if isinstance(method, TwoLevel) and (raised_at := _raised_at(traced, method)) is not None:
            entry |= {"gamma": method.gamma, "raisedAt": raised_at}
        elif bool((weights == weights[0]).all()):
            entry["weights"] = round(float(weights[0]), 4)
        else:
            entry["weights"] = [round(weight, 4) for weight in weights.tolist()]
        methods.append(entry)
    return methods


def _raised_at(traced: Trace, method: TwoLevel) -> list[int] | None:
    """For each response token, the smallest percentage at which the method raises it; 0 = never.

    None for a method whose raised tokens at one ratio are not among those at a larger one: no slider can show it.
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
    raised = torch.stack(levels)
    if bool((raised[:-1] & ~raised[1:]).any()):
        return None
    return torch.where(raised.any(0), raised.to(torch.uint8).argmax(0), 0).tolist()
