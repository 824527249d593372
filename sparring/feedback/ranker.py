"""Feedback from a pairwise ranker: how much better than a baseline response it finds a response, in both orders.

    r(x, y) = [ logit rho(A | x, y, y_b) - logit rho(A | x, y_b, y) ] / 2

is 0 for the baseline itself and changes its sign when the two change places, whatever the ranker thinks of A and B.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sparring.core.errors import FeedbackError
from sparring.core.masked import masked_sum
from sparring.core.records import Demonstration, Preference, Text
from sparring.data.batch import collate
from sparring.data.compare import LETTERS, question
from sparring.data.encode import encode_prompts
from sparring.data.formats import to_records
from sparring.data.read import read_rows
from sparring.data.responses import Responses
from sparring.data.tokens import prepare
from sparring.feedback.expression import RANKER, Call, call_of
from sparring.models.backbone import load_trunk
from sparring.models.roles import Network, Networks
from sparring.models.signals import compute
from sparring.models.trunk import Trunk
from sparring.models.update import micro_batches

ENDLESS = 1_000_000_000  # positions of a model that does not say how many it has
LETTER = 8  # tokens that a letter and the end of text may take, more than enough for any tokenizer
HOW = "write ranker(RUN,baseline=FILE), FILE with a response to every prompt"


class Ranker:
    """Scores against a baseline. It reads text, so that its tokenizer may be another than the policy's.

    `baseline` maps a prompt, as the policy's tokenizer reads it back, to the prompt as it was written and to the
    response that scores 0.
    """

    def __init__(
        self, network: Network, baseline: Mapping[str, tuple[Text, str]], source: str, micro_tokens: int = 8192
    ) -> None:
        self.network, self.baseline, self.source, self.micro_tokens = network, baseline, source, micro_tokens

    def score(self, responses: Responses) -> Float[Tensor, "B K"]:
        """Score each response; FeedbackError names a prompt that the baseline does not answer."""
        here = responses.batch.exists
        known = [self._known(prompt) for prompt in responses.prompts]
        asked = [(*known[b], responses.texts[b][k]) for b, k in here.nonzero().tolist()]
        odds = better(self.network, [(x, y, rival) for x, rival, y in asked], self.micro_tokens)
        return torch.zeros(here.shape, device=here.device).masked_scatter(here, odds.to(here.device))

    def _known(self, prompt: str) -> tuple[Text, str]:
        if prompt in self.baseline:
            return self.baseline[prompt]
        # A prompt that was too long for the policy has lost its beginning.
        longer = [found for text, found in self.baseline.items() if prompt and text.endswith(prompt)]
        if not longer:
            raise FeedbackError(f"{self.source}: no baseline response to the prompt {prompt[-80:]!r}; add one")
        return longer[0]


def better(network: Network, pairs: Sequence[tuple[Text, str, str]], limit: int = 8192) -> Float[Tensor, " n"]:
    """Give the log-odds that the first of two responses to a prompt is better, the mean of both orders.

    `limit` is how many tokens are computed at once.
    """
    return in_both_orders(network, pairs, limit).mean(-1)


@torch.no_grad()
def in_both_orders(network: Network, pairs: Sequence[tuple[Text, str, str]], limit: int = 8192) -> Float[Tensor, "n 2"]:
    """Give the log-odds that the first of two responses is better: when it is shown first, and when it is second."""
    orders = [question(x, *order) for x, a, b in pairs for order in ((a, b), (b, a))]
    asked = [Preference(prompt=text, chosen=LETTERS[0], rejected=LETTERS[1], where="a comparison") for text in orders]
    if not asked:
        return torch.zeros(0, 2)
    trunk = network.trunk
    room = (trunk.context or ENDLESS) - LETTER
    rows, _ = prepare(
        asked, trunk.tokenizer, max_prompt=room, max_response=LETTER, overflow="error", context=trunk.context
    )
    odds = torch.zeros(len(rows), device=trunk.device)
    for part in micro_batches([row.tokens for row in rows], limit):
        batch = collate([rows[i] for i in part]).to(trunk.device)
        letter = masked_sum(compute(["token_logps"], batch, Networks(policy=network))["token_logps"], batch.mask)
        odds[part] = (letter[:, 0] - letter[:, 1]).float()
    return torch.stack([odds[::2], -odds[1::2]], -1)


def is_ranker(name: str) -> bool:
    """Tell ranker(...) from the name of any other judge."""
    call = call_of(name)
    return call is not None and call.function == RANKER


def load_ranker(name: str, policy: Trunk, *, device: str) -> Ranker:
    """Load ranker(RUN,baseline=FILE); raise FeedbackError when it is not written so."""
    call = call_of(name)
    if not isinstance(call, Call) or len(call.parts) != 1 or list(call.named) != ["baseline"]:
        raise FeedbackError(f"feedback {name!r}: {HOW}")
    file = call.named["baseline"]
    records = [r for r in to_records(read_rows(file), "demonstration") if isinstance(r, Demonstration)]
    ids = encode_prompts([r.prompt for r in records], policy.tokenizer)
    read = [policy.tokenizer.decode(list(p), skip_special_tokens=True) for p in ids]
    # Of several responses to a prompt the first one counts.
    baseline = {text: (r.prompt, r.response) for text, r in reversed(list(zip(read, records, strict=True)))}
    return Ranker(Network(trunk=load_trunk(call.parts[0], device=device)), baseline, file)
