"""The adapter of reasoning-gym: its questions, our verdicts, its scorers only where they run no text of the model."""

import pytest

import tasks
from tasks.judging import Judging

pytest.importorskip("reasoning_gym")


def test_splits_are_disjoint_and_stable():
    task = tasks.get("reasoning_gym", dataset="chain_sum")
    train, test = task.problems("train", limit=100), task.problems("test")
    assert len(test) == 256
    assert not {problem.question for problem in train} & {problem.question for problem in test}
    assert test == tasks.get("reasoning_gym", dataset="chain_sum").problems("test")
    assert "\\boxed{}" in task.prompt(test[0])


def test_numbers_are_ours():
    """The package's scorer would take a number within a text, or near the right one, for a part of the mark."""
    task = tasks.get("reasoning_gym", dataset="chain_sum")
    for problem in task.problems("test", limit=20):
        value = int(problem.gold["answer"])
        assert task.verify(problem, f"\\boxed{{{value}}}") == "correct"
        assert task.verify(problem, f"\\boxed{{{value}.0}}") == "correct"
        for other in (value + 1, -value, f"{value} or {value + 1}", f"x{value}"):
            assert task.verify(problem, f"\\boxed{{{other}}}") == "wrong"


def test_countdown_is_ours(tmp_path):
    task = tasks.get("reasoning_gym", dataset="countdown")
    problem = task.problems("test", limit=1)[0]
    expression = problem.gold["metadata"]["expression"]
    assert task.verify(problem, f"\\boxed{{{expression}}}") == "correct"
    assert task.verify(problem, f"\\boxed{{{problem.gold['metadata']['target']}}}") == "wrong"
    assert task.verify(problem, f"\\boxed{{__import__('os').mkdir('{tmp_path}/made')}}") == "wrong"
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["n_queens", "string_insertion", "puzzle24", "polynomial_multiplication"])
def test_scorers_that_evaluate_are_never_asked(name, tmp_path):
    task = tasks.get("reasoning_gym", dataset=name)
    assert task.scorer == "ours"
    problem = task.problems("test", limit=1)[0]
    assert task.verify(problem, f"\\boxed{{__import__('os').mkdir('{tmp_path}/made')}}") == "wrong"
    assert not (tmp_path / "made").exists()
    gold = problem.gold["answer"]
    if gold is not None and gold.strip():
        assert task.judge(problem, gold) == "correct"


def test_puzzles_take_the_full_mark_only():
    task = tasks.get("reasoning_gym", dataset="mini_sudoku")
    assert task.scorer != "ours"
    problem = task.problems("test", limit=1)[0]
    assert task.judge(problem, problem.gold["answer"]) == "correct"
    assert task.judge(problem, problem.gold["answer"][:-1] + "9") == "wrong"
    assert task.judge(problem, "") == "wrong"


def test_an_answer_that_the_scorer_fails_on_is_wrong():
    """No policy may trip a scorer that works, and so have its answer left out of the count."""
    task = tasks.get("reasoning_gym", dataset="prime_factorization")
    problem = task.problems("test", limit=1)[0]
    with pytest.raises(ValueError, match="invalid literal"):
        task._data("test").score_answer("2 x 3", {"question": problem.question, **problem.gold})
    assert task.judge(problem, "2 x 3") == "wrong"
    assert task.judge(problem, problem.gold["answer"]) == "correct"


def test_a_broken_scorer_is_an_error_and_no_wrong_answer(monkeypatch):
    task = tasks.get("reasoning_gym", dataset="prime_factorization")
    problem = task.problems("test", limit=1)[0]

    def broken(answer, entry):
        raise ImportError("no module named sympy")

    monkeypatch.setattr(task._data("test"), "score_answer", broken)
    with pytest.raises(
        tasks.TaskError, match="prime_factorization fails .ImportError: no module named sympy"
    ):
        task.judge(problem, "2 x 3")
    with Judging(task) as judging:
        asked = judging.begin(problem, "\\boxed{2 x 3}", "stop")
        assert judging.verdicts([asked], None) == ["error"]
    assert "prime_factorization fails" in asked.trouble


def test_an_entry_without_the_scorers_metadata_is_an_error():
    task = tasks.get("reasoning_gym", dataset="mini_sudoku")
    problem = task.problems("test", limit=1)[0]
    given = task.problem_from(problem.question, problem.gold["answer"])
    assert task.judge(given, problem.gold["answer"]) == "correct"
    with pytest.raises(tasks.TaskError, match="mini_sudoku fails .KeyError.*give the whole entry"):
        task.judge(given, problem.gold["answer"][:-1] + "9")


def test_a_puzzle_without_a_gold_is_scored():
    """The package publishes no answer where there are many: its scorer decides, and a failure of it is its own."""
    task = tasks.get("reasoning_gym", dataset="graph_color")
    problem = task.problems("test", limit=1)[0]
    assert problem.gold["answer"] is None
    colours = problem.gold["metadata"]["possible_answer"]
    given = "{" + ", ".join(f'"{vertex}": {colour}' for vertex, colour in colours.items()) + "}"
    assert task.judge(problem, given) == "correct"
    assert task.judge(problem, "{}") == "wrong"
    task = tasks.get("reasoning_gym", dataset="boxnet")
    with pytest.raises(tasks.TaskError, match="boxnet fails .AttributeError"):
        task.judge(task.problems("test", limit=1)[0], '{"1": 1}')


def test_unknown_names_and_options_are_refused():
    with pytest.raises(tasks.TaskError, match="no data set 'nothing'.*chain_sum"):
        tasks.get("reasoning_gym", dataset="nothing")
    with pytest.raises(tasks.TaskError, match="does not take its options"):
        tasks.get("reasoning_gym", dataset="chain_sum", colour=3).problems("test", limit=1)
    with pytest.raises(tasks.TaskError, match="gold must be a text"):
        tasks.get("reasoning_gym").problem_from("q", 5)
