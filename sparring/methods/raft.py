"""RAFT: reward-ranked fine-tuning. Sample, keep the best, imitate them; and again from the policy that this made.

    L = - log pi(y* | x),     y* = the response with the highest rank of K ~ pi_g(y | x)
    rank(y) = score(x, y) - kl log( pi_g(y | x) / pi_0(y | x) )

pi_g is the policy of round g and pi_0 the start of the run. With kl 0 this is the paper's method;
above 0 it is its KL-ranked variant. One round is best-of-K of the current policy, so in a table
the policy ends as best of K^g: it has no optimum but the best response, and entropy falls all the way.
Stop when the score on held-out prompts does (--keep-best eval_score).

What is kept is a share of the samples, the one best of them when the share is 0:

    scope prompt    of the responses to each prompt: the paper (its code: "local")
    scope all       of all samples of the round: the default of its code ("top", share 0.2, K 1), a
                    different algorithm, which prefers easy prompts
    memory all      samples of all earlier rounds compete as well: with scope all a global set that keeps
                    growing better, with scope prompt the rejection sampling of Llama 2, which went back to all
                    earlier rounds after using only the last one had made it forget

An earlier sample keeps the log-probabilities it was drawn at. Responses to one prompt are told by the row of
the data, not by its text.

Papers and code differ: the paper keeps the best response to each prompt (scope prompt, the default here), its code the
best fifth of all samples (scope all). The code also trains on the prompt; here, as everywhere, only on responses.

Source: Dong et al. 2023, arXiv:2304.06767, algorithm 1; Touvron et al. 2023, arXiv:2307.09288, section 3.2.3.
The paper has 2048 prompts and K 32; K 8 is in its ablation and in its code.
"""

from collections.abc import Sequence

from sparring.core.registry import knob, selection
from sparring.core.selection import Scored, Selected, demonstration


@selection("raft", data="prompt", policies={"sft": {}}, defaults={"rounds": 5, "K": 8})
class RAFT:
    scope: str = knob("prompt", "among which samples the best are kept: a prompt's, or all", choices=("prompt", "all"))
    share: float = knob(0.0, "share of the samples that is kept; 0 keeps the one best", within=(0, 1))
    kl: float = knob(0.0, "price in the ranking of one nat of distance from the start of the run", within=(0, 1e6))
    memory: str = knob("none", "earlier rounds whose samples compete too", choices=("none", "all"))

    def select(self, scored: Sequence[Scored], earlier: Sequence[Sequence[Scored]]) -> Selected:
        before = [s for part in (earlier if self.memory == "all" else ()) for s in part]
        # What the data itself says joins every round, so it is counted in this one only.
        pool = [(s, k) for s in before for k in range(s.joined, len(s.responses))]
        pool += [(s, k) for s in scored for k in range(len(s.responses))]
        groups: dict[str, list[tuple[Scored, int]]] = {}
        for s, k in pool:
            groups.setdefault(s.where if self.scope == "prompt" else "", []).append((s, k))
        return Selected(records=tuple(demonstration(s, k) for group in groups.values() for s, k in self._best(group)))

    def _best(self, group: list[tuple[Scored, int]]) -> list[tuple[Scored, int]]:
        def rank(one: tuple[Scored, int]) -> float:
            s, k = one
            return s.scores[k] - self.kl * (s.logps[k] - s.ref_logps[k])

        return sorted(group, key=rank, reverse=True)[: max(1, round(self.share * len(group)))]
