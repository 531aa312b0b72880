"""An untrained policy for the task graph, and responses to it that are written by hand."""

import torch

from harness import pretrain
from harness.engines.base import Sample
from harness.policy import Policy, character_tokenizer
from harness.studies import edges
from tasks.graph import System

QUESTION = "b=a+3;d=c*2;a=4;c=b+a;e=a*7?d"
RIGHT = "a=4;b=a+3=4+3=7;e=a*7=4*7=8;c=b+a=7+4=1;d=c*2=1*2=2#2"
#: c guesses b, d is wrong for it, and e is useless.
WRONG = "a=4;e=a*7=4*7=8;c=b+a=0+4=4;d=c*2=4*2=8#8"


def untrained(layers=3):
    """A policy of random weights that reads the task's characters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        recipe = pretrain.Recipe(
            task="graph", alphabet="abcdefgh0123456789+*=;#?", layers=layers, width=16, inner_width=16, heads=2,
            groups=1, context=96, max_new_tokens=60, steps=1, batch=1, learning_rate=1.0, head_width=8,
        )  # fmt: skip
        tokenizer = character_tokenizer(recipe.alphabet)
        return Policy(pretrain._fresh(recipe, tokenizer).eval(), tokenizer)


def response(policy, task, text, number=0, question=QUESTION):
    """A response as if the policy had written it."""
    problem = task.problem_from(question, System(question).value(question[-1]))
    ids = policy.tokenizer(text).input_ids + [policy.tokenizer.eos_token_id]
    written = Sample(ids, [0.0] * len(ids), "stop", text)
    return edges._response(policy, task, problem, number, policy.encode(question), written)
