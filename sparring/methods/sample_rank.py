"""Sample and rank: pairs from the policy's own samples, for a method that learns from preferences (SLiC-HF, RSO).

    L = the loss of rso, or of another method that compares, on pairs of y_1 ... y_m
    accept y with probability exp( (score(y) - M) / b ),     M = the highest score that is left in the pool

The best policy is pi_b = pi_sft exp(score / b) / Z, and pairs should come from it, not from whatever wrote the
data. Statistical rejection sampling draws from pi_b without training: K samples of pi_sft are the pool; they
are gone through in their order, each accepted with the probability above; what was accepted leaves the pool, M is
found anew, and so on until m are accepted. b to infinity takes the first m (`sampler policy`: SLiC-HF's
sample-rank), b = 0 the m best.

    pairs first_round    the m, in random order, are paired off: m / 2 pairs
    pairs tournament     winners meet winners until one is left: m - 1 pairs
    pairs list           no pairs: all m as one ranking, for methods that learn from rankings

The higher score wins; with `labels soft` the pair also says how surely: 1 / (1 + exp(-difference)). Equal scores
say nothing, so such a pair is left out (a soft label says 1/2), and so is a pair of equal texts.

With `join data` the responses that the data already has are all compared, beside the m: so own samples extend
rankings (`pairs list`), and the policy learns from both.

Papers and code differ: the pool is keyed by place; the routine printed in the paper keys it by text, so equal samples
become one: harmless for long text, wrong for short ones. The maximum of a finite pool is an estimate, so few
samples accept too many. The default trains rso; `--policy slic` is SLiC-HF's.

Source: Liu et al. 2023, arXiv:2309.06657, algorithm 1 and sections 3.2 and 4; b 0.5, K 64, m 8, temperature 0.7,
top-k 40. sample-rank is from Zhao et al. 2023, arXiv:2305.10425.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from sparring.core.errors import SettingError
from sparring.core.records import Preference, Record
from sparring.core.registry import knob, selection
from sparring.core.selection import Scored, Selected, preference, ranking

PAIRS, LISTS = ("rso", "dpo", "ipo", "cpl_kl", "simpo", "orpo"), ("slic", "slic_kl", "listwise_dpo", "rrhf", "pro")
POLICIES = {name: {} for name in PAIRS + LISTS}
SAMPLING = {"rounds": 1, "K": 64, "temperature": 0.7, "top_k": 40}


@selection("sample_rank", data="prompt", policies=POLICIES, defaults=SAMPLING)
class SampleRank:
    sampler: str = knob("rejection", "which samples are compared", choices=("rejection", "policy"))
    sampling_beta: float = knob(0.5, "how far behind the best is still accepted; 0 takes the best", within=(0, 1e6))
    accepted: int = knob(8, "samples that are compared, of the K that are drawn", within=(2, 1024))
    pairs: str = knob("first_round", "how they are paired", choices=("first_round", "tournament", "list"))
    labels: str = knob("hard", "whether a pair says how surely it is right", choices=("hard", "soft"))

    def select(self, scored: Sequence[Scored], random: np.random.Generator) -> Selected:
        records: list[Record] = []
        rates = []
        for s in scored:
            drawn = s.scores[s.joined :]
            if self.accepted > len(drawn):
                raise SettingError(f"accepted is {self.accepted}, but only K {len(drawn)} are drawn; raise K")
            rates.append(self._rate(drawn))
            kept = [*range(s.joined), *(s.joined + k for k in self._accept(drawn, random))]
            records += [ranking(s, kept)] if self.pairs == "list" else self._pair(s, kept, random)
        return Selected(records=tuple(records), figures={"acceptance_rate": float(np.mean(rates))})

    def _chances(self, scores: Sequence[float]) -> np.ndarray:
        """The probability to accept each of a pool; of the best ones alone when beta is 0."""
        behind = np.array(scores) - max(scores)
        if self.sampling_beta == 0:
            return (behind == 0).astype(float)
        return np.exp(behind / self.sampling_beta)

    def _rate(self, scores: Sequence[float]) -> float:
        return 1.0 if self.sampler == "policy" else float(self._chances(scores).mean())

    def _accept(self, scores: Sequence[float], random: np.random.Generator) -> list[int]:
        if self.sampler == "policy":
            return list(range(self.accepted))
        pool, kept = list(range(len(scores))), []
        while len(kept) < self.accepted:
            chances = self._chances([scores[k] for k in pool])
            taken = [k for k, chance in zip(pool, chances, strict=True) if random.random() < chance]
            kept += taken[: self.accepted - len(kept)]
            pool = [k for k in pool if k not in taken]
        return kept

    def _pair(self, s: Scored, kept: list[int], random: np.random.Generator) -> list[Preference]:
        meeting = [kept[i] for i in random.permutation(len(kept))]
        found = []
        while len(meeting) > 1:
            couples = list(pairwise(meeting))[::2]
            found += [self._judge(s, a, b) for a, b in couples]
            odd = meeting[len(couples) * 2 :]
            meeting = [a if s.scores[a] >= s.scores[b] else b for a, b in couples] + odd
            if self.pairs == "first_round":
                break
        return [pair for pair in found if pair is not None]

    def _judge(self, s: Scored, a: int, b: int) -> Preference | None:
        gap = abs(s.scores[a] - s.scores[b])
        if s.responses[a] == s.responses[b] or (gap == 0 and self.labels == "hard"):
            return None
        winner, loser = (a, b) if s.scores[a] >= s.scores[b] else (b, a)
        return preference(s, winner, loser, None if self.labels == "hard" else float(1 / (1 + np.exp(-gap))))
