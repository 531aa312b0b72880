"""Small files as `leaderboard`, `replay`, `steps` and `values` write them."""

import json

from harness.studies.value_figures import CEILING


def written(folder, table, name=None):
    """The table as a JSON file."""
    path = folder / (name or f"{len(list(folder.iterdir()))}.json")
    path.write_text(json.dumps(table))
    return path


def training_table():
    """uniform and flow_3, which is better."""
    shared = {"seeds": [0, 1], "cost": {"seconds_step": 2.0}}
    return {
        "experiment": {
            "name": "bench",
            "policy": {"name": "tiny"},
            "methods": {"uniform": {"credit": "uniform"}, "flow_3": {"credit": "flow", "gamma": 3.0}},
        },
        "baseline": "uniform",
        "metric": "final_accuracy",
        "positive_control": {"text": "positive control sensitive"},
        "arms": [
            {
                "label": "uniform",
                "credit": "uniform",
                "outcome": "baseline",
                "difference": None,
                "interval_of_difference": None,
                **shared,
            },
            {
                "label": "flow_3",
                "credit": "flow",
                "outcome": "better",
                "difference": 0.02,
                "interval_of_difference": [0.01, 0.03],
                **shared,
            },
        ],
    }


def replay_table():
    """uniform and an arm of flow at 3; the oracle was left out."""
    row = {
        "options": {},
        "ratio": 0.3,
        "ratio_difference": None,
        "ratio_difference_interval": None,
        "to_uniform": [1.0, None],
        "turn": [0.0, None],
        "seconds": 0.1,
        "decisive": [0.5, None],
        "decisive_unsure": [0.5, None],
        "value_size": None,
        "value_direction": None,
    }
    flow = {
        "label": "strong",
        "credit": "flow",
        "options": {"gamma": 3.0},
        "ratio_difference": 0.2,
        "ratio_difference_interval": [0.1, 0.3],
        "to_uniform": [0.9, [0.85, 0.95]],
        "turn": [0.1, [0.05, 0.15]],
        "decisive": [0.85, [0.8, 0.9]],
        "decisive_unsure": [0.8, [0.7, 0.9]],
    }
    return {
        "experiment": "bench",
        "policy": "tiny",
        "batches": 2,
        "responses": 32,
        "correct": 0.25,
        "valued": 4,
        "continuations": 8,
        "agreement": [0.5, [0.4, 0.6]],
        "left_out": {"oracle": "nobody knows"},
        "figures": [{**row, "label": "uniform", "credit": "uniform"}, {**row, **flow}],
    }


def steps_table():
    """Two arms of flow, and a rule for steps."""
    row = {
        "needed": [0.7, [0.6, 0.8]],
        "needed_matched": [0.5, [0.4, 0.6]],
        "wrong": [0.4, [0.3, 0.5]],
        "wrong_matched": [0.5, [0.4, 0.6]],
        "abstained": 0.0,
    }
    late = {**row, "name": "flow-late", "needed_matched": [0.6, [0.5, 0.7]]}
    return {
        "title": "Steps",
        "command": "flowtracer steps tiny graph --problems 8",
        "results": {
            "rows": [{**row, "name": "early"}, {**row, "name": "flow"}, late],
            "carried": [],
            "left_out": {},
            "compared": 5,
            "mistaken": 3,
        },
    }


def values_table():
    """flow, read twice; a method that cannot judge."""
    row = {
        "name": "flow",
        "reading": "at the cut",
        "size": [0.2, [0.1, 0.3]],
        "by_halves": [0.2, [0.1, 0.3]],
        "signed": [0.3, [0.1, 0.5]],
        "fall": None,
        "abstained": 0.0,
    }
    return {
        "command": "flowtracer values tiny sums:largest=9 --problems 8",
        "results": {
            "rules": [{**row, "name": "early"}, {**row, "name": "flow"}],
            "methods": [
                {**row, "name": CEILING},
                row,
                {**row, "reading": "over the segment", "signed": [0.9, [0.8, 1.0]]},
            ],
            "halves": [0.8, [0.7, 0.9]],
            "ranked": 5,
            "cuts": 20,
            "continuations": 32,
            "left_out": {"oracle": "nobody knows"},
        },
    }
