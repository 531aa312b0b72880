"""Credit for anybody's responses: `weigh`, for training loops that are not TRL's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowtracer import contexts, passes, seam, teaching
from flowtracer.attention import AttentionTap
from flowtracer.contexts import ContextBuilder, Extract, Located
from flowtracer.credit import CreditContext, CreditMethod
from flowtracer.errors import CreditError
from flowtracer.layout import Padded, pad, turns_of
from flowtracer.spans import AnswerTask, Span, decode

#: Prompts and responses: texts, or token ids.
Texts = Sequence[str] | Sequence[Sequence[int]]


@dataclass(frozen=True, eq=False)
class Weighed:
    """The credit of one response of n tokens.

    token_ids: its n token ids. text: what they say, without special tokens. spans: the character span of each token in
    `text`. answer: the tokens of the answer, counted from the first of the response. weights: (n,) float32; of an
    additive method 1 + addend / advantage, or None where no advantages were given. addend: (n,) float32 for additive
    methods (A' = A + addend), None for others (A' = w A). scores: (n,) float32, what the method ranks tokens by, for
    methods that read it from attention, else None. abstained: why the method could not judge this response, or None.
    """

    token_ids: list[int]
    text: str
    spans: list[Span]
    answer: list[int]
    weights: Tensor | None
    addend: Tensor | None
    scores: Tensor | None
    abstained: str | None

    def applied(self, advantage: float) -> Tensor:
        """The advantage of each token, (n,) float32: w A, or A + addend."""
        if self.addend is not None:
            return advantage + self.addend
        assert self.weights is not None
        return advantage * self.weights


@dataclass(frozen=True, eq=False)
class Read:
    """Responses as a credit method sees them: its context, with scores in place of maps, and what stands in it."""

    method: CreditMethod
    context: CreditContext
    batch: Padded
    response_ids: list[list[int]]
    located: list[Located]
    source: list[list[int]] | None


def weigh(
    model: nn.Module,
    tokenizer: Any,
    prompts: Texts,
    responses: Texts,
    credit: str | CreditMethod = "flow",
    *,
    task: AnswerTask | Extract | str | None = None,
    rewards: Sequence[float | None] | Tensor | None = None,
    groups: Sequence[int] | Tensor | None = None,
    advantages: Sequence[float] | Tensor | None = None,
    questions: Sequence[str] | None = None,
    masks: Sequence[Sequence[int] | None] | None = None,
    golds: Sequence[str] | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    step: int = 0,
    batch_size: int | None = None,
) -> list[Weighed]:
    """The credit that each token of B responses gets, by a credit method of FlowTracer: for any training loop.

    model: the policy that wrote the responses, a causal language model of transformers; wrappers are looked through.
    prompts: B exact texts that the model reads, chat template and special tokens included, or their token ids.
    responses: B token id lists as sampled, or texts; ids are better, since one text has many tokenisations.
    credit: a method's name (`flowtracer.credit.names()`) or `flowtracer.credit.get(name, **options)`.
    task: where the answer of a response stands: a task (`extract(text) -> (start, end) or None`), the name of one of
        the package `tasks`, or a function like `extract`. Without one, the last `\\boxed{}` is it.
    rewards, groups, advantages: one a response, for the methods that need them (`method.needs`). A reward of None is
        unscorable. groups: a number for each prompt, the same for all its responses.
    questions: the question's text in each prompt, for methods with source="question".
    masks: for responses that hold more than the policy wrote (results of tools): 1 for each of its own tokens, 0 for
        others. Answers are looked for in its own, and others get weight 1.
    golds: the text of a right answer to each prompt, for methods with a teacher: it stands in the teacher's prompt
        beside the question, where `questions` are given, else beside the whole prompt.
    temperature: that of sampling, for methods that read log-probabilities or entropies.
    seed, step: what random methods draw from, with the group of a response and its place there.
    batch_size: sequences in one forward; all by default. The whole batch is padded to its longest prompt and response,
        as TRL does, and the weights are those of `CreditGRPOTrainer` for the same rows in the same layout.

    The cost is one forward without gradient up to the last traced layer; nothing for methods that need none of it.
    The model is left as it was, no global generator is moved, and no text is tokenised twice.

    Raises CreditError for inputs that do not fit together, a method that needs what is not given, and a model whose
    attention cannot be tapped where the method reads it.
    """
    read = read_responses(
        model,
        tokenizer,
        prompts,
        responses,
        credit,
        task=task,
        rewards=rewards,
        groups=groups,
        advantages=advantages,
        questions=questions,
        masks=masks,
        golds=golds,
        temperature=temperature,
        seed=seed,
        step=step,
        batch_size=batch_size,
    )
    return _weighed(read, tokenizer, None if advantages is None else read.context.advantage)


def read_responses(
    model: nn.Module,
    tokenizer: Any,
    prompts: Texts,
    responses: Texts,
    credit: str | CreditMethod = "flow",
    *,
    task: AnswerTask | Extract | str | None = None,
    rewards: Sequence[float | None] | Tensor | None = None,
    groups: Sequence[int] | Tensor | None = None,
    advantages: Sequence[float] | Tensor | None = None,
    questions: Sequence[str] | None = None,
    masks: Sequence[Sequence[int] | None] | None = None,
    golds: Sequence[str] | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    step: int = 0,
    batch_size: int | None = None,
) -> Read:
    """The context that `weigh` hands to the method, for who looks at it with other options of the same method.

    Arguments as in `weigh`. The context holds `scores` where the method reads attention, and no map.
    """
    method = contexts.credit_method(credit)
    if "values" in method.needs:
        raise CreditError(
            f"credit {method.name!r} samples further responses from the middle of these, which only a training does "
            "(`flowtracer train`); take another credit method"
        )
    builder = ContextBuilder(method, contexts.answer_task(task), tokenizer, seam.end_tokens(model, tokenizer))
    prompt_ids = [token_ids(tokenizer, text, "prompt") for text in prompts]
    response_ids = [token_ids(tokenizer, text, "response") for text in responses]
    _check_sizes(
        len(prompt_ids),
        responses=response_ids,
        rewards=rewards,
        groups=groups,
        advantages=advantages,
        questions=questions,
        masks=masks,
        golds=golds,
    )
    check_fit(
        model, [[*prompt, *response] for prompt, response in zip(prompt_ids, response_ids, strict=True)]
    )
    masks = [None] * len(prompt_ids) if masks is None else list(masks)
    _check_masks(masks, response_ids)
    located = [
        builder.locate(ids, turns_of(mask, len(ids))) for ids, mask in zip(response_ids, masks, strict=True)
    ]
    source = builder.questions(prompt_ids, questions)
    device = next(model.parameters()).device
    batch = pad(prompt_ids, response_ids, _pad_id(tokenizer), device)
    step_rows = batch_size or len(prompt_ids)
    fields = _fields(model, builder, batch, located, source, masks, temperature, step_rows)
    context = builder.context(batch, located, source, fields, masks)
    context.pieces = builder.pieces(batch, response_ids)
    if builder.words is not None:
        context.teacher_logprobs = _taught(
            model, builder, batch, prompt_ids, response_ids, questions, golds, temperature, batch_size
        )
    context.step = step
    context.advantage = _numbers(advantages, device)
    context.reward = _numbers(rewards, device)
    numbers = list(range(len(prompt_ids))) if groups is None else [int(group) for group in groups]
    context.group = None if groups is None else torch.tensor(numbers, device=device)
    context.streams = _streams(numbers, seed, step)
    return Read(method, context, batch, response_ids, located, source)


def _streams(groups: Sequence[int], seed: int, step: int) -> list[int]:
    """The seed of each response's own random numbers: of its group and its place there."""
    places: dict[int, int] = {}
    streams = []
    for group in groups:
        places[group] = places.get(group, -1) + 1
        streams.append(contexts.stream(seed, step, group, places[group]))
    return streams


def _weighed(read: Read, tokenizer: Any, advantages: Tensor | None) -> list[Weighed]:
    """The parts of a weighed batch, response by response."""
    credit = read.method.assess(read.context)
    abstentions = contexts.named(credit.abstentions, read.located, read.source)
    shown = credit.weights is not None or advantages is not None
    weights, addend = credit.as_weights(advantages) if shown else None, credit.addend
    weighed = []
    for row, ids in enumerate(read.response_ids):
        first = read.batch.input_ids.shape[1] - read.batch.length
        columns = slice(first, first + len(ids))

        def part(values: Tensor | None, row: int = row, columns: slice = columns) -> Tensor | None:
            return None if values is None else values[row, columns].detach().float().cpu()

        text, spans = decode(tokenizer, ids)
        weighed.append(
            Weighed(
                token_ids=ids,
                text=text,
                spans=spans,
                answer=read.located[row].answer,
                weights=part(weights),
                addend=part(addend),
                scores=part(read.context.scores),
                abstained=abstentions.get(row),
            )
        )
    return weighed


def _fields(
    model: nn.Module,
    builder: ContextBuilder,
    batch: Padded,
    located: Sequence[Located],
    source: list[list[int]] | None,
    masks: Sequence[Sequence[int] | None],
    temperature: float,
    step: int,
) -> dict[str, Any]:
    """The method's needs from forwards over the batch, `step` rows at once, by the names of context fields."""
    method = builder.method
    parts: list[dict[str, Any]] = []
    if builder.reads_forward:
        tap = AttentionTap(model, getattr(method, "layers", "middle")) if builder.reads_attention else None
        for start in range(0, len(located), step):
            rows = slice(start, start + step)
            fields = _forward(model, builder, tap, batch[rows], temperature)
            asked = None if source is None else source[rows]
            parts.append(builder.scored(batch[rows], located[rows], asked, fields, masks[rows]))
    fields = {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}
    if builder.reads_distributions:
        fields |= passes.distributions(model, batch, temperature, step)
    if "saliency" in method.needs:
        answer = batch.on_response([row.answer for row in located])
        fields["saliency"] = passes.answer_gradient(
            model,
            lambda policy, rows: passes.logprobs_and_entropies(policy, rows, temperature)[0],
            batch,
            answer,
            step,
        )
    if "divergence" in method.needs:
        answer = batch.on_response([row.answer for row in located])
        fields["divergence"] = passes.answer_divergence(model, batch, answer, builder.replacement(), step)
    return fields


def _forward(
    model: nn.Module, builder: ContextBuilder, tap: AttentionTap | None, batch: Padded, temperature: float
) -> dict[str, Any]:
    needs = builder.from_forward & {"logprobs", "entropies"}
    logprobs = entropies = None
    opened = nullcontext() if tap is None else tap.open(batch.attention_mask, builder.method.reading())
    with passes.evaluating(model), torch.no_grad(), opened as capture:
        if needs:
            logprobs, entropies = passes.logprobs_and_entropies(model, batch, temperature)
        else:
            assert tap is not None
            forward_to(model, tap.layers[-1], batch.input_ids, batch.attention_mask)
    return builder.read(batch, logprobs, entropies, {} if capture is None else capture.fields)


def _taught(
    model: nn.Module,
    builder: ContextBuilder,
    batch: Padded,
    prompt_ids: list[list[int]],
    response_ids: list[list[int]],
    questions: Sequence[str] | None,
    golds: Sequence[str] | None,
    temperature: float,
    batch_size: int | None,
) -> Tensor:
    """The teacher's log-probabilities of the responses, (B, T)."""
    if golds is None:
        raise CreditError(
            f"credit {builder.method.name!r} shows its teacher the gold: give golds=[...], the text of a right answer "
            "to each prompt"
        )
    for row, gold in enumerate(golds):
        if not (isinstance(gold, str) and gold.strip()):
            raise CreditError(f"golds[{row}] is {gold!r:.40}: the teacher needs its text")
    asked = [None] * len(prompt_ids) if questions is None else list(questions)
    prompts = builder.teacher_prompts(prompt_ids, asked, golds)
    teaching.check_context(model, prompts, batch.length)
    taught = teaching.taught_batch(prompts, response_ids, _pad_id(builder.tokenizer), batch.input_ids.device)
    step = batch_size or len(prompts)
    with torch.no_grad(), passes.evaluating(model):
        parts = [
            passes.logprobs_and_entropies(model, taught[slice(start, start + step)], temperature)[0]
            for start in range(0, len(prompts), step)
        ]
    return batch.in_columns(torch.cat(parts))


def forward_to(model: Any, layer: int, input_ids: Tensor, attention_mask: Tensor) -> None:
    """A forward that ends behind the attention of `layer`: what follows the last traced layer is not needed."""
    with _stopping_after(model, layer):
        try:
            model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        except _LastLayerSeen:
            return


class _LastLayerSeen(Exception):
    """Ends a forward."""


@contextmanager
def _stopping_after(model: nn.Module, layer: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise _LastLayerSeen

    handles = [
        module.register_forward_hook(stop)
        for module, index in seam.attention_layers(seam.text_decoder(model)).items()
        if index == layer
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# ------------------------------------------------------------------------------------- what was given


def token_ids(tokenizer: Any, text: str | Sequence[int], what: str) -> list[int]:
    """The token ids of a text, or those that were given. Raises CreditError where there are none."""
    try:
        ids = tokenizer(text, add_special_tokens=False).input_ids if isinstance(text, str) else list(text)
    except Exception as error:  # a character that the vocabulary lacks raises no narrower one
        raise CreditError(f"the tokenizer cannot read the {what} {text!r:.60} ({error})") from None
    if not ids:
        raise CreditError(f"the {what} is empty: credit needs at least one token of it")
    return ids


def check_fit(model: nn.Module, sequences: Sequence[list[int]]) -> None:
    """Raises CreditError for token ids or a length that the model does not have."""
    config: Any = seam.unwrapped(model).config.get_text_config(decoder=True)
    vocabulary: Any = seam.unwrapped(model).get_input_embeddings().num_embeddings
    longest = getattr(config, "max_position_embeddings", None)
    for ids in sequences:
        if min(ids) < 0 or max(ids) >= vocabulary:
            raise CreditError(
                f"token ids from {min(ids)} to {max(ids)} do not fit a vocabulary of {vocabulary}: "
                "use the tokenizer that belongs to the model"
            )
        if longest is not None and len(ids) > longest:
            raise CreditError(
                f"prompt and response have {len(ids)} tokens; the model reads at most {longest}"
            )


def model_name(model: nn.Module) -> str:
    """The model's name, for titles."""
    name = str(getattr(seam.unwrapped(model).config, "_name_or_path", "")) or type(model).__name__
    return Path(name).name if Path(name).is_dir() else name


def _check_sizes(rows: int, **given: Any) -> None:
    if not rows:
        raise CreditError("no prompts: give at least one, with its response")
    for name, values in given.items():
        if values is not None and len(values) != rows:
            raise CreditError(f"{len(values)} {name} for {rows} prompts: give one for each prompt")


def _check_masks(masks: Sequence[Sequence[int] | None], responses: Sequence[Sequence[int]]) -> None:
    for row, (mask, ids) in enumerate(zip(masks, responses, strict=True)):
        if mask is not None and len(mask) != len(ids):
            raise CreditError(
                f"masks[{row}] has {len(mask)} entries for a response of {len(ids)} tokens: give one for each token"
            )


def _numbers(values: Any, device: Any) -> Tensor | None:
    """One float32 a response, NaN for None."""
    if values is None:
        return None
    return torch.tensor([float("nan") if value is None else float(value) for value in values], device=device)


def _pad_id(tokenizer: Any) -> int:
    # Pads are masked: any token of the vocabulary serves where a tokenizer has none of its own.
    pad = tokenizer.pad_token_id
    return 0 if pad is None else pad
