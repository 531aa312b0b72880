"""Protects the experiment file: what it declares is hashed, and a misspelt key never passes in silence."""

import inspect
import re

import pytest

from flowtracer import credit
from harness import ExperimentError, experiment

TABLE = {
    "title": "a title",
    "seeds": 3,
    "declaration": {"metric": "final_accuracy", "smallest_difference": 0.01},
    "policy": {"name": "decision"},
    "task": {"name": "decision", "variant": "aligned"},
    "training": {
        "steps": 10,
        "prompts_per_step": 2,
        "samples_per_prompt": 4,
        "max_response_tokens": 20,
        "learning_rate": 1e-3,
    },
    "evaluation": {"every": 4, "problems": 8},
    "methods": {"uniform": {}, "strong": {"credit": "flow", "gamma": 3.0}},
    "smoke": {"seeds": 1, "training": {"steps": 2}},
}


def changed(path, value):
    """TABLE with the entry at the dotted `path` set to `value`, or removed for None."""
    import copy

    table = copy.deepcopy(TABLE)
    *parents, last = path.split(".")
    place = table
    for parent in parents:
        place = place[parent]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return table


def test_a_table_becomes_an_experiment():
    built = experiment.from_table(TABLE, "x")
    assert built.methods == {"uniform": {"credit": "uniform"}, "strong": {"credit": "flow", "gamma": 3.0}}
    assert built.training.rollouts == 8
    assert built.evaluation_steps() == [0, 4, 8, 10]
    experiment.check(built)


def test_smoke_applies_its_table_and_is_another_experiment():
    whole, smoke = experiment.from_table(TABLE, "x"), experiment.from_table(TABLE, "x", smoke=True)
    assert (smoke.seeds, smoke.training.steps, smoke.training.learning_rate) == (1, 2, 1e-3)
    assert smoke.name == "x-smoke" and smoke.hash != whole.hash
    with pytest.raises(ExperimentError, match="no .smoke. table"):
        experiment.from_table(changed("smoke", None), "x", smoke=True)


def test_the_hash_covers_everything_but_the_methods():
    original = experiment.from_table(TABLE, "x").hash
    assert experiment.from_table(changed("methods.random", {}), "x").hash == original
    for path, value in [
        ("seeds", 4),
        ("declaration.smallest_difference", 0.02),
        ("declaration.alpha", 0.1),
        ("training.learning_rate", 2e-3),
        ("task.variant", "chain"),
        ("evaluation.problems", 9),
    ]:
        assert experiment.from_table(changed(path, value), "x").hash != original, path


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("training.stepz", 3, r"training\.stepz; did you mean 'steps'"),
        ("seedz", 3, "seedz; did you mean 'seeds'"),
        ("seeds", 0, "seeds must be at least 1"),
        ("seeds", "three", "seeds must be int"),
        ("seeds", True, "seeds must be int"),
        ("training.steps", 1.5, "training.steps must be int"),
        ("training.samples_per_prompt", 1, "samples_per_prompt must be at least 2"),
        ("training.micro_batch", 3, "micro_batch must divide the 8 rollouts"),
        ("training.temperature", 0.0, "temperature must be positive"),
        ("declaration.metric", "accuracy", "declaration.metric must be one of"),
        ("declaration", None, "the key declaration is missing"),
        ("policy.name", None, "the key policy.name is missing"),
        ("task.name", None, "task.name is missing"),
        ("methods", {}, "at least one arm"),
        ("methods.uniform", 3, "methods.uniform must be a table"),
        ("methods", {"../escape": {}}, "names a folder"),
        ("evaluation", 3, "evaluation must be a table"),
    ],
)
def test_mistakes_are_named(path, value, message):
    with pytest.raises(ExperimentError, match=message):
        experiment.from_table(changed(path, value), "x")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("methods.floww", {}, "unknown credit method 'floww'"),
        ("methods.flow", {"gama": 1}, "no option 'gama'"),
        ("task.name", "gsm9k", "unknown task 'gsm9k'"),
        ("task.variant", "twisted", "no variant 'twisted'"),
    ],
)
def test_unknown_methods_tasks_and_options_show_before_the_first_run(path, value, message):
    with pytest.raises(ValueError, match=message):
        experiment.check(experiment.from_table(changed(path, value), "x"))


def test_a_task_without_test_problems_needs_test_sets(tmp_path):
    table = changed("task", {"name": "dapo_math"})
    with pytest.raises(ExperimentError, match="dapo_math has no test problems"):
        experiment.check(experiment.from_table(table, "x"))
    table["evaluation"]["more"] = [{"task": {"name": "aime24"}, "problems": 30}]
    experiment.check(experiment.from_table(table, "x"))
    table["evaluation"]["more"] = [{"task": {"name": "dapo_math"}, "problems": 30}]
    with pytest.raises(ExperimentError, match="dapo_math has no test problems"):
        experiment.check(experiment.from_table(table, "x"))


def test_files_and_names(tmp_path):
    with pytest.raises(ExperimentError, match="unknown experiment 'nothing'; known: .*decision"):
        experiment.load("nothing")
    with pytest.raises(ExperimentError, match="does not exist"):
        experiment.load(str(tmp_path / "missing.toml"))
    broken = tmp_path / "broken.toml"
    broken.write_text("seeds = [")
    with pytest.raises(ExperimentError, match="broken.toml cannot be read"):
        experiment.load(str(broken))


@pytest.mark.parametrize("name", experiment.names())
@pytest.mark.parametrize("smoke", [False, True])
def test_every_experiment_of_the_package_is_sound(name, smoke):
    experiment.check(experiment.load(name, smoke=smoke))


#: The experiments of the testbed that ask which credit helps.
COMPARED = [
    *("decision", "decision-chain", "decision-decoy", "comparison", "comparison-chain", "comparison-decoy"),
    *("comparison-all", "ablations", "fairness", "loss-grpo", "loss-dr_grpo"),
]


@pytest.mark.parametrize("name", COMPARED)
def test_the_dumbest_rules_and_the_positive_control_stand_in_every_comparison(name):
    """At the factor of flow: a gain that one of them has too is no evidence for flow."""
    methods = experiment.load(name).methods
    gammas = {options.get("gamma", 1.5) for options in methods.values() if options["credit"] == "flow"}
    gamma = 3.0 if 3.0 in gammas else 1.5
    share = {} if gamma == 1.5 else {"weight": 1 + 0.4 * (gamma - 1)}
    factor = {} if gamma == 1.5 else {"gamma": gamma}
    assert {"credit": "uniform"} in methods.values()
    assert {"credit": "constant", **share} in methods.values()
    for control in ("random", "first_tokens", "last_tokens", "entropy", "shuffled_flow"):
        assert {"credit": control, **factor} in methods.values(), control
    assert {"credit": "flow"} in methods.values() or {"credit": "flow", **factor} in methods.values()
    oracles = [options.get("gamma", 1.5) for options in methods.values() if options["credit"] == "oracle"]
    assert oracles and max(oracles) >= gamma


#: Registered methods that `comparison-all` leaves out, and why.
LEFT_OUT = {
    "hicra": "no response of the testbed holds a planning phrase: it is uniform there",
    "vine": "it samples continuations of every prefix, many times the rollouts of the other arms",
    "spo": "it samples continuations of every segment, several times the rollouts of the other arms",
}


def test_every_method_is_in_the_comparison_of_all():
    listed = {options["credit"] for options in experiment.load("comparison-all").methods.values()}
    assert listed == set(credit.names()) - set(LEFT_OUT)


@pytest.mark.parametrize(("name", "arms"), [("fairness", 5), ("decision", 3)])
def test_learning_rates_of_an_arm_follow_the_testbed_s(name, arms):
    """Uniform credit at a larger rate is the dumbest rule of all: it must be that, and no other change."""
    built = experiment.load(name)
    changed = {"half": 0.5, "double": 2.0, "quadruple": 4.0}
    others = [label for label in built.methods if label.rpartition("_")[2] in changed]
    assert len(others) == arms and "uniform_double" in others
    for label in others:
        original, _, change = label.rpartition("_")
        wanted = changed[change] * built.training_of(original).learning_rate
        assert built.training_of(label).learning_rate == pytest.approx(wanted), label
        assert built.credit_of(label) == built.credit_of(original)


def test_more_rollouts_of_fairness_are_one_a_prompt():
    built = experiment.load("fairness")
    assert built.training_of("uniform_more").samples_per_prompt == built.training.samples_per_prompt + 1


def test_an_arm_trains_otherwise_and_the_others_do_not():
    table = changed("methods.strong.training", {"learning_rate": 1e-4, "samples_per_prompt": 6})
    built = experiment.from_table(table, "x")
    assert built.training_of("strong").learning_rate == 1e-4
    assert built.training_of("strong").rollouts == 12
    assert built.training_of("uniform") == built.training
    assert built.credit_of("strong") == ("flow", {"gamma": 3.0})
    assert built.hash == experiment.from_table(TABLE, "x").hash
    experiment.check(built)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"stepz": 3}, r"methods\.strong\.training\.stepz"),
        ({"steps": 3}, "all arms share steps"),
        ({"prompts_per_step": 3}, "all arms share prompts_per_step"),
        ({"samples_per_prompt": 1}, r"methods\.strong\.training\.samples_per_prompt must be at least 2"),
        (3, r"methods\.strong\.training must be a table"),
    ],
)
def test_what_an_arm_cannot_change(training, message):
    with pytest.raises(ExperimentError, match=message):
        experiment.from_table(changed("methods.strong.training", training), "x")


def test_a_table_over_the_one_that_it_is_based_on():
    table = {"base": "decision", "training": {"loss_type": "grpo"}, "methods": {"uniform": {}}}
    built, base = experiment.from_table(table, "x"), experiment.load("decision")
    assert built.training.loss_type == "grpo" and built.training.learning_rate == base.training.learning_rate
    assert built.methods == {"uniform": {"credit": "uniform"}} and built.hash != base.hash
    assert experiment.from_table(table, "x", smoke=True).training.steps == 6
    with pytest.raises(ExperimentError, match="unknown base 'decisoin'"):
        experiment.from_table({**table, "base": "decisoin"}, "x")


def test_a_random_reward_is_not_what_is_measured():
    table = changed("training.reward", "random")
    experiment.from_table(table, "x")
    table["declaration"]["metric"] = "training_reward_area"
    with pytest.raises(ExperimentError, match="the rewards of uniform are not its verdicts"):
        experiment.from_table(table, "x")


def test_a_degraded_verifier_is_an_arm_and_leaves_other_hashes_alone():
    degraded, base = experiment.load("degraded-verifier"), experiment.load("decision")
    assert (
        "false_rewards" not in base.resolved()["training"]
        and "false_refusals" not in degraded.resolved()["training"]
    )
    shares = {
        label: (degraded.training_of(label).false_rewards, degraded.training_of(label).false_refusals)
        for label in degraded.methods
    }
    assert sorted(shares.values()) == [(0.0, 0.0), (0.0, 0.1), (0.0, 0.3), (0.1, 0.0), (0.3, 0.0)]
    assert {method["credit"] for method in degraded.methods.values()} == {"uniform"}
    shared = changed("training.false_rewards", 0.2)
    built = experiment.from_table(shared, "x")
    assert built.resolved()["training"]["false_rewards"] == 0.2
    again = experiment.from_table(
        {key: value for key, value in built.resolved().items() if key != "name"}, "x"
    )
    assert again.hash == built.hash


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"false_rewards": 1.5}, "false_rewards must be a share"),
        ({"false_refusals": -0.1}, "false_refusals must be a share"),
        ({"false_rewards": 0.1, "reward": "random"}, "go with reward verdict"),
    ],
)
def test_shares_of_a_degraded_verifier_are_checked(options, message):
    table = changed("declaration.metric", "final_accuracy")
    table["training"] |= options
    with pytest.raises(ExperimentError, match=message):
        experiment.from_table(table, "x")


def test_a_degraded_arm_cannot_be_measured_by_what_it_is_paid():
    table = changed("declaration.metric", "training_reward_area")
    table["methods"] = {"uniform": {}, "paid": {"credit": "uniform", "training": {"false_rewards": 0.1}}}
    with pytest.raises(ExperimentError, match="the rewards of paid are not its verdicts"):
        experiment.from_table(table, "x")


def test_stopping_until_decided_declares_its_scale():
    table = changed("declaration.stopping", "until decided")
    with pytest.raises(ExperimentError, match="scale must be a positive number"):
        experiment.from_table(table, "x")
    table["declaration"]["scale"] = 0.05
    assert experiment.from_table(table, "x").declaration.scale == 0.05
    with pytest.raises(ExperimentError, match="stopping must be"):
        experiment.from_table(changed("declaration.stopping", "when it looks clear"), "x")


def test_every_key_that_a_file_may_have_is_one_that_the_reference_shows():
    """The page of the keys is made from OF_FILES and the dataclasses: a key in neither is one that nobody learns of."""
    source = inspect.getsource(experiment._with_base) + inspect.getsource(experiment.from_table)
    assert set(re.findall(r"\.pop\(\"(\w+)\"", source)) - {"name"} == set(experiment.OF_FILES)
