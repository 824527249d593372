"""Read responses again, token by token and relaxed, so that a gradient passes through what the policy was fed.

The tokens are there already, from the ordinary sampler or from a person; the noise is drawn that would have made the
policy choose them (core/relaxation.py). Each relaxed token is mixed into one embedding and fed back, so the state
of every later token depends on it; in the straight-through form its value is exactly the token's.

An end of text is what it is: exactly one-hot and without gradient, and no other token is ever mixed with it. So
nothing that reads the relaxed response moves the length, neither for free nor at a price.
"""

import zlib
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot

from sparring.core.errors import ModelError
from sparring.core.relaxation import noise_given, relax
from sparring.core.seeds import generator
from sparring.data.batch import Batch
from sparring.models.cache import Past
from sparring.models.decode import Decoder, past_of
from sparring.models.forward import embed
from sparring.models.roles import Network
from sparring.models.signals import log_probabilities
from sparring.models.trunk import Trunk
from sparring.rollout.sample import end_tokens

NEVER = -1e30  # a logit so low that its token is never chosen; of an infinite one the noise would be undefined


@dataclass(kw_only=True, eq=False)
class Relaxation:
    """How the policy's tokens are relaxed now: `tau` changes from round to round, all else stays."""

    policy: Network
    tau: float
    is_soft: bool
    temperature: float
    seed: int

    def unroll(self, batch: Batch) -> tuple[Float[Tensor, "N V"], Float[Tensor, "N V"]]:
        """Feed the policy its own relaxed tokens.

        Returns them, and the log-probabilities (in nats) of all tokens at each place, both in the order of the true
        entries of the mask. Memory is that of a few such tensors, and of all the states on the way.
        """
        trunk, mask = self.policy.trunk, batch.mask
        K, T = mask.shape[1:]
        past = differentiable_past(trunk, batch.prompt_ids.shape[1] + T)
        prompts = [tuple(ids[real].tolist()) for ids, real in zip(batch.prompt_ids, batch.prompt_mask, strict=True)]
        tokens, uniform = batch.response_ids.flatten(0, 1), self._uniform(batch)
        relaxed, logps = [], []
        with self.policy.trunk.using(self.policy.adapter):
            reader = Decoder(trunk, prompts, K, T, past, is_differentiable=True)
            for t in range(T):
                logits = reader.logits() / self.temperature
                relaxed.append(self._relax(logits, tokens[:, t], uniform[:, t]))
                logps.append(logits.log_softmax(-1))
                if t + 1 < T:
                    reader.advance_embedded(embed(trunk, relaxed[-1]))
        here = mask.flatten(0, 1)
        return torch.stack(relaxed, 1)[here], torch.stack(logps, 1)[here]

    @torch.no_grad()
    def of_text(self, batch: Batch) -> Float[Tensor, "N V"]:
        """Relax any text as the policy's own is, fed with the text itself, and without gradient."""
        logits = log_probabilities(self.policy, batch, self.temperature)
        uniform = self._uniform(batch, is_own=False)
        return self._relax(logits, batch.response_ids[batch.mask], uniform[batch.mask.flatten(0, 1)])

    def _relax(
        self, logits: Float[Tensor, "N V"], tokens: Int[Tensor, " N"], uniform: Float[Tensor, "N V"]
    ) -> Float[Tensor, "N V"]:
        ends = torch.tensor(end_tokens(self.policy), device=logits.device)
        going = logits.index_fill(-1, ends, NEVER)
        noise = noise_given(going.detach(), tokens, uniform)
        found = relax(going, noise, self.tau, tokens=None if self.is_soft else tokens)
        return found.where(~_is_any(tokens, ends)[:, None], one_hot(tokens, logits.shape[-1]).to(found.dtype))

    def _uniform(self, batch: Batch, *, is_own: bool = True) -> Float[Tensor, "rows T V"]:
        """Draw uniform numbers; each response has a stream of its own, named by what it says after which prompt.

        The policy may say the same twice, so its own are named by their place as well. The place of other texts says
        only what they happen to be read with.
        """
        (B, K, T), V = batch.mask.shape, len(self.policy.trunk.embedding)
        ids, prompts = batch.response_ids.cpu(), batch.prompt_ids.cpu()
        rows = []
        for b in range(B):
            prompt = str(prompts[b][batch.prompt_mask[b].cpu()].tolist())
            for k in range(K):
                own = f"{prompt} {ids[b, k][batch.mask[b, k].cpu()].tolist()}{f' {k}' if is_own and k else ''}"
                rows.append(torch.rand(T, V, generator=generator(self.seed, "relax", zlib.crc32(own.encode()))))
        return torch.stack(rows).to(batch.mask.device)


def differentiable_past(trunk: Trunk, length: int) -> Past:
    """Check that a gradient can be taken through what this model reads. Raises ModelError when it cannot."""
    past, ids = past_of(trunk, length), torch.arange(2, device=trunk.device)
    looks_up = torch.equal(trunk.lm.get_input_embeddings()(ids), trunk.embedding[ids])
    if past is not Past.PADDED or not looks_up or not trunk.has_linear_head or not isinstance(trunk.head, nn.Linear):
        raise ModelError(
            f"{trunk.source}: {type(trunk.lm).__name__} cannot be fed mixtures of tokens here, for its attention, "
            "embeddings or head are of a special kind; take rlgaf, which only asks for scores"
        )
    return past


def _is_any(tokens: Int[Tensor, " N"], ends: Int[Tensor, " n"]) -> Bool[Tensor, " N"]:
    return torch.isin(tokens, ends)
