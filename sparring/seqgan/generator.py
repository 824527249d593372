"""The LSTM that writes: log-probabilities, states to go on from, and fast sampling.

Token 0 begins every sequence and is not part of it. Where sequences have an end (`has_end`), 0 is also what ends
them and fills the rest; elsewhere it is a token like any other, as it was in the authors' code.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

START = END = 0
CHUNK = {"cpu": 2**17}  # probabilities in memory at a time while sampling; more than a cache holds takes twice as long
AMPLE = 2**27  # the same on a device with memory of its own
MEASURED = 256  # sequences whose probabilities are in memory at a time while measuring

State = tuple[Tensor, Tensor]
"""Hidden state and cell of an LSTM, each [..., H]."""


class Generator(nn.Module):
    """An LSTM language model of one layer, its weights drawn from N(0, spread^2)."""

    def __init__(self, vocabulary: int, embedding: int, hidden: int, *, spread: float, draw: torch.Generator) -> None:
        super().__init__()

        def weights(*shape: int) -> nn.Parameter:
            return nn.Parameter(spread * torch.randn(shape, generator=draw))

        self.embedding = weights(vocabulary, embedding)
        self.gates, self.gates_bias = weights(4 * hidden, embedding + hidden), weights(4 * hidden)
        self.output, self.output_bias = weights(vocabulary, hidden), weights(vocabulary)

    def begin(self, rows: int) -> State:
        """The state after the token that begins every sequence."""
        empty = self.output.new_zeros(rows, self.output.shape[1])
        return self.step(torch.full((rows,), START, device=empty.device), (empty, empty))

    def step(self, tokens: Int[Tensor, "*rows"], state: State) -> State:
        """Read one token in each row."""
        hidden, cell = state
        gates = F.linear(torch.cat([F.embedding(tokens, self.embedding), hidden], -1), self.gates, self.gates_bias)
        take, forget, show, new = gates.chunk(4, -1)
        cell = forget.sigmoid() * cell + take.sigmoid() * new.tanh()
        return show.sigmoid() * cell.tanh(), cell

    def states(self, tokens: Int[Tensor, "B T"]) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B T H"]]:
        """The states before each token is read, from which it can be drawn."""
        found = [self.begin(len(tokens))]
        for t in range(tokens.shape[1] - 1):
            found.append(self.step(tokens[:, t], found[-1]))
        return torch.stack([h for h, _ in found], 1), torch.stack([c for _, c in found], 1)

    def logits(self, hidden: Float[Tensor, "*rows H"]) -> Float[Tensor, "*rows V"]:
        """Unnormalised log-probabilities of the next token."""
        return F.linear(hidden, self.output, self.output_bias)

    def token_logps(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Log-probability of each token, in nats."""
        flat = self.logits(self.states(tokens)[0]).flatten(0, 1)
        return -F.cross_entropy(flat, tokens.flatten(), reduction="none").view(tokens.shape)

    @torch.no_grad()
    def draw(self, hidden: Float[Tensor, "R H"], draw: torch.Generator) -> Int[Tensor, " R"]:
        """Draw the next token of each row: one random number a row, and where the cumulative sum passes it."""
        chance = torch.rand(len(hidden), 1, generator=draw).to(hidden.device)
        rows = max(1, CHUNK.get(hidden.device.type, AMPLE) // len(self.output))
        out = [hidden.new_zeros(0, dtype=torch.long)]
        for part, u in zip(hidden.split(rows), chance.split(rows), strict=True):
            reached = self.logits(part).softmax(-1).cumsum(-1)
            # The last sum is not exactly 1, and a product with it may round up to it.
            found = torch.searchsorted(reached, u * reached[:, -1:], right=True)
            out.append(found[:, 0].clamp(max=len(self.output) - 1))
        return torch.cat(out)

    @torch.no_grad()
    def sample(self, rows: int, length: int, draw: torch.Generator, *, has_end: bool) -> Int[Tensor, "B T"]:
        """Write sequences."""
        state, out = self.begin(rows), []
        for t in range(length):
            token = self.draw(state[0], draw)
            out.append(stay_ended(token, out[-1]) if has_end and t else token)
            state = self.step(out[-1], state)
        return torch.stack(out, 1)

    @torch.no_grad()
    def nll(self, tokens: Int[Tensor, "N T"], *, has_end: bool) -> float:
        """Mean negative log-likelihood of a token, in nats; the end counts, what fills the rest does not."""
        return self._mean(tokens, lambda part: -self.token_logps(part), has_end=has_end)

    @torch.no_grad()
    def entropy(self, tokens: Int[Tensor, "N T"], *, has_end: bool) -> float:
        """Mean entropy of the next token along sequences, in nats."""

        def each(part: Tensor) -> Tensor:
            logps = self.logits(self.states(part)[0]).log_softmax(-1)
            return -(logps.exp() * logps).sum(-1)

        return self._mean(tokens, each, has_end=has_end)

    def _mean(self, tokens: Int[Tensor, "N T"], each: Callable[[Tensor], Tensor], *, has_end: bool) -> float:
        """The mean over tokens of what `each` makes of some sequences, a few at a time."""
        total, count = 0.0, 0
        for part in tokens.split(MEASURED):
            mask = mask_of(part, has_end=has_end)
            total += float(each(part)[mask].double().sum())
            count += int(mask.sum())
        return total / count


def stay_ended(token: Int[Tensor, "*rows"], before: Int[Tensor, "*rows"]) -> Int[Tensor, "*rows"]:
    """Let an ended sequence go on with its end."""
    return torch.where(before == END, END, token)


def mask_of(tokens: Int[Tensor, "B T"], *, has_end: bool) -> Bool[Tensor, "B T"]:
    """Which tokens belong to their sequence: all, or those up to the first end, the end included."""
    if not has_end:
        return torch.ones_like(tokens, dtype=torch.bool)
    return (tokens == END).cumsum(1) - (tokens == END).long() == 0
