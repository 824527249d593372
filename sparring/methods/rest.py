"""ReST: reinforced self-training. Sample once (grow), then imitate the best of it, ever stricter (improve).

    L = - 1[ R(x, y) > threshold_i ] log pi(y | x),     y ~ pi_g(y | x),     threshold_1 < threshold_2 < ...

One round is one improve step, from the policy of the one before; a new grow step comes when all thresholds
were used. So `rounds` 8 with four thresholds is two grow steps of four improve steps each.

    scale minmax      R are the scores, scaled to 0 ... 1 over all samples of the grow step (none: as they are)
    within all        one threshold for all samples, strictly exceeded (the paper)
    within prompt     the threshold is a quantile of the scores for the same prompt, which counts as reached

A step keeps, in a table, the policy restricted to what exceeds the threshold; higher thresholds keep subsets. If
the first one is not below the mean R of the grow step, a better policy is certain. A threshold that nothing exceeds
trains nothing, which is said. The judge's mistakes are kept too: in the paper's human study one grow step was best.

With `join data` the responses of the data are part of every grow step, as in the paper: scored and scaled with the
samples, and imitated where they exceed the threshold. Files of prompts alone have none, so it is not the default.

Papers and code differ: the paper has one threshold for all samples, strictly exceeded (the default here), trlx a
quantile for each prompt, which may be reached, and drops duplicates, which stay here. The paper lowers the learning
rate of later improve steps, here it stays; how rewards come to 0 ... 1 it leaves to the judge; min and max are ours.

Source: Gulcehre et al. 2023, arXiv:2308.08998, algorithm 1; thresholds from its section 4.
"""

from collections.abc import Sequence

import numpy as np

from sparring.core.errors import SettingError
from sparring.core.registry import knob, selection
from sparring.core.selection import Scored, Selected, demonstration


@selection("rest", data="prompt", policies={"sft": {}}, defaults={"rounds": 4, "K": 16, "temperature": 0.8})
class ReST:
    thresholds: str = knob("0.7,0.8,0.9,0.95", "rising thresholds, one for each improve step, joined by commas")
    within: str = knob("all", "what a threshold is taken over", choices=("all", "prompt"))
    scale: str = knob("minmax", "how scores become rewards", choices=("minmax", "none"))

    @property
    def passes(self) -> int:
        """How many rounds learn from the samples of one grow step."""
        return len(self._levels())

    def select(self, scored: Sequence[Scored], number: int) -> Selected:
        level = self._levels()[number % self.passes]
        every = [score for s in scored for score in s.scores]
        low, high = (min(every), max(every)) if self.scale == "minmax" else (0.0, 1.0)
        kept = []
        for s in scored:
            rewards = (np.array(s.scores) - low) / ((high - low) or 1.0)
            reached = rewards > level if self.within == "all" else rewards >= np.quantile(rewards, level)
            kept += [demonstration(s, k) for k in np.flatnonzero(reached).tolist()]
        return Selected(records=tuple(kept), figures={"threshold": level})

    def _levels(self) -> list[float]:
        try:
            levels = [float(text) for text in self.thresholds.split(",")]
        except ValueError:
            levels = []
        if not levels or levels != sorted(set(levels)) or not np.isfinite(levels).all():
            raise SettingError(f"thresholds is {self.thresholds!r}; give rising numbers such as 0.7,0.8,0.9")
        if self.within == "prompt" and not 0 <= levels[0] <= levels[-1] <= 1:
            raise SettingError(f"thresholds {self.thresholds} are quantiles within a prompt; they lie between 0 and 1")
        return levels
