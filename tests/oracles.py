"""Each equation a second time, in plain floats and loops, straight from the paper. Imports nothing of the library.

A selection oracle sees samples as dictionaries of plain lists, and gives back (where, texts[, label]) in any order.
A loss oracle sees one prompt: a number per prompt is a float, per response a list, per token a list of
lists without padding. It returns the prompt's total and its weight. A credit oracle sees the whole
round, as a list of such prompts; where it returns a number per response, all its tokens share it.
"""

from math import exp, log, sqrt


def sft(m, *, token_logps):
    return -sum(token_logps[0]), len(token_logps[0])


joint_feedback = sft


def dpo(m, *, token_logps, ref_token_logps, label=1.0):
    implied = [m.beta * (sum(token_logps[k]) - sum(ref_token_logps[k])) for k in (0, 1)]
    right = 1 / (1 + exp(implied[1] - implied[0]))
    believed = label * (1 - m.label_smoothing) + (1 - label) * m.label_smoothing
    return -believed * log(right) - (1 - believed) * log(1 - right), 1


def reward_model(m, *, scores, margin=0.0, label=1.0):
    better = 1 / (1 + exp(-(scores[0] - scores[1] - margin)))
    return -label * log(better) - (1 - label) * log(1 - better) + m.centring * (scores[0] + scores[1]) ** 2, 1


def pairwise_ranker(m, *, token_logps, label=1.0):
    return -label * sum(token_logps[0]) - (1 - label) * sum(token_logps[1]), 1


def ipo(m, *, token_logps, ref_token_logps, label=1.0):
    ratio = [
        sum(a - b for a, b in zip(token_logps[k], ref_token_logps[k], strict=True))
        / (len(token_logps[k]) if m.average == "mean" else 1)
        for k in (0, 1)
    ]
    z, target = ratio[0] - ratio[1], 0.5 / m.beta
    return label * (z - target) ** 2 + (1 - label) * (-z - target) ** 2, 1


def simpo(m, *, token_logps, label=1.0):
    r = [m.beta * sum(row) / len(row) for row in token_logps]
    right = 1 / (1 + exp(-(r[0] - r[1] - m.gamma)))
    return -label * log(right) - (1 - label) * log(1 - right), 1


def orpo(m, *, token_logps):
    s = [sum(row) / len(row) for row in token_logps]
    odds = [exp(x) / (1 - exp(x)) for x in s]
    ratio = odds[0] / odds[1]
    return -s[0] - m.beta * log(ratio / (1 + ratio)), 1


def kto(m, *, token_logps, ref_token_logps, batch_kl, ratings):
    r = sum(token_logps[0]) - sum(ref_token_logps[0])
    if ratings[0] > 0.5:
        return m.good_weight * (1 - 1 / (1 + exp(-m.beta * (r - batch_kl)))), 1
    return m.bad_weight * (1 - 1 / (1 + exp(-m.beta * (batch_kl - r)))), 1


def hir(m, *, token_logps, other_token_logps, entropies):
    n = len(token_logps[0])
    own, other = (sum(x[0]) / (n if m.average == "mean" else 1) for x in (token_logps, other_token_logps))
    c = exp(own) / (exp(own) + exp(other))
    contrast = -(1 - m.smoothing) * log(c) - m.smoothing * log(1 - c)
    return -sum(token_logps[0]) / n + m.alpha * contrast - m.beta * sum(entropies[0]) / n, 1


def listwise_dpo(m, *, token_logps, ref_token_logps, ratings=None):
    h = [m.beta * (sum(a) - sum(b)) for a, b in zip(token_logps, ref_token_logps, strict=True)]
    lost = _plackett_luce(h)[:1] if m.mode == "top_1" else _plackett_luce(h)
    return sum(lost) / (len(lost) if m.stages == "mean" else 1), 1


def rso(m, *, token_logps, ref_token_logps, label=1.0):
    s = [sum(row) for row in token_logps]
    if m.form != "hinge":
        s = [a - sum(b) for a, b in zip(s, ref_token_logps, strict=True)]
    z = m.gamma * (s[0] - s[1])
    if m.form == "sigmoid_norm":
        right = 1 / (1 + exp(-z))
        return -label * log(right) - (1 - label) * log(1 - right), 1
    return label * max(0, 1 - z) + (1 - label) * max(0, 1 + z), 1


def slic(m, *, token_logps, ratings):
    return _calibration(m, token_logps, ratings) - m.nll_weight * sum(token_logps[0]), 1


def slic_kl(m, *, token_logps, token_kls, ratings):
    return _calibration(m, token_logps, ratings) + m.kl_weight * sum(token_kls[0]), 1


def _calibration(m, token_logps, ratings):
    s = [sum(row) for row in token_logps]
    if m.form == "expected":
        p = [exp(x - max(s)) for x in s]
        return -sum(a * b for a, b in zip(p, ratings, strict=True)) / sum(p)
    costs = []
    for i in range(len(s)):
        for j in range(i + 1, len(s)):
            lead = {"rank": 1, "margin": ratings[i] - ratings[j], "list": j - i}[m.form]
            costs.append(max(0, m.margin * lead - s[i] + s[j]))
    return sum(costs) / len(costs)


def rrhf(m, *, token_logps, ratings):
    length = [len(row) for row in token_logps]
    by = length if m.by == "mean" else [max(length)] * len(length)
    p = [sum(row) / n for row, n in zip(token_logps, by, strict=True)]
    rank = sum(max(0, p[j] - p[i]) for i in range(len(p)) for j in range(len(p)) if ratings[i] > ratings[j])
    best = ratings.index(max(ratings))
    return m.rank_weight * rank - (sum(token_logps[best]) if m.by == "mean" else p[best]), 1


def pro(m, *, token_logps, ratings):
    s = [sum(row) / len(row) for row in token_logps]
    total = 0.0
    for k in range(len(s) - 1):
        T = [1.0 if m.sharpness == "none" else ratings[k] - r for r in ratings]
        own = max(T[k + 1 :])
        total += log(exp(s[k] * own) + sum(exp(s[i] * T[i]) for i in range(k + 1, len(s)))) - s[k] * own
    return total - m.nll_weight * (len(s) - 1) ** 2 * sum(token_logps[0]), 1


def cpl(m, *, token_logps, label=1.0):
    f = [sum(m.alpha * m.gamma**t * x for t, x in enumerate(row)) for row in token_logps]
    return _conservative(f, m.lam, label) - m.bc_weight * sum(token_logps[0]), 1


def cpl_kl(m, *, token_logps, ref_token_logps, label=1.0):
    f = [
        sum(m.alpha * m.gamma**t * (a - b) for t, (a, b) in enumerate(zip(row, ref, strict=True)))
        for row, ref in zip(token_logps, ref_token_logps, strict=True)
    ]
    return _conservative(f, m.lam, label), 1


def ranking_reward_model(m, *, scores, ratings):
    if m.form == "pairs":
        lost = [-log(1 / (1 + exp(b - a))) for i, a in enumerate(scores) for b in scores[i + 1 :]]
        return sum(lost) / len(lost), 1
    lost = _plackett_luce(scores)
    return lost[0] if m.form == "top_1" else sum(lost), 1


def _plackett_luce(h):
    return [-log(exp(h[k]) / sum(exp(x) for x in h[k:])) for k in range(len(h) - 1)]


def _conservative(f, lam, label):
    first = exp(f[0]) / (exp(f[0]) + exp(lam * f[1]))
    second = exp(f[1]) / (exp(f[1]) + exp(lam * f[0]))
    return -label * log(first) - (1 - label) * log(second)


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


def gumbel(m, *, relaxed_scores, step_kls):
    pairs = zip(relaxed_scores, step_kls, strict=True)
    return sum(m.kl * sum(kls) - score for score, kls in pairs), len(relaxed_scores)


def gumbel_credit(m):
    return {}


def reinforce_value(m, *, token_logps, advantages, values, returns):
    total = reinforce(m, token_logps=token_logps, advantages=advantages)[0]
    for row, due in zip(values, returns, strict=True):
        total += m.value_weight * sum((v - r) ** 2 for v, r in zip(row, due, strict=True))
    return total, sum(len(row) for row in token_logps)


def reinforce_value_credit(m, *, scores, old_token_logps, ref_token_logps, old_values, token_scores=None):
    advantages, returns = [], []
    for b in range(len(scores)):
        due = []
        for k, score in enumerate(scores[b]):
            pairs = list(zip(old_token_logps[b][k], ref_token_logps[b][k], strict=True))
            parts, weight = _parts(score, len(pairs), token_scores, b, k), 1 - m.kl if m.objective == "share" else 1.0
            due.append(
                [weight * sum(parts[t:]) - m.kl * sum(old - ref for old, ref in pairs[t:]) for t in range(len(pairs))]
            )
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


def ppo_credit(m, *, scores, old_token_logps, ref_token_logps, old_values, token_scores=None):
    rewards = []
    for b in range(len(scores)):
        rewards.append([])
        for k, score in enumerate(scores[b]):
            pairs = zip(old_token_logps[b][k], ref_token_logps[b][k], strict=True)
            parts = _parts(score, len(old_token_logps[b][k]), token_scores, b, k)
            rewards[-1].append([part - m.kl * (old - ref) for part, (old, ref) in zip(parts, pairs, strict=True)])
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


def _parts(score, tokens, token_scores, b, k):
    """What each token of a response is paid: its own part, and the last one what is left of the score."""
    parts = [0.0] * tokens if token_scores is None else list(token_scores[b][k])
    parts[-1] += score - sum(parts)
    return parts


def _whitened(x, *, keeps_mean=False):
    everything = [a for prompt in x for row in prompt for a in row]
    mean = sum(everything) / len(everything)
    std = sqrt(sum((a - mean) ** 2 for a in everything) / len(everything) + 1e-8)
    return [[[(a - mean) / std + (mean if keeps_mean else 0.0) for a in row] for row in prompt] for prompt in x]


def best_of_n(m, *, scored):
    return [(s["where"], (s["responses"][s["scores"].index(max(s["scores"]))],)) for s in scored]


def raft(m, *, scored, earlier):
    before = [s | {"skip": s["joined"]} for part in earlier for s in part] if m.memory == "all" else []
    pool = before + [s | {"skip": 0} for s in scored]
    rows = sorted({s["where"] for s in pool}) if m.scope == "prompt" else [None]
    kept = []
    for row in rows:
        found = []
        for s in pool:
            for k, text in enumerate(s["responses"]):
                if k >= s["skip"] and (row is None or s["where"] == row):
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
        r, left, kept = s["scores"], list(range(s["joined"], len(s["scores"]))), []
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
        kept = list(range(s["joined"])) + (kept or left[: m.accepted])
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
