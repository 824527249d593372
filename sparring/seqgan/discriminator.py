"""The CNN that tells: convolutions of many widths, the largest answer of each over time, a highway layer, two classes.

Source: Yu et al. 2017, arXiv:1609.05473, after Kim 2014, arXiv:1408.5882; widths, filters and
start from the authors' code, which calls its highway with a gate bias of 0 (its default is -2).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

FILTERS = {1: 100, 2: 200, 3: 200, 4: 200, 5: 200, 6: 100, 7: 100, 8: 100, 9: 100, 10: 100, 15: 160, 20: 160}
"""Filters of each width, in tokens; widths above the length of a sequence are left out."""

SPREAD, OFFSET = 0.1, 0.1  # of the weights at the start, cut at two of it, and of the biases; not in the highway


class Discriminator(nn.Module):
    """Sequences to the probability that each is real."""

    def __init__(
        self, vocabulary: int, length: int, embedding: int, share: float, keep: float, *, draw: torch.Generator
    ) -> None:
        """Draw the weights; `share` scales the number of filters, `keep` is what dropout leaves while learning."""
        super().__init__()
        wanted = {width: max(1, round(share * count)) for width, count in FILTERS.items() if width <= length}
        features = sum(wanted.values())
        self.keep = keep
        self.embedding = nn.Embedding(vocabulary, embedding)
        widths = [nn.Conv1d(embedding, count, width) for width, count in wanted.items()]
        self.widths = nn.ModuleList(widths)
        self.gate, self.change, self.output = (nn.Linear(features, n) for n in (features, features, 2))
        for layer in (*widths, self.output):
            nn.init.trunc_normal_(layer.weight, std=SPREAD, a=-2 * SPREAD, b=2 * SPREAD, generator=draw)
            assert layer.bias is not None  # both kinds have one unless told otherwise
            nn.init.constant_(layer.bias, OFFSET)
        for layer in (self.gate, self.change):
            nn.init.xavier_uniform_(layer.weight, generator=draw)
            nn.init.zeros_(layer.bias)
        nn.init.uniform_(self.embedding.weight, -1, 1, generator=draw)

    def forward(self, tokens: Int[Tensor, "B T"], dropout: torch.Generator | None = None) -> Float[Tensor, "B 2"]:
        """Logits of fake and real; with `dropout` some features are left out, chosen by it."""
        seen = self.embedding(tokens).transpose(1, 2)
        x = torch.cat([conv(seen).amax(-1).relu() for conv in self.widths], -1)
        gate = self.gate(x).sigmoid()
        x = gate * self.change(x).relu() + (1 - gate) * x
        if dropout is not None:
            x = x * (torch.rand(x.shape, generator=dropout) < self.keep).to(x) / self.keep
        return self.output(x)

    def size(self) -> Float[Tensor, ""]:
        """Half the squared weights of the output layer."""
        return (self.output.weight.square().sum() + self.output.bias.square().sum()) / 2

    @torch.no_grad()
    def score(self, tokens: Int[Tensor, "N T"], rows: int = 1024) -> Float[Tensor, " N"]:
        """Probability that each sequence is real."""
        return torch.cat([self(part).softmax(-1)[:, 1] for part in tokens.split(rows)])
