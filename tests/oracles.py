"""Each equation a second time, in plain floats and loops, straight from the paper. Imports nothing of the library.

A selection oracle sees samples as dictionaries of plain lists, and gives back (where, texts[, label]) in any order.
A loss oracle sees one prompt: a number per prompt is a float, per response a list, per token a list of
lists without padding. It returns the prompt's total and its weight. A credit oracle sees the whole
round, as a list of such prompts.
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
    raw, returns = [], []
    for b in range(len(scores)):
        raw.append([])
        returns.append([])
        for k, score in enumerate(scores[b]):
            v, T = old_values[b][k] + [0.0], len(old_values[b][k])
            r = [-m.kl * (old_token_logps[b][k][t] - ref_token_logps[b][k][t]) for t in range(T)]
            r[-1] += score
            delta = [r[t] + m.gamma * v[t + 1] - v[t] for t in range(T)]
            a = [sum((m.gamma * m.lam) ** (s - t) * delta[s] for s in range(t, T)) for t in range(T)]
            raw[-1].append(a)
            returns[-1].append([a[t] + v[t] for t in range(T)])
    everything = [a for prompt in raw for row in prompt for a in row]
    mean = sum(everything) / len(everything)
    std = sqrt(sum((a - mean) ** 2 for a in everything) / len(everything) + 1e-8)
    white = [[[(a - mean) / std for a in row] for row in prompt] for prompt in raw]
    return {"advantages": white, "returns": returns}


def best_of_n(m, *, scored):
    return [(s["where"], (s["responses"][s["scores"].index(max(s["scores"]))],)) for s in scored]


def raft(m, *, scored, earlier):
    pool = [s for part in earlier for s in part] + scored if m.memory == "all" else scored
    rows = sorted({s["where"] for s in pool}) if m.scope == "prompt" else [None]
    kept = []
    for row in rows:
        found = []
        for s in pool:
            for k, text in enumerate(s["responses"]):
                if row is None or s["where"] == row:
                    found.append((s["scores"][k] - m.kl * (s["logps"][k] - s["ref_logps"][k]), s["where"], text))
        wanted = max(1, round(m.share * len(found)))
        kept += [(where, (text,)) for _, where, text in sorted(found, key=lambda f: -f[0])[:wanted]]
    return kept


def farl(m, *, scored):
    return [
        (s["where"], (y,)) for s in scored for y, r in zip(s["responses"], s["scores"], strict=True) if r > m.threshold
    ]


def rest(m, *, scored, number):
    levels = [float(x) for x in m.thresholds.split(",")]
    level, every = levels[number % len(levels)], [r for s in scored for r in s["scores"]]
    low, high = (min(every), max(every)) if m.scale == "minmax" else (0.0, 1.0)
    kept = []
    for s in scored:
        ordered = sorted(s["scores"])
        at = level * (len(ordered) - 1)
        i = min(int(at), len(ordered) - 2)
        quantile = ordered[i] + (at - i) * (ordered[i + 1] - ordered[i]) if m.within == "prompt" else None
        for y, r in zip(s["responses"], s["scores"], strict=True):
            if r >= quantile if m.within == "prompt" else (r - low) / (high - low) > level:
                kept.append((s["where"], (y,)))
    return kept


def sample_rank(m, *, scored, random):
    found = []
    for s in scored:
        r, left, kept = s["scores"], list(range(len(s["scores"]))), []
        while m.sampler == "rejection" and len(kept) < m.accepted:
            top, again = max(r[k] for k in left), []
            for k in left:
                chance = exp((r[k] - top) / m.sampling_beta) if m.sampling_beta else float(r[k] == top)
                accepted = random.random() < chance
                if accepted and len(kept) < m.accepted:
                    kept.append(k)
                elif not accepted:
                    again.append(k)
            left = again
        kept = kept or left[: m.accepted]
        if m.pairs == "list":
            found.append((s["where"], tuple(s["responses"][k] for k in sorted(kept, key=lambda k: -r[k]))))
            continue
        standing = [kept[i] for i in random.permutation(len(kept))]
        while len(standing) > 1:
            winners = []
            for i in range(0, len(standing) - 1, 2):
                w, l = sorted(standing[i : i + 2], key=lambda k: -r[k])  # noqa: E741
                winners.append(w)
                label = () if m.labels == "hard" else (1 / (1 + exp(r[l] - r[w])),)
                found.append((s["where"], (s["responses"][w], s["responses"][l]), *label))
            standing = winners + standing[len(winners) * 2 :] if m.pairs == "tournament" else []
    return found


def spin(m, *, scored, earlier):
    against = (earlier[-1] if m.mix == "last" and earlier else []) + scored
    return [(s["where"], (s["given"], y)) for s in against for y in s["responses"] if y != s["given"]]


def _paid(m, scores, old, ref):
    return [
        [scores[b][k] - m.kl * (sum(old[b][k]) - sum(ref[b][k])) for k in range(len(scores[b]))]
        for b in range(len(scores))
    ]


def _mean_of_others(row, k):
    others = row[:k] + row[k + 1 :]
    return sum(others) / len(others)
