"""Dumb rules that could find the deciding token of a testbed, measured: `python -m harness.shortcuts [NAME ...]`.

A rule scores each token of a response by its position, its letter, its neighbours or the policy's distribution there,
and never knows the place that the prompt names. Rules that know the task stand below them, to show what they find:
they are kin of the oracle, and nobody has them on a task of which less is known.

A rule's figure is the chance that the deciding token scores higher than another token of its response, ties half (the
area under the ROC curve): 0.5 says nothing, above and below is a shortcut alike. The others are either the letters that
chance draws (there every rule should be at 0.5) or all tokens of the response: the ones that the warm start fixes
(head, `#`, answer, end) are told apart by their class, which says nothing of where the decision stands, and their
gradient is nil, because their probability is one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from harness import seeds
from harness.engines.base import Sample, Sampling
from harness.engines.keyed import sample
from harness.policy import Policy, load_policy
from leaderboards.names import hint
from tasks.decision import CODE, LETTERS, PLACES, Decision

#: A rule of the text: prompt and response to a score of every token, the end token counted.
Rule = Callable[[str, str], Sequence[float]]
RESPONSES = 2048


def _share(part: int, parts: int) -> Rule:
    """1 in one of so many equal parts of a response, 0 elsewhere."""
    return lambda prompt, text: [float(at * parts // (len(text) + 1) == part) for at in range(len(text) + 1)]


def _letter(letter: str) -> Rule:
    return lambda prompt, text: [float(token == letter) for token in text] + [0.0]


RULES: Mapping[str, Rule] = {
    "early": lambda prompt, text: [-float(at) for at in range(len(text) + 1)],
    "near the middle": lambda prompt, text: [-abs(2.0 * at - len(text)) for at in range(len(text) + 1)],
    "even position": lambda prompt, text: [float(at % 2 == 0) for at in range(len(text) + 1)],
    **{f"part {part + 1} of 5": _share(part, 5) for part in range(5)},
    **{f"letter {letter}": _letter(letter) for letter in LETTERS},
    "frequent in the response": lambda prompt, text: [float(text.count(token)) for token in text] + [1.0],
    "frequent, capitals too": lambda prompt, text: (
        [float(text.lower().count(token.lower())) for token in text] + [1.0]
    ),
    "occurred before": lambda prompt, text: (
        [float(token in text[:at]) for at, token in enumerate(text)] + [0.0]
    ),
    "stands in the prompt": lambda prompt, text: [float(token in prompt) for token in text] + [0.0],
    "repeats the token before": lambda prompt, text: (
        [float(text[at] == text[at - 1]) for at in range(1, len(text))] + [0.0, 0.0]
    ),
    "before it occurred before": lambda prompt, text: [
        float(at > 0 and text[at - 1] in text[: at - 1]) for at in range(len(text) + 1)
    ],
    "before it stands in the prompt": lambda prompt, text: [
        float(at > 0 and text[at - 1] in prompt) for at in range(len(text) + 1)
    ],
    "after the head": lambda prompt, text: [
        float(text[max(0, at - 2) : at - 1] in PLACES + "?" and at > 3) for at in range(len(text) + 1)
    ],
    "before a delimiter": lambda prompt, text: (
        [float(token in "#" + PLACES) for token in text[1:]] + [0.0, 0.0]
    ),
    "before it early in the alphabet": lambda prompt, text: [
        -float(ord(text[at - 1])) if at else 0.0 for at in range(len(text) + 1)
    ],
}

#: Rules that read no model, but know how the task is made.
READERS: Mapping[str, Rule] = {
    "knows the code: it stands for a letter of the answer": lambda prompt, text: (
        [float(CODE.get(token, "?") in text) for token in text] + [0.0]
    ),
}


def area(scores: Sequence[float], decisive: int, among: Sequence[int]) -> float:
    """The chance that token `decisive` scores higher than another of `among`, ties half."""
    others = np.asarray([scores[at] for at in among if at != decisive])
    return float(np.mean(others < scores[decisive]) + np.mean(others == scores[decisive]) / 2)


def areas(
    task: Decision, scored: Sequence[tuple[str, Mapping[str, Sequence[float]]]]
) -> dict[str, tuple[float, float]]:
    """Rule -> its area among the drawn letters, and among all tokens; means over deciding tokens.

    scored: each response's text, and each rule's score of every token of it. A response without a deciding token is
    left out.
    """
    collected: dict[str, list[tuple[float, float]]] = {}
    for text, rules in scored:
        for at, _ in task.decisive(text) or ():
            for name, scores in rules.items():
                pair = area(scores, at, task.drawn(text)), area(scores, at, range(len(scores)))
                collected.setdefault(name, []).append(pair)
    means = {name: np.mean(pairs, axis=0) for name, pairs in collected.items()}
    return {name: (float(drawn), float(whole)) for name, (drawn, whole) in means.items()}


def rules_of_text(prompt: str, text: str, rules: Mapping[str, Rule] = RULES) -> dict[str, Sequence[float]]:
    """Every rule's score of every token of a response, the end token counted."""
    return {name: rule(prompt, text) for name, rule in rules.items()}


def responses(
    policy: Policy, task: Decision, count: int = RESPONSES, batch: int = 256
) -> list[tuple[str, Sample]]:
    """`count` samples of a policy on a task's training problems, with their prompts; only those in its format."""
    problems = list(task.problems("train"))
    sampling = Sampling(task.longest)
    asked = [problems[index % len(problems)] for index in range(count)]
    pairs: list[tuple[str, Sample]] = []
    for start in range(0, count, batch):
        part = asked[start : start + batch]
        keys = [seeds.key("shortcuts", problem.id, start + row) for row, problem in enumerate(part)]
        prompts = [policy.encode(problem.question) for problem in part]
        samples = sample(policy.model, policy.tokenizer, prompts, keys, sampling)
        pairs += [(problem.question, answer) for problem, answer in zip(part, samples, strict=True)]
    return [(prompt, answer) for prompt, answer in pairs if task.extract(answer.text) is not None]


def rules_of_policy(policy: Policy, prompt: str, answer: Sample) -> dict[str, Sequence[float]]:
    """Entropy of the policy's distribution at each token of a response, and the token's probability."""
    before = policy.encode(prompt)
    with torch.no_grad():
        model: Any = policy.model
        logits = model(torch.tensor([before + list(answer.ids)])).logits[0, len(before) - 1 : -1]
    logprobs = torch.log_softmax(logits.double(), dim=-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    chosen = logprobs.gather(1, torch.tensor(answer.ids)[:, None])[:, 0]
    return {"entropy": entropy.tolist(), "probability": chosen.tolist()}


def measure(policy: Policy, task: Decision, count: int = RESPONSES) -> dict[str, tuple[float, float]]:
    """Every rule's areas on `count` samples of a policy, those that know the task last."""
    scored = []
    for prompt, answer in responses(policy, task, count):
        of_text = rules_of_text(prompt, answer.text)
        of_policy = rules_of_policy(policy, prompt, answer)
        scored.append((answer.text, of_text | of_policy | rules_of_text(prompt, answer.text, READERS)))
    return areas(task, scored)


#: The shipped policies that can be measured, and their task's options.
POLICIES: Mapping[str, Mapping[str, Any]] = {
    "decision": {},
    "decision-decoy": {"variant": "decoy"},
    "decision-chain": {"variant": "chain"},
    "decision-5": {"places": 5},
    "decision-20": {"places": 20},
}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: a table for each name."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.shortcuts", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(POLICIES)}; default: all")
    for name in parser.parse_args(arguments).names or list(POLICIES):
        if name not in POLICIES:
            print(f"error: no testbed {name!r} is measured; {hint(name, POLICIES)}", file=sys.stderr)
            raise SystemExit(2)
        measured = measure(load_policy(name), Decision(**POLICIES[name]))
        print(f"{name}\n\n| rule | among drawn letters | among all tokens |\n|---|--:|--:|")
        for rule, (among, whole) in measured.items():
            print(f"| {rule} | {among:.3f} | {whole:.3f} |")


if __name__ == "__main__":
    main()
