"""Each equation a second time, in plain floats and loops, straight from the paper. Imports nothing of the library.

A loss oracle sees one prompt: a number per prompt is a float, per response a list, per token a list of
lists without padding. It returns the prompt's total and its weight. A credit oracle sees the whole
round, as a list of such prompts; where it returns a number per response, all its tokens share it.
"""

from math import exp, log, sqrt


def sft(m, *, token_logps):
    return -sum(token_logps[0]), len(token_logps[0])


def dpo(m, *, token_logps, ref_token_logps, label=1.0):
    implied = [m.beta * (sum(token_logps[k]) - sum(ref_token_logps[k])) for k in (0, 1)]
    right = 1 / (1 + exp(implied[1] - implied[0]))
    believed = label * (1 - m.label_smoothing) + (1 - label) * m.label_smoothing
    return -believed * log(right) - (1 - believed) * log(1 - right), 1


def reward_model(m, *, scores, margin=0.0, label=1.0):
    better = 1 / (1 + exp(-(scores[0] - scores[1] - margin)))
    return -label * log(better) - (1 - label) * log(1 - better) + m.centring * (scores[0] + scores[1]) ** 2, 1


def reinforce(m, *, token_logps, advantages):
    total = 0.0
    for logps, credits in zip(token_logps, advantages, strict=True):
        for logp, advantage in zip(logps, credits, strict=True):
            total -= advantage * logp
    return total, sum(len(row) for row in token_logps)


rloo = reinforce


def ppo(m, *, token_logps, old_token_logps, advantages, values, old_values, returns):
    total = 0.0
    for k in range(len(token_logps)):
        for t in range(len(token_logps[k])):
            q, a = exp(token_logps[k][t] - old_token_logps[k][t]), advantages[k][t]
            total -= min(q * a, min(max(q, 1 - m.clip), 1 + m.clip) * a)
            v, v_old, target = values[k][t], old_values[k][t], returns[k][t]
            near = min(max(v, v_old - m.value_clip), v_old + m.value_clip)
            total += m.value_weight * 0.5 * max((v - target) ** 2, (near - target) ** 2)
    return total, sum(len(row) for row in token_logps)


def grpo(m, *, token_logps, old_token_logps, ref_token_logps, advantages):
    costs = []
    for k in range(len(token_logps)):
        costs.append([])
        for t in range(len(token_logps[k])):
            q, a = exp(token_logps[k][t] - old_token_logps[k][t]), advantages[k][t]
            gain = min(q * a, min(max(q, 1 - m.clip), 1 + m.clip) * a)
            p, ref = exp(token_logps[k][t]), exp(ref_token_logps[k][t])
            distance = {"k3": ref / p - log(ref / p) - 1, "k2": log(p / ref) ** 2 / 2}[m.estimator]
            costs[-1].append(m.kl * distance - gain)
    if m.average == "token":
        return sum(map(sum, costs)), sum(map(len, costs))
    return sum(sum(row) / len(row) for row in costs), len(costs)


def grpo_credit(m, *, scores):
    out = []
    for row in scores:
        mean = sum(row) / len(row)
        std = sqrt(sum((s - mean) ** 2 for s in row) / len(row) + 1e-8) if m.scale == "std" else 1
        out.append([(s - mean) / std for s in row])
    return {"advantages": out}


def reinforce_value(m, *, token_logps, advantages, values, returns):
    total = reinforce(m, token_logps=token_logps, advantages=advantages)[0]
    for row, due in zip(values, returns, strict=True):
        total += m.value_weight * sum((v - r) ** 2 for v, r in zip(row, due, strict=True))
    return total, sum(len(row) for row in token_logps)


def reinforce_value_credit(m, *, scores, old_token_logps, ref_token_logps, old_values):
    advantages, returns = [], []
    for b in range(len(scores)):
        due = []
        for k, score in enumerate(scores[b]):
            pairs = list(zip(old_token_logps[b][k], ref_token_logps[b][k], strict=True))
            earned = (1 - m.kl) * score if m.objective == "share" else score
            due.append([earned - m.kl * sum(old - ref for old, ref in pairs[t:]) for t in range(len(pairs))])
        returns.append(due)
        advantages.append(
            [[r - v for r, v in zip(*both, strict=True)] for both in zip(due, old_values[b], strict=True)]
        )
    return {"advantages": advantages, "returns": returns}


def reinforce_credit(m, *, scores, old_token_logps, ref_token_logps):
    paid = _paid(m, scores, old_token_logps, ref_token_logps)
    everything = [r for row in paid for r in row]
    baseline = {
        "none": lambda b, k: 0.0,
        "batch": lambda b, k: sum(everything) / len(everything),
        "leave_one_out": lambda b, k: _mean_of_others(paid[b], k),
    }[m.baseline]
    return {
        "advantages": [
            [[paid[b][k] - baseline(b, k)] * len(old_token_logps[b][k]) for k in range(len(paid[b]))]
            for b in range(len(paid))
        ]
    }


def rloo_credit(m, *, scores, old_token_logps, ref_token_logps):
    paid = _paid(m, scores, old_token_logps, ref_token_logps)
    return {
        "advantages": [
            [[row[k] - _mean_of_others(row, k)] * len(logps[k]) for k in range(len(row))]
            for row, logps in zip(paid, old_token_logps, strict=True)
        ]
    }


def ppo_credit(m, *, scores, old_token_logps, ref_token_logps, old_values):
    rewards = []
    for b in range(len(scores)):
        rewards.append([])
        for k, score in enumerate(scores[b]):
            pairs = zip(old_token_logps[b][k], ref_token_logps[b][k], strict=True)
            rewards[-1].append([-m.kl * (old - ref) for old, ref in pairs])
            rewards[-1][-1][-1] += score
    if m.whiten in ("rewards", "both"):
        rewards = _whitened(rewards, keeps_mean=True)
    raw, returns = [], []
    for b in range(len(scores)):
        raw.append([])
        returns.append([])
        for k, r in enumerate(rewards[b]):
            v, T = old_values[b][k] + [0.0], len(old_values[b][k])
            delta = [r[t] + m.gamma * v[t + 1] - v[t] for t in range(T)]
            a = [sum((m.gamma * m.lam) ** (s - t) * delta[s] for s in range(t, T)) for t in range(T)]
            raw[-1].append(a)
            returns[-1].append([a[t] + v[t] for t in range(T)])
    advantages = _whitened(raw) if m.whiten in ("advantages", "both") else raw
    return {"advantages": advantages, "returns": returns}


def _whitened(x, *, keeps_mean=False):
    everything = [a for prompt in x for row in prompt for a in row]
    mean = sum(everything) / len(everything)
    std = sqrt(sum((a - mean) ** 2 for a in everything) / len(everything) + 1e-8)
    return [[[(a - mean) / std + (mean if keeps_mean else 0.0) for a in row] for row in prompt] for prompt in x]


def _paid(m, scores, old, ref):
    return [
        [scores[b][k] - m.kl * (sum(old[b][k]) - sum(ref[b][k])) for k in range(len(scores[b]))]
        for b in range(len(scores))
    ]


def _mean_of_others(row, k):
    others = row[:k] + row[k + 1 :]
    return sum(others) / len(others)
