"""evaluate, trace and serve: one policy."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from harness.commands.shared import (
    POLICIES,
    Bars,
    Commands,
    add_dtype,
    add_policy,
    add_policy_options,
    add_problems,
    add_response_limit,
    add_server,
    add_task,
    at_least,
    closing,
    command,
    console,
    of_kind,
    output,
    policy_named,
    response_limit,
    same,
    status,
    task_named,
    task_table,
    write,
)
from harness.engines.base import ENGINES, TRANSFORMERS, VLLM, EngineChoice, Sampling
from harness.errors import ExperimentError

#: A test problem of a generated task that the default policy of `trace` solves, in ten tokens.
SOLVED = ("sums", 1)


def add(commands: Commands) -> None:
    """Adds these commands."""
    _add_evaluate(commands)
    _add_trace(commands)
    _add_serve(commands)


def _add_evaluate(commands: Commands) -> None:
    added = command(
        commands, "evaluate", _evaluate, "Ask a policy a task's test problems and print the verdicts."
    )
    add_policy(added)
    add_task(added, "a task, NAME or NAME:OPTION=VALUE, decision:variant=chain for one")
    add_problems(added, "test split")
    added.add_argument(
        "--samples", type=at_least(1), metavar="K", help="samples a problem (default: the task's own)"
    )
    added.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default: 1)")
    add_response_limit(added)
    added.add_argument(
        "--batch-size",
        type=at_least(1),
        metavar="N",
        help="responses sampled at once (default: 32; 256 by vllm, which takes as many as fit)",
    )
    added.add_argument(
        "--engine", choices=ENGINES, default=TRANSFORMERS, help=f"what samples (default: {TRANSFORMERS})"
    )
    add_policy_options(added)
    add_server(added)
    added.add_argument(
        "--out",
        type=output,
        metavar="FILE",
        help="keep each finished sample in FILE, a JSON line each; the same command again goes on from there",
    )


def _add_trace(commands: Commands) -> None:
    added = command(
        commands,
        "trace",
        _trace,
        "Show how much of the flow from the question to the answer passes through each token of one response.",
    )
    policy = added.add_argument(
        "--policy", help="policy name, folder or hub id (default: smollm2-135m-instruct)"
    )
    of_kind(policy, POLICIES)
    add_task(
        added,
        "task that asks and finds the answer, NAME or NAME:OPTION=VALUE (default: gsm8k; with nothing given a sum, "
        "which needs no data set)",
        "--task",
    )
    added.add_argument(
        "--from",
        dest="place",
        type=Path,
        metavar="PLACE",
        help="trace a response of recorded runs, or of files that TRL (completions_*.parquet) or verl (*.jsonl) wrote",
    )
    added.add_argument(
        "--row",
        type=at_least(0),
        metavar="N",
        help="which response of PLACE, in its order (default: 0)",
    )
    added.add_argument(
        "--problem", type=at_least(0), metavar="N", help="number of the test problem to answer (default: 0)"
    )
    added.add_argument("--question", help="ask this instead of a test problem")
    added.add_argument("--response", help="trace this response instead of sampling one (greedily)")
    added.add_argument(
        "--layers",
        default="middle",
        help="layers whose attention is read: early, middle, late, all or 15-25 (default: middle)",
    )
    add_response_limit(added)
    add_policy_options(added)
    added.add_argument("--html", type=output, metavar="FILE", help="also write a page for the browser")


def _add_serve(commands: Commands) -> None:
    added = command(
        commands,
        "serve",
        _serve,
        "Start a vLLM server for a policy, on GPUs of its own; other commands sample from it by --server.",
    )
    add_policy(added, "policy name, folder or hub id; it serves every policy of the same architecture")
    add_dtype(added)
    added.add_argument(
        "--context",
        type=at_least(1),
        metavar="N",
        help="tokens of the longest prompt and its response together (default: the policy's)",
    )
    added.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine only)"
    )
    added.add_argument("--port", type=at_least(1), default=8000, help="default: 8000")
    added.add_argument(
        "--vllm",
        action="append",
        default=[],
        metavar="OPTION",
        help="a further option for `vllm serve`, as --vllm=--tensor-parallel-size=2; may be given several times",
    )


def _serve(options: argparse.Namespace) -> int:
    from harness.engines.server import serve

    serve(options.policy, options.dtype, options.context, options.host, options.port, options.vllm)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from collections import Counter

    import tasks
    from harness.engines import choice
    from harness.journal import Journal
    from harness.runs.evaluate import accuracy, evaluate

    engine = EngineChoice(options.engine, options.server, options.dtype)
    choice.check(engine)
    task = task_named(options.task)
    problems = task.problems("test", options.problems)
    policy = policy_named(options.policy, options)
    longest = max(len(policy.encode(task.prompt(problem))) for problem in problems)
    samples, batch_size = options.samples, options.batch_size
    if samples is None:
        samples = 1 if options.temperature == 0 else task.samples
    if batch_size is None:
        batch_size = 256 if options.engine == VLLM else 32
    tokens = response_limit(options.max_response_tokens, policy, longest)
    journal = Journal() if options.out is None else Journal(options.out, _identity(options, policy, tokens))
    with Bars("", lines=False) as progress:
        progress.begin(len(problems) * samples, 0)
        try:
            rows = evaluate(
                policy,
                task,
                problems,
                Sampling(tokens, options.temperature),
                samples=samples,
                batch_size=batch_size,
                engine=engine,
                progress=progress.at,
                journal=journal,
            )
        finally:
            journal.close()
    counts = Counter(row["verdict"] for row in rows)
    screen = console()
    title = f"{options.policy} on {task.name}: {len(problems)} problems, {samples} samples each"
    screen.print(title, highlight=False, markup=False)
    screen.print(f"accuracy {accuracy(rows):.4f}", highlight=False)
    for line in _error_bars(rows, samples):
        screen.print(f"  {line}", highlight=False)
    for verdict in tasks.Verdict:
        screen.print(f"  {verdict:<10} {counts.get(verdict, 0)}", highlight=False)
    if options.out is None:
        closing(None, same(options, "--out", "samples.jsonl"))
    else:
        closing(options.out, shlex.join(["flowtracer", "compare-policies", str(options.out), "OTHER.jsonl"]))
    return 0


def _identity(options: argparse.Namespace, policy: Any, tokens: int) -> dict[str, Any]:
    """The properties that all samples of one file share."""
    from harness.runs.checkpoints import parameters_hash

    return {
        "policy": parameters_hash(policy.model),
        "task": options.task,
        "temperature": options.temperature,
        "max_response_tokens": tokens,
        "engine": options.engine,
        # Only where they were given: files of before there were such options go on.
        **{name: getattr(options, name) for name in ("chat", "system") if getattr(options, name) is not None},
    }


def _error_bars(rows: list[dict[str, Any]], samples: int) -> list[str]:
    """The accuracy's two error bars, in words; rows are ordered by problem."""
    from leaderboards.estimates import average_at_k

    rewards = [row["reward"] for row in rows]
    if None in rewards:
        return [f"no error bars: {rewards.count(None)} samples could not be judged"]
    table = [rewards[first : first + samples] for first in range(0, len(rewards), samples)]
    estimate = average_at_k(table)
    bars = {
        "these problems, sampled again": estimate.decoding,
        "new problems of this kind": estimate.problems,
    }
    return [f"{bar[0]:.4f} to {bar[1]:.4f} (95%): {what}" for what, bar in bars.items() if bar is not None]


class _OrLastToken:
    """Where a task finds the answer; in a text in which it finds none, the last token that is no blank."""

    def __init__(self, task: Any) -> None:
        self.task = task
        self.name = task.name
        self.missed = False

    def extract(self, text: str) -> tuple[int, int] | None:
        span: tuple[int, int] | None = self.task.extract(text)
        end = len(text.rstrip())
        if span is not None or not end:
            return span
        self.missed = True
        return end - 1, end

    def decisive(self, text: str) -> Any:
        return self.task.decisive(text)

    @property
    def heading(self) -> str:
        """The line above a trace that follows no answer; empty above others."""
        if not self.missed:
            return ""
        return f"no answer found (task {self.name}): the flow below is that to the last token, no credit for an answer"


def _trace(options: argparse.Namespace) -> int:
    _check_trace(options)
    if options.place is not None:
        return _trace_given(options)
    if all(getattr(options, name) is None for name in ("policy", "task", "question", "problem")):
        options.task, options.problem = SOLVED
    options.policy = options.policy or "smollm2-135m-instruct"
    options.task, options.problem = options.task or "gsm8k", options.problem or 0
    return _trace_sampled(options)


def _check_trace(options: argparse.Namespace) -> None:
    """Raises ExperimentError for options that nothing would come of."""
    if options.place is not None:
        for name in ("question", "response", "problem", "max_response_tokens"):
            if getattr(options, name) is not None:
                raise ExperimentError(
                    f"--{name.replace('_', '-')} does not go with --from, which holds question and response; leave out "
                    "one of the two"
                )
    elif options.row is not None:
        raise ExperimentError(f"--row {options.row} goes with --from PLACE, whose responses it counts")
    if options.question is not None and options.problem is not None:
        raise ExperimentError(
            f"--problem {options.problem} asks a test problem, and --question another; leave out one of the two"
        )
    if options.response is not None and options.max_response_tokens is not None:
        raise ExperimentError(
            "--max-response-tokens is for a response that is sampled, and --response gives one; leave out one of them"
        )


def _trace_given(options: argparse.Namespace) -> int:
    """Traces a response that somebody recorded."""
    from flowtracer import trace
    from harness.experiment import task_of
    from harness.policy import to_gpu
    from harness.studies import given as givens

    def named(experiment: Any, name: str) -> Any:
        return policy_named(name, options)

    table = None if options.task is None else task_table(options.task)
    number = options.row or 0
    given = givens.read(options.place, number + 1, options.policy, table, named)
    rows = [row for batch in given.batches for row in batch]
    if number >= len(rows):
        raise ExperimentError(f"--row {number}: {options.place} gives rows 0 to {len(rows) - 1}")
    row = rows[number]
    policy = to_gpu(given.policy)
    ids = list(row["prompt_ids"]), list(row["response_ids"])
    judged = _OrLastToken(task_of(given.experiment.task))
    with status("tracing it"):
        traced = trace(policy.model, policy.tokenizer, *ids, layers=options.layers, task=judged)
    screen = console()
    title = f"{given.experiment.policy.name}, row {number} {given.source}, step {row['step']}"
    screen.print(title, markup=False, highlight=False)
    screen.print(row["question"], markup=False, highlight=False)
    screen.print(f"\nreward: {row['reward']} ({len(ids[1])} tokens, {row['verdict']})\n", highlight=False)
    for line in given.lacks:
        screen.print(line, style="dim", markup=False, highlight=False)
    return _show_trace(options, screen, traced, judged.heading)


def _show_trace(options: argparse.Namespace, screen: Any, traced: Any, heading: str) -> int:
    """Prints a trace, and writes its page where one is asked for."""
    if heading:
        screen.print(heading, style="bold yellow", markup=False, highlight=False)
    screen.print(traced.to_terminal(screen.width))
    if options.html is not None:
        write(options.html, traced.to_html())
    else:
        closing(None, same(options, "--html", "trace.html"))
    return 0


def _trace_sampled(options: argparse.Namespace) -> int:
    """Traces the answer to a question, sampled or given."""
    import tasks
    from flowtracer import trace
    from harness import seeds
    from harness.engines.keyed import sample
    from harness.policy import to_gpu

    task = task_named(options.task)
    if options.question is None:
        problems = task.problems("test", options.problem + 1)
        if options.problem >= len(problems):
            raise ExperimentError(
                f"--problem {options.problem}: the test split has problems 0 to {len(problems) - 1}"
            )
        problem = problems[options.problem]
    else:
        problem = tasks.Problem(id=f"{task.name}/given", question=options.question, gold=None)
    policy = to_gpu(policy_named(options.policy, options))
    prompt_ids = policy.encode(task.prompt(problem))
    if options.response is None:
        key = seeds.key("evaluation", task.name, problem.id, 0)
        with status("sampling a response"):
            answer = sample(
                policy.model,
                policy.tokenizer,
                [prompt_ids],
                [key],
                Sampling(
                    response_limit(options.max_response_tokens, policy, len(prompt_ids)), temperature=0.0
                ),
            )[0]
        response_ids, text, reason = answer.ids, answer.text, answer.finish_reason
    else:
        response_ids = policy.tokenizer(options.response, add_special_tokens=False).input_ids
        text, reason = options.response, "stop"
    layers, judged = options.layers, _OrLastToken(task)
    with status("tracing it"):
        traced = trace(policy.model, policy.tokenizer, prompt_ids, response_ids, layers=layers, task=judged)
    screen = console()
    screen.print(f"{options.policy} on {problem.id}", markup=False, highlight=False)
    screen.print(problem.question, markup=False, highlight=False)
    if problem.gold is not None:
        verdict = task.verify(problem, text, reason)
        screen.print(f"\nverdict: {verdict} ({len(response_ids)} tokens, {reason})\n", highlight=False)
    return _show_trace(options, screen, traced, judged.heading)
