"""FARL: final-answer reinforcement learning. Sample, keep the responses whose answer is right, imitate them.

    L = - 1[ score(x, y) > threshold ] log pi(y | x),     y ~ pi_g(y | x)

The baseline of hindsight instruction relabelling: what is wrong teaches nothing, so of all samples only
the share that is right is used, and at the start that can be few. With scores of 0 and 1 the policy ends, in
a table, at the reference restricted to what is right. The comparison is strict.

Each round samples from the newest policy. Prompts that were never answered rightly are not trained on;
an round without any right answer is said and skipped.

Source: Uesato et al. 2022, arXiv:2211.14275, and as a baseline Zhang et al. 2023, arXiv:2302.05206, whose K is 4.
The threshold is ours: their feedback is 0 or 1.
"""

from collections.abc import Sequence

from sparring.core.registry import knob, selection
from sparring.core.selection import Scored, Selected, demonstration


@selection("farl", data="prompt", policies={"sft": {}}, defaults={"rounds": 3, "K": 4})
class FARL:
    threshold: float = knob(0.5, "score that a response must exceed to be imitated", within=(-1e6, 1e6))

    def select(self, scored: Sequence[Scored]) -> Selected:
        right = [demonstration(s, k) for s in scored for k, score in enumerate(s.scores) if score > self.threshold]
        return Selected(records=tuple(right), figures={"threshold": self.threshold})
