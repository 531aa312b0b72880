"""The task of the README, from a file outside the package: about forty lines, and everything works with it."""

import re
import subprocess
import sys
from pathlib import Path

import tasks

README = Path(tasks.__file__).with_name("README.md")

USE = """
import roman, tasks
from tasks.validate import validate
task = tasks.get("roman")
assert "roman" in tasks.names()
problem = task.problems("test", limit=1)[0]
assert task.verify(problem, "\\\\boxed{" + problem.gold + "}") == "correct"
assert task.verify(problem, "\\\\boxed{Q}") == "wrong"
assert task.verify(problem, "Q", "length") == "truncated"
assert all(found.passed for found in validate(task))
assert tasks.get("gsm8k").extract("... \\\\boxed{18}") == (11, 13)
print("fine")
"""


def test_a_task_of_your_own(tmp_path):
    code = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1]
    assert len(code.splitlines()) <= 45
    (tmp_path / "roman.py").write_text(code)
    (tmp_path / "use.py").write_text(f"import sys; sys.path.append({str(README.parents[1])!r})\n{USE}")
    done = subprocess.run(
        [sys.executable, "use.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "fine", done.stderr


def test_every_task_stands_in_the_table():
    table = README.read_text(encoding="utf-8").split("## Verdicts")[0]
    assert all(name in table for name in tasks.names())


def test_every_task_says_what_it_is():
    for name in tasks.names():
        task = tasks.get(name)
        assert task.source and task.licence and task.answer_format
        assert task.samples >= 1 and set(task.splits) <= {"train", "test"}
        hub = getattr(task, "hub", None)
        assert hub is None or re.fullmatch(r"[0-9a-f]{40}", hub.revision)
