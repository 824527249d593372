"""Best-of-n, distilled: sample n responses to each prompt, and imitate the one that scores best.

    L = - log pi(y* | x),     y* = the best of y_1 ... y_n ~ pi_ref(y | x)
    P_n(y) = F(y)^n - F(below y)^n,     KL(P_n | pi_ref) <= log n - (n - 1) / n

One round: afterwards a single sample of the policy is worth the best of n samples of what it was
before. P_n is the distribution that it learns, F the chance of the reference to score at most so much; the
bound is an equality when no two responses score the same (core/best_of.py has both, and the estimate
of the score at any n from a few samples). Only the order of the scores counts, so the judge's units do not.

Picking at inference, without training, is `sparring evaluate --best-of`. Iterated it is raft. The more
samples, the more the judge's mistakes are picked as well: Gao et al. find R = d (a - b d), d = sqrt(KL).

Source: Stiennon et al. 2020, arXiv:2009.01325, and Gao et al. 2022, arXiv:2210.10760, section 2; training
on it is the first stage of Touvron et al. 2023, arXiv:2307.09288, section 3.2.3. n is K here, 16 by default.
"""

from collections.abc import Sequence

from sparring.core.registry import selection
from sparring.core.selection import Scored, Selected, best, demonstration


@selection("best_of_n", data="prompt", policies={"sft": {}}, defaults={"rounds": 1, "K": 16})
class BestOfN:
    def select(self, scored: Sequence[Scored]) -> Selected:
        return Selected(records=tuple(demonstration(s, best(s.scores)) for s in scored))
