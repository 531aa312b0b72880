"""The pool of killable workers: no input outlasts its deadline, dead workers are replaced, and no process is left
behind.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import tasks
from tasks.verify import answers
from tasks.verify.pool import MEMORY, Pool

ROOT = Path(tasks.__file__).parents[1]
#: Seconds that a busy machine may add to a limit; without the limit the wait has no end.
BUSY = 30.0


@pytest.fixture
def pool():
    made = Pool(workers=2, deadline=1.0)
    yield made
    made.close()


def alive(process):
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def gone(processes, seconds=BUSY):
    until = time.monotonic() + seconds
    while any(map(alive, processes)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(alive, processes))


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9^{9}}}",
        "(10^{9})!",
        "\\binom{10^{9}}{5 \\cdot 10^{8}}",
        "2^{10^{11}}",
        "\\sum_{k=1}^{10^{12}} \\sin(k)",
        "\\int_0^{1} \\sin(x^{x^{x}}) e^{x^7} dx",
        "\\prod_{k=1}^{10^{10}} k",
        "((((((((((2^{9})^{9})^{9})^{9})^{9})^{9})^{9})^{9})^{9})^{9})^{9}",
    ],
)
def test_an_answer_that_hangs_its_verifier_earns_nothing_and_not_later_than_the_deadline(pool, answer):
    assert answers.judge("\\sqrt{2}", "\\sqrt{8}/2", pool=pool) == "correct"
    started = time.monotonic()
    verdict = answers.judge("5", answer, pool=pool)
    assert time.monotonic() - started < pool.deadline + BUSY
    assert verdict in ("timeout", "wrong")
    assert tasks.reward_of(verdict) == 0
    assert answers.judge("\\sqrt{3}", "\\sqrt{12}/2", pool=pool) == "correct"


def test_many_slow_pieces_share_one_deadline(pool):
    """Against the time that one piece takes here and now: the machine may be busy."""

    def seconds(pieces):
        hanging = ", ".join(f"9^{{9^{{9^{{{n}}}}}}}" for n in range(2, 2 + pieces))
        started = time.monotonic()
        assert answers.judge(", ".join(map(str, range(pieces))), hanging, pool=pool) == "timeout"
        return time.monotonic() - started

    assert seconds(10) < 3 * max(seconds(1), seconds(1)) + 2


def test_memory_and_processor_time_are_limited(pool):
    pool.compare("value", "\\sqrt{2}", "\\sqrt{8}/2", {}, 5.0)
    limits = Path(f"/proc/{pool.processes()[-1]}/limits").read_text()
    assert f"Max address space         {MEMORY} " in limits
    (seconds,) = [line.split()[3] for line in limits.splitlines() if line.startswith("Max cpu time")]
    assert int(seconds) < 20
    assert pool.compare("value", "1", "2^{10^{11}}-2^{10^{11}}+1", {}, 5.0)[0] in ("timeout", "different")
    assert pool.compare("value", "\\sqrt{2}", "\\sqrt{18}/3", {}, 5.0)[0] == "same"


def test_killed_workers_and_a_killed_template_are_replaced(pool):
    for number in range(2, 5):
        assert pool.compare("value", f"\\sqrt{{{number}}}", f"\\sqrt{{{4 * number}}}/2", {}, 5.0)[0] == "same"
        template, *workers = pool.processes()
        assert workers
        for process in workers if number % 2 else [template]:
            os.kill(process, signal.SIGKILL)
        assert gone(workers)
    assert pool.compare("value", "\\sqrt{7}", "7/\\sqrt{7}", {}, 5.0)[0] == "same"


def test_workers_are_replaced_after_their_lifetime(pool, monkeypatch):
    monkeypatch.setattr("tasks.verify.pool.LIFETIME", 2)
    seen = set()
    for number in range(2, 8):
        assert pool.compare("value", f"\\sqrt{{{number}}}", f"\\sqrt{{{9 * number}}}/3", {}, 5.0)[0] == "same"
        seen.update(pool.processes())
    assert len(seen) > 2


def test_threads_share_the_pool(pool):
    found = []

    def check(number):
        found.append(pool.compare("value", f"\\sqrt{{{number}}}", f"\\sqrt{{{4 * number}}}/2", {}, 10.0)[0])

    threads = [threading.Thread(target=check, args=(number,)) for number in range(2, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["same"] * 8
    assert len(pool.processes()) <= 3


def test_close_ends_every_process_and_the_pool_starts_again(pool):
    pool.compare("value", "\\sqrt{2}", "\\sqrt{8}/2", {}, 5.0)
    processes = pool.processes()
    assert len(processes) == 2
    pool.close()
    assert pool.processes() == []
    assert gone(processes)
    assert pool.compare("value", "\\sqrt{5}", "\\sqrt{20}/2", {}, 5.0)[0] == "same"


SCRIPT = """
import os, sys, threading, time
sys.path.insert(0, {root!r})
import tasks
from tasks.verify.pool import shared
task = tasks.get("math500")
problem = task.problem_from("q", "\\\\sqrt{{2}}")
assert task.verify(problem, "\\\\boxed{{\\\\sqrt{{8}}/2}}") == "correct"
threading.Thread(target=lambda: task.verify(problem, "\\\\boxed{{9^{{9^{{9^9}}}}}}"), daemon=True).start()
time.sleep(0.5)
print(*shared().processes(), flush=True)
{end}
"""


@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), 9)", "raise SystemExit(3)", "1/0"])
def test_no_process_outlives_the_program(tmp_path, end):
    """A plain script without a main guard; it ends, fails or is killed while a worker is busy."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(root=str(ROOT), end=end))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    processes = [int(word) for word in done.stdout.split()]
    assert len(processes) >= 2, done.stderr
    assert gone(processes)


def test_a_forked_process_gets_a_pool_of_its_own():
    task = tasks.get("math500")
    problem = task.problem_from("q", "\\sqrt{2}")
    assert task.verify(problem, "\\boxed{\\sqrt{8}/2}") == "correct"
    child = os.fork()
    if child == 0:
        good = task.verify(problem, "\\boxed{\\sqrt{18}/3}") == "correct"
        from tasks.verify.pool import shared

        shared().close()
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert task.verify(problem, "\\boxed{\\sqrt{32}/4}") == "correct"


def test_a_step_of_hanging_rollouts_ends_in_time(monkeypatch):
    made = Pool(workers=2, deadline=0.5)
    monkeypatch.setattr("tasks.verify.answers.shared", lambda: made)
    task = tasks.get("math500")
    problem = task.problem_from("q", "5")
    items = [(problem, f"\\boxed{{9^{{9^{{9^{{{n}}}}}}}}}", "stop") for n in range(3, 60)]
    items += [(problem, "no answer", "length"), (problem, "\\boxed{5}", "stop")]
    try:
        started = time.monotonic()
        verdicts = task.verify_all(items[-2:] + items, seconds=2.0)
        assert time.monotonic() - started < 2.0 + BUSY
    finally:
        made.close()
    assert verdicts[:2] == ["truncated", "correct"]
    assert set(verdicts[2:-2]) == {"timeout"}
