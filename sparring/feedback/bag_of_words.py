"""A judge that learns along with the policy and knows words only: which tokens a response has, and how long it is.

    s(x, y) = sum_v w_v [token v is in y]  +  w_len log(1 + tokens of y)  +  b

A language model as judge has a million weights for a few hundred demonstrations and knows them by heart before it
knows what they have in common (docs/log.md). This one is a logistic regression, and two things make it hold:

  - it is fitted to its optimum after every round against all responses of the run so far. The average of all earlier
    opponents is what fictitious play answers, and what keeps two players from chasing each other in circles;
  - it can be read: RUN/bag_of_words/bag_of_words.json lists the words that give a sample away.

It is not cross-fitted: a fit without some of the demonstrations takes their words for the policy's own, since the
policy was fine-tuned on all of them (docs/log.md).

It is blind to order and to the prompt, so it guides style and content, not grammar; the price of KL keeps what it
does not see. Add it to a discriminator (`--feedback discriminator+bag_of_words`) where there is enough data for both.

Source: the loss is that of Yu et al. 2023, arXiv:2305.06176, table 1; discriminators on a feature map as in
VARL, arXiv:2607.01181.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor

from sparring.core.errors import ModelError
from sparring.core.seeds import rng
from sparring.data.responses import Responses
from sparring.feedback.adversary import REWARDS, Demonstrations, Terms, one_by_one
from sparring.feedback.logistic import Linear, fit
from sparring.models.machine import Machine
from sparring.models.trunk import Trunk

FILE = "bag_of_words.json"
REMEMBERED = 20_000  # responses; later ones then take the places of random earlier ones

Tokens = tuple[int, ...]


@runtime_checkable
class Settings(Protocol):
    """What the judge needs to be told, ready-made by `loops.settings.WordsSettings`."""

    @property
    def words_ridge(self) -> float:
        """Price of the squared weights."""
        ...


class BagOfWords:
    """The judge that learns along; `vocabulary` is how many tokens there are."""

    def __init__(
        self, data: Demonstrations, settings: Settings, terms: Terms, machine: Machine, *, vocabulary: int, seed: int
    ) -> None:
        self.settings, self.terms, self.machine, self.vocabulary, self.seed = settings, terms, machine, vocabulary, seed
        self._real = [row.responses[0] for row in (*data.real, *data.held_out)]
        self._unwanted = [row.responses[0] for row in data.unwanted]
        self._fakes: list[Tokens] = []
        self._model: Linear | None = None
        self._calls = 0

    def score(self, responses: Responses) -> Float[Tensor, "B K"]:
        """Score each response by the reward form in use; 0 logits before anything was learnt."""
        return REWARDS[self.terms.reward](self.logits(responses)).where(responses.batch.exists, 0.0)

    def logits(self, responses: Responses) -> Float[Tensor, "B K"]:
        """The log-odds that a response is a demonstration, as the judge believes."""
        if self._model is None:
            return torch.zeros(responses.batch.mask.shape[:2], device=responses.batch.mask.device)
        return _score(self._model, responses)

    def learn(self, fake: Responses, *, updates: int | None = None) -> dict[str, float]:
        """Remember the new responses and fit again, unless `updates` is 0; returns figures.

        Several processes put their responses together first and draw alike, so all learn the same.
        """
        draw = rng(self.seed, "bag of words", self._calls)
        self._calls += 1
        for row in (row for one in self.machine.join(one_by_one(fake)) for row in one):
            if len(self._fakes) < REMEMBERED:
                self._fakes.append(row.responses[0])
            else:
                self._fakes[int(draw.integers(REMEMBERED))] = row.responses[0]
        return self._fit() if updates != 0 and self._fakes else {}

    def _fit(self) -> dict[str, float]:
        """Fit the weights anew; real and fake count the same, however many there are."""
        real, own, other = len(self._real), len(self._fakes), len(self._unwanted)
        rows = features([*self._real, *self._fakes, *self._unwanted], self.vocabulary)
        is_real = np.arange(real + own + other) < real
        unwanted = self.terms.negatives_share if other else 0.0
        shares = np.array(
            [0.5 / real] * real + [0.5 * (1 - unwanted) / own] * own + [0.5 * unwanted / max(other, 1)] * other
        )
        self._model = fit(rows, is_real.astype(float), shares, self.settings.words_ridge, self._model)
        scores = self._model.score(rows)
        margin = np.where(is_real, scores, -scores)
        return {
            "judge_loss": float(shares @ np.logaddexp(0, -margin)),
            "judge_accuracy": float(shares @ (margin > 0)),
        }

    def state(self) -> dict[str, Any]:
        """Return what was learnt and what it was learnt from."""
        model = None if self._model is None else (torch.from_numpy(self._model.weights), self._model.bias)
        return {"fakes": self._fakes, "model": model, "calls": self._calls}

    def load(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` returned."""
        self._fakes, self._calls = [tuple(y) for y in state["fakes"]], state["calls"]
        if state["model"] is not None:
            weights, bias = state["model"]
            self._model = Linear(weights=weights.numpy(), bias=bias)

    def save(self, tokenizer: Any, folder: Path) -> None:
        """Write the weights with the words they belong to, the most telling first."""
        assert self._model is not None, "a judge that has learnt nothing is not kept"
        weights = self._model.weights
        order = [int(v) for v in np.argsort(-np.abs(weights[:-1])) if abs(weights[v]) > 1e-6]
        content = {
            "vocabulary": self.vocabulary,
            "bias": self._model.bias,
            "log_length": float(weights[-1]),
            "tokens": [{"id": v, "text": tokenizer.decode([v]), "weight": float(weights[v])} for v in order],
        }
        (folder / FILE).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


class SavedBagOfWords:
    """The judge of a finished run: its weights, frozen."""

    def __init__(self, model: Linear) -> None:
        self.model = model

    def score(self, responses: Responses) -> Float[Tensor, "B K"]:
        """Score each response, in logits."""
        return _score(self.model, responses)


def load_bag_of_words(path: str, policy: Trunk) -> SavedBagOfWords:
    """Read what `BagOfWords.save` wrote. Raises ModelError when it is damaged or knows other tokens than the policy."""
    file = Path(path) / FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        weights = np.zeros(content["vocabulary"] + 1)
        weights[-1] = content["log_length"]
        for token in content["tokens"]:
            weights[token["id"]] = token["weight"]
        model, words = Linear(weights=weights, bias=content["bias"]), content["tokens"][:20]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ModelError(f"{file}: does not hold the words of a judge ({type(error).__name__}: {error})") from error
    known = len(policy.tokenizer) == content["vocabulary"]
    if not known or any(policy.tokenizer.decode([w["id"]]) != w["text"] for w in words):
        raise ModelError(f"{path}: its tokens are not those of {policy.source}, so it would read other words")
    return SavedBagOfWords(model)


def features(texts: Sequence[Tokens], vocabulary: int) -> csr_array:
    """Describe texts as rows [N, vocabulary + 1]: 1 for every token that is there, and log(1 + length)."""
    kinds = [sorted(set(y)) for y in texts]
    columns = [c for present in kinds for c in (*present, vocabulary)]
    values = [v for present, y in zip(kinds, texts, strict=True) for v in (*[1.0] * len(present), np.log1p(len(y)))]
    ends = np.cumsum([0, *(len(present) + 1 for present in kinds)])
    return csr_array((np.array(values), np.array(columns), ends), shape=(len(texts), vocabulary + 1))


def _score(model: Linear, responses: Responses) -> Float[Tensor, "B K"]:
    """Score every response that exists, in logits; the others get 0."""
    texts = [row.responses[0] for one in one_by_one(responses) for row in one]
    scores, exists = model.score(features(texts, len(model.weights) - 1)), responses.batch.exists
    found = torch.from_numpy(scores).float().to(exists.device)
    return torch.zeros(exists.shape, device=exists.device).masked_scatter(exists, found)
