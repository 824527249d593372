"""A judge that learns along with the policy and knows words only: which tokens a response has, and how long it is.

    s(x, y) = sum_v w_v [token v is in y]  +  w_len log(1 + tokens of y)  +  b

A language model as judge has a million weights for a few hundred demonstrations and knows them by heart before it
knows what they have in common (docs/log.md). This one is a logistic regression, and three things make it hold:

  - it is fitted to its optimum after every round against all responses of the run so far. The average of all earlier
    opponents is what fictitious play answers, and what keeps two players from chasing each other in circles;
  - it is cross-fitted: responses to a prompt are scored by weights that have not seen that prompt's demonstrations,
    so copying one pays nothing. Held-out accuracy needs no demonstration to be set aside;
  - it can be read: RUN/bag_of_words/bag_of_words.json lists the words that give a sample away.

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
from sparring.data.batch import Row
from sparring.data.responses import Responses
from sparring.feedback.adversary import REWARDS, Demonstrations, Terms, one_by_one
from sparring.feedback.logistic import Linear, Vector, fit
from sparring.models.machine import Machine
from sparring.models.trunk import Trunk

FILE = "bag_of_words.json"
REMEMBERED = 20_000  # responses; later ones then take the places of random earlier ones
NO_FOLD = -1

Tokens = tuple[int, ...]


@runtime_checkable
class Settings(Protocol):
    """What the judge needs to be told, ready-made by `loops.settings.WordsSettings`."""

    @property
    def words_ridge(self) -> float:
        """Price of the squared weights."""
        ...

    @property
    def words_folds(self) -> int:
        """Parts of the demonstrations."""
        ...


class BagOfWords:
    """The judge that learns along; `vocabulary` is how many tokens there are."""

    def __init__(
        self, data: Demonstrations, settings: Settings, terms: Terms, machine: Machine, *, vocabulary: int, seed: int
    ) -> None:
        self.settings, self.terms, self.machine, self.vocabulary, self.seed = settings, terms, machine, vocabulary, seed
        every = [*data.real, *data.held_out]
        self._real = [row.responses[0] for row in every]
        self._real_folds, self._fold_of = _deal(every, settings.words_folds, seed)
        self._unwanted = [row.responses[0] for row in data.unwanted]
        self._fakes: list[Tokens] = []
        self._fake_folds: list[int] = []
        self._models: list[Linear] = []
        self._calls = 0

    def score(self, responses: Responses) -> Float[Tensor, "B K"]:
        """Score each response by the reward form in use; 0 logits before anything was learnt."""
        return REWARDS[self.terms.reward](self.logits(responses)).where(responses.batch.exists, 0.0)

    def logits(self, responses: Responses) -> Float[Tensor, "B K"]:
        """The log-odds that a response is a demonstration, by weights that do not know its prompt's demonstrations."""
        rows = [row for one in one_by_one(responses) for row in one]
        return _in_place(responses, self._score([r.responses[0] for r in rows], self._folds(rows)))

    def learn(self, fake: Responses, *, updates: int | None = None) -> dict[str, float]:
        """Measure on the new responses, remember them, and fit again, unless `updates` is 0; returns figures.

        Several processes put their responses together first and draw alike, so all learn the same.
        """
        fresh = [row for one in self.machine.join(one_by_one(fake)) for row in one]
        figures = self._measure(fresh) if self._models else {}
        self._remember(fresh)
        return figures | (self._fit() if updates != 0 and self._fakes else {})

    def _fit(self) -> dict[str, float]:
        """Fit the weights of every fold anew; real and fake count the same, however many there are."""
        real, own, other = len(self._real), len(self._fakes), len(self._unwanted)
        rows = features([*self._real, *self._fakes, *self._unwanted], self.vocabulary)
        import os
        if os.environ.get("STD"):
            from scipy.sparse import diags_array
            m = np.asarray(rows.mean(0)).ravel(); sd = np.sqrt(np.maximum(np.asarray(rows.multiply(rows).mean(0)).ravel() - m * m, 0)) + 0.01
            self.sd = sd
            rows = csr_array(rows @ diags_array(1 / sd))
        is_real = np.arange(rows.shape[0]) < real
        folds = np.array([*self._real_folds, *self._fake_folds, *[NO_FOLD] * other])
        share = self.terms.negatives_share if other else 0.0
        counts = np.array([1.0] * real + [(1 - share) / own] * own + [share / max(other, 1)] * other)
        starts = self._models or [None] * self.settings.words_folds
        self._models, loss, accuracy = [], 0.0, 0.0
        for fold, start in enumerate(starts):
            part = np.flatnonzero(folds != fold)
            here, truth, weight = rows[part], is_real[part], counts[part]
            for side in (truth, ~truth):
                weight[side] *= 0.5 / weight[side].sum()
            model = fit(here, truth.astype(float), weight, self.settings.words_ridge, start)
            margin = np.where(truth, 1, -1) * model.score(here)
            loss += weight @ np.logaddexp(0, -margin) / len(starts)
            accuracy += weight @ (margin > 0) / len(starts)
            self._models.append(model)
        return {"judge_loss": float(loss), "judge_accuracy": float(accuracy)}

    def _measure(self, fresh: Sequence[Row]) -> dict[str, float]:
        """Score demonstrations and fresh responses by weights that know neither."""
        real = self._score(self._real, self._real_folds)
        fake = self._score([r.responses[0] for r in fresh], self._folds(fresh))
        return {
            "judge_score_real": float(real.mean()),
            "judge_score_fake": float(fake.mean()),
            "judge_accuracy_held_out": float((real > 0).mean() + (fake < 0).mean()) / 2,
        }

    def _score(self, texts: Sequence[Tokens], folds: Sequence[int]) -> Vector:
        """Score texts [N] by the weights that their folds were kept from, and by all where there is no fold."""
        if not self._models:
            return np.zeros(len(texts))
        f = features(texts, self.vocabulary)
        if hasattr(self, "sd"):
            from scipy.sparse import diags_array
            f = csr_array(f @ diags_array(1 / self.sd))
        scores = np.stack([m.score(f) for m in self._models])
        import os
        if os.environ.get("NOCF"):
            return scores.mean(0)
        own = np.array(folds)
        return np.where(own == NO_FOLD, scores.mean(0), scores[own, np.arange(len(own))])

    def _folds(self, rows: Sequence[Row]) -> list[int]:
        return [self._fold_of.get(row.prompt, NO_FOLD) for row in rows]

    def _remember(self, fresh: Sequence[Row]) -> None:
        draw = rng(self.seed, "bag of words", self._calls)
        self._calls += 1
        for row, fold in zip(fresh, self._folds(fresh), strict=True):
            if len(self._fakes) < REMEMBERED:
                self._fakes.append(row.responses[0])
                self._fake_folds.append(fold)
            else:
                place = int(draw.integers(REMEMBERED))
                self._fakes[place], self._fake_folds[place] = row.responses[0], fold

    def state(self) -> dict[str, Any]:
        """Return what was learnt and what it was learnt from."""
        models = [(torch.from_numpy(m.weights), m.bias) for m in self._models]
        return {"fakes": self._fakes, "folds": self._fake_folds, "models": models, "calls": self._calls}

    def load(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` returned."""
        self._fakes, self._fake_folds = [tuple(y) for y in state["fakes"]], list(state["folds"])
        self._models = [Linear(weights=w.numpy(), bias=b) for w, b in state["models"]]
        self._calls = state["calls"]

    def save(self, tokenizer: Any, folder: Path) -> None:
        """Write the mean of the weights with the words they belong to, the most telling first."""
        weights = np.mean([m.weights for m in self._models], axis=0)
        order = [int(v) for v in np.argsort(-np.abs(weights[:-1])) if abs(weights[v]) > 1e-6]
        content = {
            "vocabulary": self.vocabulary,
            "bias": float(np.mean([m.bias for m in self._models])),
            "log_length": float(weights[-1]),
            "tokens": [{"id": v, "text": tokenizer.decode([v]), "weight": float(weights[v])} for v in order],
        }
        (folder / FILE).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


class SavedBagOfWords:
    """The judge of a finished run: its mean weights, frozen."""

    def __init__(self, model: Linear) -> None:
        self.model = model

    def score(self, responses: Responses) -> Float[Tensor, "B K"]:
        """Score each response, in logits."""
        texts = [row.responses[0] for one in one_by_one(responses) for row in one]
        return _in_place(responses, self.model.score(features(texts, len(self.model.weights) - 1)))


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


def _deal(rows: Sequence[Row], folds: int, seed: int) -> tuple[list[int], dict[Tokens, int]]:
    """Deal demonstrations to folds, those of a prompt together; returns their folds, and those of the prompts.

    With fewer prompts than folds single demonstrations are dealt, and a prompt belongs to no fold.
    """
    prompts = sorted({r.prompt for r in rows})
    by_prompt = len(prompts) >= folds
    options: list[Any] = prompts if by_prompt else list(range(len(rows)))
    order = rng(seed, "bag of words", "folds").permutation(len(options))
    fold = {options[i]: place % folds for place, i in enumerate(order)}
    return [fold[r.prompt if by_prompt else i] for i, r in enumerate(rows)], fold if by_prompt else {}


def _in_place(responses: Responses, scores: Vector) -> Float[Tensor, "B K"]:
    """Put one number for each response that exists into the rectangle; the others get 0."""
    exists = responses.batch.exists.cpu()
    return torch.zeros(exists.shape).masked_scatter(exists, torch.from_numpy(scores).float())
