"""Published data: one problem whatever its source, nothing half loaded, and no training item that a test set holds."""

import json

import pytest

import tasks
from tasks.problem import Problem
from tasks.source import without_overlap


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWTRACER_DATA", str(tmp_path))

    def write(file, *rows):
        (tmp_path / file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    return write


def test_the_forms_in_which_golds_are_published(folder):
    """A folder's fields and the hub's differ; the problems do not."""
    folder(
        "math500.jsonl",
        {"question": "a", "answer": "Thus $\\boxed{\\frac12}$.The answer is: \\frac12"},
        {"problem": "b", "answer": "\\frac12", "solution": "$\\boxed{\\frac12}$"},
    )
    folder(
        "aime24.jsonl",
        {"problem": "a", "answer": "025", "solution": "..."},
        {"problem": "b", "solution": "\\boxed{025}"},
    )
    folder("amc23.jsonl", {"question": "a", "answer": 27.0}, {"question": "b", "answer": "27"})
    folder(
        "minerva_math.jsonl", {"problem": "a", "solution": "\\boxed{1.6}"}, {"question": "b", "answer": "1.6"}
    )
    folder(
        "olympiadbench.jsonl",
        {"question": "a", "final_answer": ["$2$"], "unit": None, "error": None},
        {"question": "b", "context": "Let n.", "final_answer": ["$2$"]},
    )
    for name, gold in (
        ("math500", "\\frac12"),
        ("aime24", 25),
        ("amc23", 27),
        ("minerva", "1.6"),
        ("olympiadbench", ["$2$"]),
    ):
        problems = tasks.get(name).problems("test")
        assert [problem.gold for problem in problems] == [gold, gold], name
        assert [problem.id for problem in problems] == [f"{name}/test/0", f"{name}/test/1"]
        again = tasks.get(name).problem_from(problems[0].question, problems[0].gold)
        assert again.gold == problems[0].gold
    assert problems[1].question == "Let n.\nb"


def dapo(problem, answer):
    before = "Solve it. The last line: Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
    after = '\n\nRemember to put your answer on its own line after "Answer:".'
    return {
        "prompt": [{"role": "user", "content": before + problem + after}],
        "reward_model": {"ground_truth": answer},
    }


@pytest.fixture
def test_sets(folder):
    folder("aime24.jsonl", {"problem": "How many monkeys?", "answer": "3"})
    folder("aime25.jsonl", {"problem": "How many apes?", "answer": "3"})
    folder("amc23.jsonl", {"question": "How many lemurs?", "answer": 3.0})
    folder("math500.jsonl", {"question": "How many cats?", "answer": "\\boxed{3}"})
    folder("minerva_math.jsonl", {"problem": "How many dogs?", "solution": "\\boxed{3}"})
    folder("olympiadbench.jsonl", {"question": "How many birds?", "final_answer": ["3"]})


def test_dapo_is_read_once_and_without_the_test_sets(folder, test_sets):
    rows = [dapo("What is 1+1?", "2"), dapo("What is 1+2?", "3"), dapo("How many, $ MONKEYS $?", "3")]
    folder("dapo_math_train.jsonl", *(rows * 3))
    task = tasks.get("dapo_math")
    problems = task.problems("train")
    assert [(problem.question, problem.gold) for problem in problems] == [
        ("What is 1+1?", 2),
        ("What is 1+2?", 3),
    ]
    assert task.removed == [("dapo_math/train/2", "aime24/test/0")]
    with pytest.raises(tasks.TaskError, match="dapo_math has no split 'test'"):
        task.problems("test")


def test_a_missing_test_set_stops_the_training_set(folder, test_sets, tmp_path):
    folder("dapo_math_train.jsonl", dapo("What is 1+1?", "2"))
    (tmp_path / "aime25.jsonl").unlink()
    with pytest.raises(tasks.TaskError, match=r"aime25: there is no aime25\.jsonl"):
        tasks.get("dapo_math").problems("train")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": [], "reward_model": {"ground_truth": "1"}}, "field 'prompt' must hold"),
        ({"prompt": [{"content": 5}], "reward_model": {"ground_truth": "1"}}, "field 'prompt' must hold"),
        ({"prompt": "q", "reward_model": "1"}, "field 'reward_model' must hold a 'ground_truth'"),
        ({"prompt": "q", "reward_model": {"ground_truth": "x"}}, "gold must be an integer"),
        ({"reward_model": {"ground_truth": "1"}}, "field 'prompt' is missing"),
    ],
)
def test_broken_rows_are_named(folder, test_sets, row, message):
    folder("dapo_math_train.jsonl", dapo("What is 1+1?", "2"), row)
    with pytest.raises(tasks.TaskError, match=f"dapo_math_train.jsonl line 2: .*{message}"):
        tasks.get("dapo_math").problems("train")


def test_math_trains_on_nothing_that_it_tests(folder):
    long = "Find the sum of all the integers n from one to twenty that leave a remainder of three divided by seven."
    folder(
        "math_train.jsonl",
        {"problem": "What is 2+2?", "solution": "\\boxed{4}"},
        {"problem": long + " Now.", "solution": "\\boxed{30}"},
        {"problem": "how many CATS", "solution": "\\boxed{3}"},
    )
    folder("math_test.jsonl", {"problem": long, "solution": "\\boxed{30}"})
    folder("math500.jsonl", {"problem": "How many cats?", "answer": "3"})
    task = tasks.get("math")
    assert [problem.id for problem in task.problems("train")] == ["math/train/0"]
    assert task.removed == [("math/train/1", "math/test/0"), ("math/train/2", "math500/test/0")]


def test_crossthink_holds_out_a_fifth_of_a_small_file_and_never_the_same_item(folder):
    letters = "ABCDEFGHIJ"
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Question {n}?"}],
            "reward_model": {"ground_truth": letters[n % 10]},
        }
        for n in range(50)
    ]
    folder("crossthink_qa.jsonl", *rows, rows[0])
    task = tasks.get("crossthink")
    train, test = task.problems("train"), task.problems("test")
    assert (len(train), len(test)) == (40, 10)
    assert not {problem.question for problem in train} & {problem.question for problem in test}
    assert test == tasks.get("crossthink").problems("test")


def test_overlap_needs_most_of_a_question():
    def problem(identity, question):
        return Problem(identity, question, 1)

    shared = "write your answer as a fraction in lowest terms with a and b relatively prime positive integers"
    test = [
        problem(
            "t0", f"{shared} where the first urn holds three red and five blue balls and the second holds two"
        )
    ]
    train = [
        problem(
            "a",
            f"{shared} where nothing else is the same as in the other question at all, not one word of it",
        ),
        problem("b", test[0].question.upper() + "!!"),
        problem("c", "Hint: " + test[0].question + " more words behind it"),
    ]
    kept, removed = without_overlap(train, test)
    assert [item.id for item in kept] == ["a"]
    assert removed == [("b", "t0"), ("c", "t0")]


def test_three_quarters_of_a_questions_runs_are_an_overlap():
    """112 words are 100 runs of 13: a training question that repeats 87 words has 75 of the runs, with 86 it has 74."""
    asked = [f"word{number}" for number in range(112)]
    test = [Problem("t0", " ".join(asked), 1)]
    train = [
        Problem(str(shared), " ".join([*asked[:shared], "and", "something", "else"]), 1)
        for shared in (86, 87, 112)
    ]
    kept, removed = without_overlap(train, test)
    assert [problem.id for problem in kept] == ["86"]
    assert removed == [("87", "t0"), ("112", "t0")]


def test_train_and_test_of_gsm8k_share_nothing(real_data):
    task = tasks.get("gsm8k")
    train, test = task.problems("train"), task.problems("test")
    assert without_overlap(train, test) == (list(train), [])
    assert len(train) + len(task.removed) == 7473


def test_the_hubs_columns_give_the_same_problems(folder, monkeypatch):
    import datasets

    rows = {
        "HuggingFaceH4/MATH-500": [
            {"problem": "a", "solution": "$\\boxed{5}$", "answer": "5", "unique_id": "x"}
        ],
        "math-ai/aime24": [{"id": 60, "problem": "a", "solution": "\\boxed{025}", "url": "u"}],
        "math-ai/aime25": [{"problem": "a", "answer": "70", "id": "0"}],
        "math-ai/amc23": [{"id": 0, "question": "a", "answer": 27.0, "url": "u"}],
        "math-ai/minervamath": [{"question": "a", "answer": "1.6"}],
        "math-ai/olympiadbench": [
            {"question": "a", "final_answer": ["5"], "unit": None, "error": None, "context": None}
        ],
    }
    asked = []

    def load_dataset(name, config, split, revision):
        asked.append((name, split, len(revision)))
        return datasets.Dataset.from_list(rows[name])

    monkeypatch.delenv("FLOWTRACER_DATA")
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    golds = {
        name: tasks.get(name).problems("test")[0].gold
        for name in ("math500", "aime24", "aime25", "amc23", "minerva", "olympiadbench")
    }
    assert golds == {
        "math500": "5",
        "aime24": 25,
        "aime25": 70,
        "amc23": 27,
        "minerva": "1.6",
        "olympiadbench": ["5"],
    }
    assert asked == [(name, "test", 40) for name in rows]
