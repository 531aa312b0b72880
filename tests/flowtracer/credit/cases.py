"""Methods with random contexts for them, and small contexts worked by hand: what all tests of credit methods share."""

from dataclasses import replace

import torch

from flowtracer import credit
from flowtracer.credit import CreditContext
from flowtracer.readings import HeadVectors

NAMES = credit.names()

RANDOM = {"random", "random_mask", "shuffled_flow", "shuffled_oracle"}

#: Methods that sample further responses, which only a training of the harness does.
SAMPLING = {name for name in NAMES if "values" in credit.get(name).needs}

ABSTAINS_WITHOUT_ANSWER = {
    "flow", "shuffled_flow", "bottom_flow", "one_hop", "attention_rollout", "answer_attention", "gradient",
    "oar_perturb",
}  # fmt: skip


def make(
    name, responses=(14, 11, 12, 14), prompts=(3, 5, 4, 2), answers="last", rewards=None, seed=0, **options
):
    """A method and a random context for it: left-padded prompts, right-padded responses, everything that is needed.

    answers: "last" two tokens, "first" token, "none", or "some" (rows 1 and 3 have none).
    """
    source = torch.Generator().manual_seed(seed)
    rows, left, right = len(responses), max(prompts), max([*responses, 1])
    width, heads = left + right, 4
    column = torch.arange(width)
    prompt = torch.stack([(column >= left - p) & (column < left) for p in prompts])
    response = torch.stack([(column >= left) & (column < left + n) for n in responses])
    token = prompt | response
    answer = torch.zeros_like(response)
    for row, n in enumerate(responses):
        if n and answers != "none" and not (answers == "some" and row % 2):
            answer[row, left if answers == "first" else slice(left + max(n - 2, 0), left + n)] = True
    decisive = response & (column == left)
    reward = torch.tensor(rewards or [1.0, 0.0, 0.0, 1.0][:rows])
    group = torch.arange(rows) // 4
    advantage = torch.nan_to_num(reward - reward.nanmean()) * 1.7
    method = credit.get(name, **options)
    context = CreditContext(
        token_ids=torch.randint(2, 9, (rows, width), generator=source) * token,
        prompt=prompt,
        response=response,
        source=prompt.clone(),
        answer=answer,
        advantage=advantage,
        reward=reward,
        group=group,
        streams=[1000 * seed + row for row in range(rows)],
    )
    if "decisive" in method.needs:
        context.decisive = decisive
    if "logprobs" in method.needs:
        context.logprobs = -2.0 * torch.rand(rows, width, generator=source) * response
    if "entropies" in method.needs:
        context.entropies = 2.0 * torch.rand(rows, width, generator=source) * response
    if "teacher_logprobs" in method.needs:
        context.teacher_logprobs = -2.0 * torch.rand(rows, width, generator=source) * response
    if "ends" in method.needs:
        context.ends = response & (column == (response * column).amax(1, keepdim=True))
    if "squares" in method.needs:
        chosen = context.logprobs.exp()
        context.squares = chosen**2 + (1 - chosen) ** 2 * torch.rand(rows, width, generator=source)
    if "saliency" in method.needs:
        context.saliency = torch.rand(rows, width, generator=source) * token * answer.any(1, keepdim=True)
    if "divergence" in method.needs:
        context.divergence = torch.rand(rows, width, generator=source) * token * answer.any(1, keepdim=True)
    if "values" in method.needs:
        context.values = torch.rand(rows, width, generator=source)
    if "pieces" in method.needs:
        letters = ["a", " b", ".", "\n", "", "12", "=", "#", " let's try"]
        chosen = torch.randint(len(letters), (rows, width), generator=source).tolist()
        context.pieces = [[letters[i] if own else "" for i, own in zip(*pair, strict=True)] for pair in
                          zip(chosen, response.tolist(), strict=True)]  # fmt: skip
    visible = token.unsqueeze(2) & token.unsqueeze(1) & torch.ones(width, width, dtype=torch.bool).tril()
    logits = 2.0 * torch.randn(2, rows, heads, width, width, generator=source)
    fill(method, context, [layer.masked_fill(~visible.unsqueeze(1), -1e9).softmax(-1) * visible.unsqueeze(1)
                           for layer in logits])  # fmt: skip
    return method, context


def fill(method, context, layers):
    """Feeds per-head probabilities (B, H, T, T) of each layer to the method's own reading."""
    reading = method.reading()
    if reading is None:
        return
    reading.begin(context.prompt | context.response, len(layers))
    for probabilities in layers:
        reading.add(slice(0, len(probabilities)), 0, probabilities)
        reading.end_layer()
    setattr(context, reading.fills, reading.finish(padded=True))


def rearranged(context, change):
    """The context with `change` applied to every tensor and list of rows in it."""
    values = {}
    for name, value in vars(context).items():
        if isinstance(value, HeadVectors):
            value = HeadVectors(*(change(part) for part in vars(value).values()))
        elif isinstance(value, (torch.Tensor, list)):
            value = change(value)
        values[name] = value
    return replace(context, **{**values, "abstentions": {}})


def ten(name, rows=1, **fields):
    """A context of one prompt token and ten response tokens a row, with the given fields (ten values, or tensors)."""
    column = torch.arange(11).expand(rows, 11)
    context = CreditContext(
        token_ids=column.clone(),
        prompt=column == 0,
        response=column > 0,
        source=column == 0,
        answer=column == 10,
        advantage=torch.ones(rows),
        reward=torch.ones(rows),
        group=torch.zeros(rows, dtype=torch.long),
        streams=list(range(rows)),
    )
    for field, value in fields.items():
        if isinstance(value, list) and len(value) == 10:
            value = torch.tensor([[0.0, *value]] * rows)
        setattr(context, field, value)
    return context


def answer_row(values):
    """A map in which the tenth response token attends to the ten with these weights."""
    capacity = torch.zeros(1, 11, 11)
    capacity[0, 10, 1:] = torch.tensor(values)
    return capacity


def chain():
    capacity = torch.zeros(1, 11, 11)
    for k in range(1, 11):
        capacity[0, k, k - 1] = 0.5
    return capacity


def heads(reach=None, influence=None):
    """One head's vectors, of a prompt token and the response's."""
    vectors = [torch.zeros(1, 1, 1 + len(reach or influence)) for _ in range(3)]
    for vector, values in ((vectors[0], reach), (vectors[2], influence)):
        if values is not None:
            vector[0, 0, 1:] = torch.tensor(values)
    return HeadVectors(*vectors)


def first_decisive():
    return torch.arange(11).unsqueeze(0) == 1


TAU = [0.2, 0.9, 0.1, 0.9, 0.3, 0.0, 0.4, 0.8, 2.0, 0.0]

BONUS_ENTROPIES = [0.0, 2.0, 0.1, 1.0, 0.5, 0.0, 1.0, 0.0, 1.25, 0.25]
