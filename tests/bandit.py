"""The world in which the right answer is known: one prompt, three responses of one token each.

Everything that a policy can do is enumerated, so expectations are exact and no tolerance hides a
mistake. The optimum of E[r] - beta KL(pi | ref) is pi* = ref exp(r / beta) / Z.
"""

import itertools

import torch

from tests.laws import asked

REF = torch.tensor([0.5, 0.3, 0.2], dtype=torch.double)
REWARD = torch.tensor([1.0, 0.0, -1.0], dtype=torch.double)
BETA = 0.5
OPTIMUM = [0.918672, 0.074597, 0.006730]  # by hand: (.5 e^2, .3, .2 e^-2) / 4.021595
OPTIMUM_VALUE = 0.695839  # beta log Z


def lowest(loss, size=3):
    """Minimise a function of a few free numbers, from zero."""
    x = torch.zeros(size, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [x], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        value = loss(x)
        value.backward()
        return value

    optimizer.step(closure)
    return x.detach()


def mean(loss):
    """The division that a loop does."""
    return loss.total.sum() / loss.weight.sum()


def tokens(logps, arms):
    """Log-probabilities of one-token responses: arms [B, K] to [B, K, 1]."""
    return logps[arms][..., None]


class Round:
    """One round of an online method on some groups of K arms, all of them sampled by the same policy."""

    def __init__(self, method, arms, logps, scores, ref=REF, value=None):
        self.method, self.arms, self.known = method, arms, {"mask": torch.ones(*arms.shape, 1, dtype=torch.bool)}
        self.known |= {"scores": scores[arms], "old_token_logps": tokens(logps.detach(), arms)}
        self.known |= {"ref_token_logps": tokens(ref.log(), arms)}
        if value is not None:
            self.known["old_values"] = value.detach().expand(*arms.shape, 1).clone()
        self.known |= method.credit(**{n: self.known[n] for n in asked(method.credit) if n in self.known})

    def loss(self, logps, value=None):
        """The method's loss under a policy that may have moved since."""
        now = self.known | {"token_logps": tokens(logps, self.arms)}
        if value is not None:
            now["values"] = value.expand(*self.arms.shape, 1)
        return self.method.loss(**{n: now[n] for n in asked(self.method.loss)})


def climb(method, score, *, rates, K=1, ref=REF, epochs=1, critic=False):
    """Follow a method's exact expected gradient from the reference; return the policy, and the critic's value.

    `score` maps the policy's probabilities to the score of each arm, `rates` are the step sizes. Every
    group of K arms is enumerated and weighs as much as it is likely to be sampled.
    """
    arms = torch.tensor(list(itertools.product(range(3), repeat=K)))
    logits = ref.log().clone().requires_grad_()
    value = torch.zeros((), dtype=torch.double, requires_grad=True) if critic else None
    moving = [logits] + ([value] if critic else [])
    for rate in rates:
        old = logits.detach().log_softmax(-1)
        likely = old.exp()[arms].prod(-1)
        samples = Round(method, arms, old, score(old.exp()), ref, value)
        for _ in range(epochs):
            loss = samples.loss(logits.log_softmax(-1), value)
            grads = torch.autograd.grad((likely * loss.total).sum() / (likely * loss.weight).sum(), moving)
            with torch.no_grad():
                for x, g in zip(moving, grads, strict=True):
                    x -= rate * g
    return logits.detach().softmax(-1), None if value is None else float(value.detach())


def sample_and_climb(method, score, *, rates, B, K, seed):
    """The same from samples: B groups of K arms drawn in each round."""
    g, logits = torch.Generator().manual_seed(seed), REF.log().clone().requires_grad_()
    for rate in rates:
        old = logits.detach().log_softmax(-1)
        arms = torch.multinomial(old.exp(), B * K, replacement=True, generator=g).view(B, K)
        loss = mean(Round(method, arms, old, score(old.exp())).loss(logits.log_softmax(-1)))
        (grad,) = torch.autograd.grad(loss, [logits])
        with torch.no_grad():
            logits -= rate * grad
    return logits.detach().softmax(-1)


def grpo_end(kl, K, ref=REF, reward=REWARD):
    """Where GRPO ends with k3 and without the standard deviation: kl ref / (z - c r), c = (K-1)/K, adding up to 1.

    Its mean gradient in the logits is c pi (r - mean r) - kl (pi - ref), for k3's part is that of KL(ref | pi).
    """
    pull = (K - 1) / K * reward
    low, high = float((kl * ref + pull).max()), float(pull.max()) + kl  # at these it adds up to more and to less than 1
    for _ in range(200):
        z = (low + high) / 2
        low, high = (z, high) if float((kl * ref / (z - pull)).sum()) > 1 else (low, z)
    return (kl * ref / (z - pull)).tolist()


def ptx_end(weight, text, *, is_whitened=False):
    """Where E[r - beta log(pi/ref)] + weight E_text[log pi] has its maximum: uphill in the logits until nothing moves.

    The slope is pi (u - mean u) + weight (text - pi); whitened advantages divide u by its standard deviation under pi.
    """
    logits = REF.log().clone()
    for _ in range(4000):
        pi = logits.softmax(-1)
        u = REWARD - BETA * (pi / REF).log()
        above = u - (pi * u).sum()
        slope = pi * above / ((pi * above**2).sum().sqrt() if is_whitened else 1.0) + weight * (text - pi)
        logits = logits + 0.3 / (1 + weight) * slope
    assert slope.abs().max() < 1e-6
    return logits.softmax(-1).tolist()
