"""SPIN: self-play fine-tuning. Demonstrations over the policy's own samples, iterated; no judge, no preferences.

    L = - log sigmoid( beta ( log pi(y|x) / pi_g(y|x)  -  log pi(y'|x) / pi_g(y'|x) ) ),   y ~ data,  y' ~ pi_g

pi_g is the policy before the round: it wrote y', and it is the reference. The policy learns to tell what
people wrote from what it wrote itself, which is dpo with a pair that nobody had to choose; the next
round plays against the result. The exact minimiser is pi_(g+1) ~ pi_g (p_data / pi_g)^(1 / beta):
with beta 1 one round reaches the data, above 1 each goes a part of the way, below 1 it goes beyond and
early stopping has to hold it. pi = p_data is where the game ends, whatever beta.

A rival of rlgaf: both learn from demonstrations alone, by being told from them; here the discriminator
is the log-ratio of the policy itself, and the game is played from files.

`mix last` plays against the samples of this round and of the one before, as the paper does from its second
round on. A sample that equals its demonstration is left out.

Source: Chen et al. 2024, arXiv:2401.01335, equation 4.7 and algorithm 1; the minimiser is theorem 5.4. beta 0.1 is
theirs (they call it lambda), as is one sample to a prompt.
"""

from collections.abc import Sequence

from sparring.core.records import Preference
from sparring.core.registry import knob, selection
from sparring.core.selection import Scored, Selected


@selection(
    "spin", data="demonstration", policies={"dpo": {}, "ipo": {}}, defaults={"rounds": 3, "K": 1}, needs_feedback=False
)
class SPIN:
    mix: str = knob("none", "whose samples join those of this round", choices=("none", "last"))

    def select(self, scored: Sequence[Scored], earlier: Sequence[Sequence[Scored]]) -> Selected:
        against = [*(earlier[-1] if earlier and self.mix == "last" else ()), *scored]
        pairs = [
            Preference(prompt=s.prompt, chosen=s.given, rejected=y, where=s.where)
            for s in against
            for y in s.responses
            if s.given is not None and y != s.given
        ]
        return Selected(records=tuple(pairs))
