"""Rules of public code in plain Python and float64, and tables of what they give.

Written from the code that each source names, in our own words and without this package's: numbers in, numbers out.
`python -m tests.flowtracer.credit.authors` writes the tables to `authors.json`; `test_authors.py` holds the methods to
them, and them to these rules.
"""

from __future__ import annotations

import json
import math
import random
from fractions import Fraction
from pathlib import Path

TABLES = Path(__file__).with_suffix(".json")

# ------------------------------------------------------------------------------------- the rules


def gtpo(case):
    """retrain/advantages/credit.py:13-38, on entropies in place of surprisals, as weights."""
    beta, rows = case["options"].get("beta", 0.1), []
    for entropies in case["entropies"]:
        mean = sum(entropies) / len(entropies)
        if mean < 1e-7:
            rows.append([1.0] * len(entropies))
        else:
            rows.append([max(0.0, 1.0 + beta * (h / (mean + 1e-8) - 1.0)) for h in entropies])
    return rows


def hicra(case):
    """retrain/advantages/credit.py:41-57: A + alpha |A| on planning tokens; as weights, so that A is divided out."""
    alpha, rows = case["options"].get("alpha", 0.2), []
    for advantage, planning in zip(case["advantage"], case["planning"], strict=True):
        shaped = [advantage + alpha * abs(advantage) if inside else advantage for inside in planning]
        rows.append([value / advantage for value in shaped])
    return rows


def delight(case):
    """retrain/advantages/delight/gate.py:23-53 (hard) and 83-112 (soft, norm_mode "none"), as weights."""
    options, rows = case["options"], []
    for advantage, logprobs in zip(case["advantage"], case["logprobs"], strict=True):
        surprisals, n = [-value for value in logprobs], len(logprobs)
        if options.get("shape") == "hard":
            count = max(1, int(n * options.get("ratio", 0.2)))
            order = sorted(range(n), key=lambda i, s=surprisals: s[i], reverse=advantage > 0)
            rows.append([1.0 if i in order[:count] else 0.0 for i in range(n)])
        else:
            eta = options.get("eta", 1.0)
            rows.append([1.0 / (1.0 + math.exp(-advantage * s / eta)) for s in surprisals])
    return rows


def low_probability(case):
    """src/treetune/trainers/ppo_trainer.py:1057-1059: which tokens are in the loss."""
    threshold = case["options"].get("threshold", 0.9)
    return [[1.0 if math.exp(value) < threshold else 0.0 for value in row] for row in case["logprobs"]]


def otb(case):
    """verl/trainer/ppo/core_algos.py:758-873 for a reward at the end, as what is added to r - mean r."""
    rewards, lengths = case["reward"], [len(row) for row in case["logprobs"]]
    realised = []
    for logprobs, squares in zip(case["logprobs"], case["squares"], strict=True):
        total, sums = 0.0, []
        for logprob, square in zip(logprobs, squares, strict=True):
            total += 1.0 - 2.0 * math.exp(logprob) + square
            sums.append(total)
        realised.append(sums)
    rows = []
    for row, length in enumerate(lengths):
        addends = []
        for t in range(length):
            there = [i for i, other in enumerate(lengths) if t < other]
            weighted = sum(rewards[i] * realised[i][t] for i in there)
            baseline = weighted / (sum(realised[i][t] for i in there) + 1e-8)
            centred = rewards[row] - sum(rewards) / len(rewards)
            addends.append((rewards[row] - baseline) - centred)
        rows.append(addends)
    return rows


def ktae(case):
    """verl/workers/actor/compute_key_tokens.py:19-182 and core_algos.py:214-233 of KTAE, fractions in Fisher's test."""
    pairs = list(zip(case["token_ids"], case["reward"], strict=True))
    correct = [ids for ids, reward in pairs if reward > 0]
    wrong = [ids for ids, reward in pairs if reward <= 0]
    fisher, information, frequency = (
        case["options"].get(name, 1.0) for name in ("fisher", "information", "frequency")
    )
    at_one = case["options"].get("at_one", 0.0)  # exp(-2) is what rounding makes of the 0 there

    def p_value(a, b):
        sizes = len(correct), len(wrong)
        ways = {
            k: math.comb(sizes[0], k) * math.comb(sizes[1], a + b - k)
            for k in range(max(0, a + b - sizes[1]), min(sizes[0], a + b) + 1)
        }
        return float(Fraction(sum(count for count in ways.values() if count <= ways[a]), sum(ways.values())))

    def entropy(*counts):
        return -sum(c / sum(counts) * math.log2(c / sum(counts)) for c in counts if c)

    def term_frequency(token, texts):
        length = sum(map(len, texts))
        mean = (sum(map(len, correct)) + sum(map(len, wrong))) / 2
        share = sum(ids.count(token) for ids in texts) / length
        return share * 3.0 / (share + 2.0 * (1.0 - 0.5 + 0.5 * length / mean))

    def change(token):
        a, b = (sum(token in ids for ids in texts) for texts in (correct, wrong))
        c, d = len(correct) - a, len(wrong) - b
        p = p_value(a, b)
        evidence = math.exp(-2.0 * p) if p != 1.0 else at_one
        gain = entropy(a + c, b + d)
        for half in ((a, b), (c, d)):
            gain -= sum(half) / (a + b + c + d) * (entropy(*half) if sum(half) else 0.0)
        x = math.asin(math.sqrt(a / (a + c))) - math.asin(math.sqrt(b / (b + d)))
        if frequency:
            often, seldom = term_frequency(token, correct), term_frequency(token, wrong)
            x += often / (seldom + 1e-5) - seldom / (often + 1e-5)
        strength = (fisher * evidence + information * gain) / (fisher + information)
        return 2.0 * (1.0 / (1.0 + math.exp(-max(-700.0, strength * x))) - 0.5)

    return [[0.0 if token == 1 else change(token) for token in ids] for ids in case["token_ids"]]


def tempo(case):
    """compute_tempo_outcome_advantage of TEMPO without the division by the deviation, less r - mean r."""
    texts, rewards = case["token_ids"], case["reward"]

    def mean(rows):
        return sum(rewards[row] for row in rows) / len(rows)

    rows = []
    for text, reward in zip(texts, rewards, strict=True):
        previous, scores = list(range(len(texts))), []
        for j, token in enumerate(text):
            branch = [k for k in previous if j < len(texts[k]) and texts[k][j] == token]
            scores.append(reward - mean(range(len(texts))) + mean(branch) - mean(previous))
            if len(previous) == 1:
                scores += [scores[-1]] * (len(text) - j - 1)
                break
            previous = branch
        rows.append([score - (reward - mean(range(len(texts)))) for score in scores])
    return rows


def oar_perturb(case):
    """OAR-main.py:207-240 with sum_to_L: weights of the reasoning tokens, which stand before the answer."""
    quantile, beta, rows = case["options"].get("quantile", 0.5), case["options"].get("beta", 1.0), []
    for divergences in case["divergence"]:
        logs = [math.log1p(value) for value in divergences]
        spread = max(logs) - min(logs) if max(logs) > min(logs) else 1.0
        share = [(value - min(logs)) / spread for value in logs]
        place = quantile * (len(share) - 1)
        ordered, low = sorted(share), math.floor(place)
        threshold = ordered[low] + (place - low) * (ordered[min(low + 1, len(share) - 1)] - ordered[low])
        shaped = [
            max(s / (threshold + 1e-8), 0.1)
            if s < threshold
            else 1.0 + beta * (s - threshold) / (1.0 - threshold + 1e-8)
            for s in share
        ]
        rows.append([value * len(shaped) / (sum(shaped) + 1e-8) for value in shaped])
    return rows


def vine(case):
    """_compute_step_advantages of VinePPO, for steps that end with a line feed, as what is added to r - mean r."""
    rewards, rows = case["reward"], []
    for pieces, values, reward in zip(case["pieces"], case["values"], rewards, strict=True):
        steps, step = [], 0
        for piece in pieces:
            steps.append(step)
            step += "\n" in piece
        starts = [steps.index(step) for step in range(steps[-1] + 1)]
        value_of_step = [values[start] for start in starts] + [0.0]
        step_rewards = [0.0] * (len(starts) - 1) + [reward]
        changes = [step_rewards[i] + value_of_step[i + 1] - value_of_step[i] for i in range(len(starts))]
        rows.append([changes[step] - (reward - sum(rewards) / len(rewards)) for step in steps])
    return rows


def spo(case):
    """_compute_token_advantages of SPO and its cuts, as what is added to r - mean r; a value stands behind a token."""
    rewards, interval, rows = case["reward"], case["options"].get("interval", 5), []
    for logprobs, values, reward in zip(case["logprobs"], case["values"], rewards, strict=True):
        probabilities = [math.exp(value) for value in logprobs]
        cuts = [i - 1 for i, p in enumerate(probabilities) if p < 0.9][::interval]
        token_values, base = [None] * len(logprobs), None
        token_values[-1] = reward
        for cut in cuts:
            if cut == -1:
                base = values[0]
            else:
                token_values[cut] = values[cut + 1]
        changes = [None] * len(logprobs)
        for i, value in enumerate(token_values):
            if value is not None:
                changes[i] = 0.0 if base is None else value - base
                base = value
        for i in reversed(range(len(changes))):
            changes[i] = changes[i + 1] if changes[i] is None else changes[i]
        paid = [
            0.0 if p > 0.9 or not cuts else change for p, change in zip(probabilities, changes, strict=True)
        ]
        rows.append([change - (reward - sum(rewards) / len(rewards)) for change in paid])
    return rows


def rlsd(case):
    """dp_opsd_actor.py:221-239 and opsd_trainer.py:1952-1961: the reweighting, and lambda of the step."""
    options, rows = case["options"], []
    clip, lam = options.get("epsilon", 0.2), options.get("mix", 0.5)
    if decay := options.get("fade_steps", 0):
        global_step = case["step"] + 1  # that code counts a step before it samples for it
        lam *= max(1.0 - global_step / decay, 0.0)
    for advantage, student, teacher in zip(
        case["advantage"], case["logprobs"], case["teacher_logprobs"], strict=True
    ):
        sign = (advantage > 0) - (advantage < 0)
        weights = [math.exp(sign * (t - s)) for s, t in zip(student, teacher, strict=True)]
        rows.append([(1.0 - lam) + lam * min(max(weight, 1.0 - clip), 1.0 + clip) for weight in weights])
    return rows


def opsd(case):
    """opsd_trainer.py:690-714: the advantage is the teacher's minus the student's; here what is added to reach it."""
    return [
        [t - s - advantage for s, t in zip(student, teacher, strict=True)]
        for advantage, student, teacher in zip(
            case["advantage"], case["logprobs"], case["teacher_logprobs"], strict=True
        )
    ]


def probability(case):
    """verl/trainer/ppo/ray_trainer.py:347-353 (both_linear_normal): k p + tau on the advantage, tau = 1 - k."""
    alpha = case["options"].get("alpha", 0.2)
    return [[alpha * math.exp(value) + (1.0 - alpha) for value in row] for row in case["logprobs"]]


def entropy_mask(case):
    """get_high_entropy_mask of TRL, at a threshold of 1 - ratio, on one micro-batch that is the whole batch."""
    share = 1.0 - case["options"].get("ratio", 0.2)
    ordered = sorted(value for row in case["entropies"] for value in row)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    threshold = ordered[low] + (place - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])
    return [[1.0 if value >= threshold else 0.0 for value in row] for row in case["entropies"]]


def gradient(case):
    """OAR-main.py:207-236 with sum_to_L, on scores of reasoning tokens: the reshaping is that of oar_perturb."""
    return oar_perturb({"options": case["options"], "divergence": case["saliency"]})


def answer_attention(case):
    """extract_attention_weights of ATPO's trainer, from the mean attention of the answer's rows on the reasoning."""
    sharpness, floor = case["options"].get("sharpness", 2.0), case["options"].get("floor", 0.5)
    rows = []
    for attention in case["scores"]:
        logs = [math.log(value + 1e-5) for value in attention]
        mean = sum(logs) / len(logs)
        spread = math.sqrt(sum((value - mean) ** 2 for value in logs) / max(len(logs) - 1, 1))
        if spread == 0.0:
            share = [0.5] * len(logs)
        else:
            curve = [1.0 / (1.0 + math.exp(-sharpness * (value - mean) / spread)) for value in logs]
            share = [(value - min(curve)) / (max(curve) - min(curve)) for value in curve]
        rows.append([value * (1.0 - floor) + floor for value in share] + [1.0])
    return rows


def position(case):
    """_compute_token_weights of ATPO's trainer, linear and sigmoid, over a reasoning that is the whole response."""
    sharpness, floor = case["options"].get("sharpness", 2.0), case["options"].get("floor", 0.5)
    rows = []
    for row in case["token_ids"]:
        share = [index / (len(row) - 1) for index in range(len(row))]
        if case["options"].get("shape") == "sigmoid":
            curve = [1.0 / (1.0 + math.exp(-3.0 * sharpness * (2.0 * value - 1.0))) for value in share]
            share = [(value - min(curve)) / (max(curve) - min(curve)) for value in curve]
        rows.append([value * (1.0 - floor) + floor for value in share])
    return rows


RETRAIN = "teilomillet/retrain at 19db12f"
ATPO = "grpo.py of the ATPO repository"

#: Each method's rule, where it comes from, and whether its table holds weights or addends.
RULES = {
    "gtpo": (gtpo, f"{RETRAIN}, retrain/advantages/credit.py:13-38", "weights"),
    "hicra": (hicra, f"{RETRAIN}, retrain/advantages/credit.py:41-57", "weights"),
    "delight": (delight, f"{RETRAIN}, retrain/advantages/delight/gate.py:23-112", "weights"),
    "low_probability": (
        low_probability,
        "AIFrameResearch/SPO at b9fc6a2, src/treetune/trainers/ppo_trainer.py:1057-1059",
        "weights",
    ),
    "otb": (otb, "volcengine/verl at b178a3c, verl/trainer/ppo/core_algos.py:758-873", "addend"),
    "vine": (
        vine,
        "McGill-NLP/VinePPO at efe7228, "
        "src/treetune/episode_generators/math_episode_generator_with_mc_advantages.py:377-401",
        "addend",
    ),
    "spo": (
        spo,
        "AIFrameResearch/SPO at b9fc6a2, "
        "src/treetune/episode_generators/math_episode_generator_with_mc_advantages.py:396-440",
        "addend",
    ),
    "tempo": (
        tempo,
        "fatebreaker/tempo at 0a1c273, verl/trainer/ppo/core_algos.py:261-352",
        "addend",
    ),
    "ktae": (ktae, "xiaolizh1/KTAE at ea9fb77, verl/workers/actor/compute_key_tokens.py:19-182", "addend"),
    "oar_perturb": (
        oar_perturb,
        "Valsure/Outcome-Grounded-Advantage-Reshaping at 8dbc478, OAR-main.py:207-240",
        "weights",
    ),
    "rlsd": (
        rlsd,
        "iie-ycx/RLSD at 93e46f7, verl/workers/actor/dp_opsd_actor.py:221-239",
        "weights",
    ),
    "opsd": (opsd, "siyan-zhao/OPSD at 590ec26, opsd_trainer.py:690-714", "addend"),
    "probability": (
        probability,
        "zhyang2226/AR-Lopti at cbeb333, verl/trainer/ppo/ray_trainer.py:347-353",
        "weights",
    ),
    "entropy_mask": (
        entropy_mask,
        "huggingface/trl at 1.16.0, trl/trainer/grpo_trainer.py:1380-1416",
        "weights",
    ),
    "gradient": (
        gradient,
        "Valsure/Outcome-Grounded-Advantage-Reshaping at 8dbc478, OAR-main.py:207-236",
        "weights",
    ),
    "answer_attention": (answer_attention, ATPO, "weights"),
    "position": (position, ATPO, "weights"),
}

# ------------------------------------------------------------------------------------- the inputs

WORDS = (
    (" Let", "'s", " try", " x"),
    (" Alternatively", ","),
    (" 2", "+", "2"),
    (" so",),
    (" But", " wait", "."),
)
PLANNED = ((True, True, True, False), (True, False), (False,) * 3, (False,), (True, True, False))


def cases(name):
    """The inputs of a method: random numbers of six digits, from one stream, responses of unequal length."""
    source = random.Random(f"authors/{name}")

    def rows(draw, lengths):
        return [[round(draw(), 6) for _ in range(length)] for length in lengths]

    lengths = [7, 4, 12, 3]
    advantage = [1.5, -0.5, 0.25, -2.0]
    if name == "gtpo":
        made = [
            {"options": options, "entropies": rows(lambda: source.expovariate(1.0), lengths) + [[0.0] * 3]}
            for options in ({}, {"beta": 2.5})
        ]
    elif name == "hicra":
        chosen = [[source.randrange(len(WORDS)) for _ in range(4)] for _ in advantage]
        made = [
            {
                "options": options,
                "advantage": advantage,
                "pieces": [[word for i in row for word in WORDS[i]] for row in chosen],
                "planning": [[inside for i in row for inside in PLANNED[i]] for row in chosen],
            }
            for options in ({}, {"alpha": 0.7})
        ]
    elif name == "delight":
        made = [
            {
                "options": options,
                "advantage": advantage,
                "logprobs": rows(lambda: -source.expovariate(0.7), lengths),
            }
            for options in ({}, {"eta": 0.5}, {"shape": "hard"}, {"shape": "hard", "ratio": 0.5})
        ]
    elif name == "low_probability":
        made = [
            {"options": options, "logprobs": rows(lambda: -source.expovariate(3.0), lengths)}
            for options in ({}, {"threshold": 0.5})
        ]
    elif name == "otb":
        made = [
            _distributions(source, lengths, rewards)
            for rewards in ([1.0, 0.0, 0.0, 1.0], [0.2, 0.9, 0.5, 0.0])
        ]
    elif name == "vine":
        made = [
            {
                "options": {},
                "reward": [1.0, 0.0, 0.5, 1.0],
                "pieces": [[source.choice("ab\n") for _ in range(length)] for length in lengths],
                "values": rows(source.random, lengths),
            }
        ]
    elif name == "spo":
        made = [
            {
                "options": options,
                "reward": [1.0, 0.0, 0.5, 1.0],
                "logprobs": rows(lambda: -source.expovariate(3.0), lengths),
                "values": rows(source.random, lengths),
            }
            for options in ({}, {"interval": 1}, {"interval": 2})
        ]
    elif name == "ktae":
        made = [
            {
                "options": options,
                "reward": [1.0, 0.0, 1.0, 0.0, 0.0, 1.0],
                "token_ids": [
                    [source.randint(2, 9) for _ in range(source.randint(4, 9))] + [1] for _ in range(6)
                ],
            }
            for options in ({}, {"information": 2.0}, {"frequency": 0.0}, {"at_one": 0.135335})
        ]
    elif name == "tempo":
        made = [
            {
                "options": {},
                "reward": rewards,
                "token_ids": [
                    [source.randint(2, 3) for _ in range(source.randint(1, 5))] + [1] for _ in rewards
                ],
            }
            for rewards in ([1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0], [0.2, 0.9, 0.5, 0.0, 1.0, 0.4])
        ]
    elif name == "probability":
        made = [
            {"options": options, "logprobs": rows(lambda: -source.expovariate(1.0), lengths)}
            for options in ({}, {"alpha": 0.7})
        ]
    elif name == "entropy_mask":
        made = [
            {"options": options, "entropies": rows(lambda: source.expovariate(1.0), lengths)}
            for options in ({}, {"ratio": 0.5})
        ]
    elif name == "gradient":
        made = [
            {
                "options": {"shape": "oar", "scale": "log1p", **options},
                "saliency": rows(lambda: source.expovariate(0.3), lengths) + [[0.5] * 3],
            }
            for options in ({}, {"quantile": 0.7, "beta": 0.4})
        ]
    elif name == "answer_attention":
        made = [
            {"options": options, "scores": rows(lambda: source.random() ** 4 / 10, lengths) + [[0.125] * 3]}
            for options in ({}, {"floor": 0.0, "sharpness": 3.0})
        ]
    elif name == "position":
        made = [
            {"options": options, "token_ids": [[2] * length for length in lengths]}
            for options in ({}, {"floor": 0.0}, {"shape": "sigmoid"}, {"shape": "sigmoid", "sharpness": 3.0})
        ]
    elif name in ("rlsd", "opsd"):
        made = [
            {
                "options": options,
                "step": 24,
                "advantage": [1.5, -0.5, 0.0, -2.0],
                "logprobs": rows(lambda: -source.expovariate(1.0), lengths),
                "teacher_logprobs": rows(lambda: -source.expovariate(1.0), lengths),
            }
            for options in ({}, {"mix": 1.0, "epsilon": 0.7}, {"fade_steps": 60})[
                : 3 if name == "rlsd" else 1
            ]
        ]
    else:
        made = [
            {"options": options, "divergence": rows(lambda: source.expovariate(0.3), lengths) + [[0.5] * 3]}
            for options in ({}, {"quantile": 0.7, "beta": 0.4})
        ]
    return made


def _distributions(source, lengths, rewards):
    """Log-probabilities of tokens, and the sums of squares of the distributions of five that they are drawn from."""
    logprobs, squares = [], []
    for length in lengths:
        drawn = []
        for _ in range(length):
            parts = [source.expovariate(1.0) ** 2 for _ in range(5)]
            drawn.append([part / sum(parts) for part in parts])
        logprobs.append([round(math.log(parts[0]), 6) for parts in drawn])
        squares.append([round(sum(p * p for p in parts), 6) for parts in drawn])
    return {"options": {}, "reward": rewards, "logprobs": logprobs, "squares": squares}


def tables():
    """Every method's source, inputs and outputs; the outputs with 12 digits."""
    made = {}
    for name, (rule, source, kind) in RULES.items():
        made[name] = {"source": source, "gives": kind, "cases": []}
        for case in cases(name):
            outputs = [[float(f"{value:.12g}") for value in row] for row in rule(case)]
            made[name]["cases"].append({**case, kind: outputs})
    return made


def written(made):
    """The tables as text, a case a line."""
    parts = []
    for name, table in made.items():
        lines = ",\n  ".join(json.dumps(case) for case in table["cases"])
        head = json.dumps({"source": table["source"], "gives": table["gives"]})[:-1]
        parts.append(f'"{name}": {head}, "cases": [\n  {lines}\n]}}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    TABLES.write_text(written(tables()), encoding="utf-8")
