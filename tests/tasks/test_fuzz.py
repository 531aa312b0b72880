"""Hostile texts against every verifier: no hang past the deadline, no crash, no code executed, no lucky reward."""

import json
import random
import time

import pytest

import tasks
from tasks.verify import pool as pools

GOLDS = {
    "gsm8k": 987654321,
    "arithmetic": 987654321,
    "countdown": {"numbers": [97, 89, 83, 79], "target": 98765},
    "math500": "\\frac{987654321}{1234567}",
    "olympiadbench": ["$987654321$, $123456789$"],
    "minerva": "987654321 e^{-t}",
    "crossthink": "B",
    "aime24": 987,
    "decision": "H",
}
ATOMS = [
    "{",
    "}",
    "\\{",
    "(",
    ")",
    "[",
    "]",
    "\\left(",
    "\\frac",
    "\\sqrt",
    "\\boxed{",
    "\\boxed",
    "####",
    "#",
    "^",
    "_",
    "^{",
    "_{",
    "9^9^9",
    "9^{9^{9^{9}}}",
    "10^{10^{10}}",
    "1e999999",
    "(10^9)!",
    "!",
    "!!",
    "\\binom{10^9}{10^8}",
    "\\sum_{k=1}^{10^{12}}",
    "\\int_0^1",
    "\\begin{pmatrix}",
    "\\\\",
    "&",
    "\\end{pmatrix}",
    "\\pm",
    "\\cup",
    "\\in",
    "\\le",
    "<",
    "=",
    "==",
    "x",
    "n",
    "i",
    "e",
    "\\pi",
    "0",
    "1",
    "7",
    "42",
    "-",
    "+",
    "*",
    "/",
    "**",
    "//",
    ",",
    ";",
    ".",
    "%",
    "\\%",
    "$",
    "\\$",
    " ",
    "\n",
    "\t",
    "\0",
    "\ue000",
    "\u202e",
    "٤",
    "４",
    "½",
    "²",
    "e\u0301",
    "\U0001d7db",
    "\\text{",
    "\\mathrm{~m}",
    "and",
    "or",
    "answer is",
    "lambda: 0",
    "\\infty",
    "\\ln",
    "\\sin^{-1}",
    "\\lim_{x\\to 0}",
    "\\frac{1}{0}",
    "0/0",
    "x^x^x",
    "\\operatorname{exec}",
    "f(f(f(",
    "|",
    "\\|",
    "\\lfloor",
    "\\rceil",
    "\\input{/etc/passwd}",
    "<answer>",
    "</answer>",
    "<|im_end|>",
    "%s%n",
    "\\verb|",
    "\\newcommand{\\a}{\\a\\a}",
    "NaN",
    "None",
    "True",
]


def hostile(source: random.Random, sentinel: str) -> str:
    kind = source.randrange(12)
    atoms = [source.choice(ATOMS) for _ in range(source.randint(1, 14))]
    if kind == 0:
        text = source.choice(ATOMS) * source.choice([10, 100, 1000, 20_000])
    elif kind == 1:
        depth = source.choice([5, 30, 300, 5000])
        opener, closer = source.choice(
            [("(", ")"), ("{", "}"), ("\\frac{1}{", "}"), ("\\sqrt{", "}"), ("\\left(", "\\right)")]
        )
        text = opener * depth + "1" + closer * (depth - source.randint(0, 1))
    elif kind == 2:
        text = f"__import__('os').system('touch {sentinel}')"
    elif kind == 3:
        text = f"open('{sentinel}', 'w')" + "".join(atoms)
    elif kind == 4:
        text = "".join(
            chr(source.choice([source.randrange(32, 127), source.randrange(0x110000 - 1)])) for _ in range(60)
        )
        text = text.encode("utf-8", "replace").decode()
    elif kind == 5:
        text = str(source.randrange(10**6)) * source.choice([1, 50, 3000])
    elif kind == 6:
        text = ",".join(atoms * source.choice([1, 20]))
    elif kind == 7:
        text = "+".join(
            f"{source.randrange(99)}^{{{source.randrange(10 ** source.randint(1, 12))}}}" for _ in range(4)
        )
    else:
        text = "".join(atoms)
    marker = source.randrange(5)
    if marker < 3:
        text = f"\\boxed{{{text}}}"
    elif marker == 3:
        text = f"#### {text}"
    if source.random() < 0.002:
        text = "x" * 3_000_000 + text
    return text


def run(count: int, tmp_path, monkeypatch) -> dict[str, int]:
    limited = pools.Pool(workers=1, deadline=0.6)
    monkeypatch.setattr("tasks.verify.answers.shared", lambda: limited)
    sentinel = tmp_path / "executed"
    source = random.Random("fuzz")
    problems = [
        (task, task.problem_from("What percent?", gold))
        for task, gold in ((tasks.get(n), g) for n, g in GOLDS.items())
    ]
    verdicts: dict[str, int] = {}
    slowest, longest = (0.0, ""), (0.0, "")
    try:
        for _ in range(count):
            text = hostile(source, str(sentinel))
            task, problem = source.choice(problems)
            started, worked = time.monotonic(), time.process_time()
            verdict = task.verify(problem, text, source.choice(["stop", "length", None]))
            shown = f"{task.name}: {text[:200]!r}"
            slowest = max(slowest, (time.monotonic() - started, shown))
            longest = max(longest, (time.process_time() - worked, shown))
            verdicts[verdict] = verdicts.get(verdict, 0) + 1
            assert verdict != "error", (task.name, text[:300])
            if verdict == "correct":
                assert task.name == "crossthink", (task.name, text[:300])
    finally:
        limited.close()
    assert longest[0] < 4, f"in this process: {longest}"
    assert slowest[0] < limited.deadline + 30, slowest  # a busy machine may add the 30
    assert not sentinel.exists()
    return verdicts


def test_hostile_texts(tmp_path, monkeypatch):
    verdicts = run(600, tmp_path, monkeypatch)
    assert verdicts["wrong"] > 100
    assert verdicts["no_answer"] > 50


@pytest.mark.fuzz
def test_ten_thousand_hostile_texts(tmp_path, monkeypatch, record_property):
    verdicts = run(10_000, tmp_path, monkeypatch)
    record_property("verdicts", json.dumps(verdicts))
    print(json.dumps(verdicts))
