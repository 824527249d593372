"""How much memory a run needs at its peak, term by term, in bytes; every figure follows from a `Size` and the data.

    standing   weights + copies of roles + adapters + heads + optimizer state
    peak       standing + the largest of: update of the policy, update of the judge, reading, sampling

The terms are what the code next door does, so who changes that changes this: forward.py and attention.py (what is
kept), logprobs.py (chunks of logits), update.py (gradients and moments), rollout/sample.py (the past). Weights that
are trained, gradients and moments are in 32 bits; frozen linear maps in the number format of products, or quantised.
"""

from dataclasses import dataclass

from sparring.models.logprobs import chunk_tokens
from sparring.models.size import Size

NUMBER = 4  # bytes in 32 bits


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One pass over a micro-batch: `prompts` of at most `prompt` tokens, `responses` of at most `response`.

    `tokens` are all that are read, padding not counted; `answered` those of responses; `of` how many such passes make
    a step.
    """

    prompts: int
    responses: int
    prompt: int
    response: int
    tokens: int
    answered: int
    of: int = 1


def moments(trained: int) -> int:
    """AdamW keeps two running means for each trained number."""
    return 2 * NUMBER * trained


def gradients(trained: int) -> int:
    """One number for each trained number, from the first backward pass to the step."""
    return NUMBER * trained


def copies(size: Size, roles: int) -> int:
    """Without adapters, every further role is a whole copy of the trunk, language-model head included."""
    return 0 if size.is_adapted else roles * size.held


def frozen(size: Size, roles: int) -> int:
    """The same of roles that are not trained."""
    return 0 if size.is_adapted else roles * size.frozen


def adapters(size: Size, roles: int) -> int:
    """With adapters, every role but the reference is one LoRA adapter, held in 32 bits."""
    return NUMBER * size.adapter * roles


def kept(size: Size, one: Pass) -> float:
    """What autograd keeps of a pass for the way back; models/size.py counts it. Attention keeps q, k and v only."""
    return size.kept * one.tokens + size.kept_once


def masks(one: Pass) -> int:
    """Who may look at whom, as numbers to add: prompts [B, P, P] and responses [M, T, P + T], while a pass lasts."""
    return NUMBER * (one.prompts * one.prompt**2 + one.responses * one.response * (one.prompt + one.response))


def logits(size: Size, one: Pass, *, trains_head: bool) -> int:
    """The head on the way back: the logits of two chunks (a new one is made before the old one goes), a gradient of
    the states that it reads, and, if it is trained, its gradient and one chunk's share of it.

    In 32 bits a logit is one number. In 16 bits it exists in 16 and in 32 bits at once (6 bytes), the one before it in
    32 bits and as a slope in 16 (6 bytes); the head's weights are there in 16 bits, too.
    """
    chunk = min(one.answered, chunk_tokens(size.vocabulary))
    number_of_chunks = 2 if one.answered > chunk else 1
    each = 6 if size.is_half else NUMBER
    states = 2 * NUMBER * one.answered * size.width  # those that are read, gathered, and their gradient
    head = 2 * size.head if size.is_half else 0
    if trains_head:
        head += (NUMBER + (2 if size.is_half else NUMBER)) * size.head
    return number_of_chunks * each * chunk * size.vocabulary + states + head


def layer(size: Size, one: Pass) -> int:
    """The last layer on the way back, all others still kept: gradients of two states as wide as it gets inside, of
    the state between layers, and of queries, keys and values in rectangles, which are laid out anew (attention.py)."""
    laid = one.prompts * one.prompt * 3 + one.responses * (one.response + 2 * (one.prompt + one.response))
    heads = size.remembered // (2 * size.layers)  # numbers of one token's keys in one layer
    return max(NUMBER * one.tokens * (2 * size.inner + 2 * size.width), 2 * NUMBER * laid * max(heads, 1))


def update(size: Size, one: Pass, *, trained: int, has_logits: bool) -> float:
    """An update at its peak: at the start of the way back everything is kept and the head is at work; what earlier
    passes of the same step gave is there as well. At its end all gradients are there and nothing is kept.

    A critic with an adapter of its own takes its turn after the policy and needs no more room than that.
    """
    earlier = masks(one) + (gradients(trained) if one.of > 1 else 0)
    work = layer(size, one)
    if has_logits:
        work = max(work, logits(size, one, trains_head=not size.is_adapted))
    end = gradients(trained) + NUMBER * (0 if size.is_adapted else size.largest)  # one that is added to another
    return max(earlier + kept(size, one) + work, end)


TABLES = 10
"""Tensors with a number for each token of the vocabulary at each place that a step through the sampler holds at once:
logits' softmaxes and log-softmaxes, the relaxed tokens as a list and in one piece, what the price of KL is made of."""


RATIO_TABLES = 3
"""More of them where the judge is held against a base: what is likely to either, and the difference."""


def relaxed(size: Size, one: Pass, *, trained: int, compares: bool = False) -> float:
    """A step through the sampler at its peak: policy, judge and reference in one graph, and all tables.

    The policy keeps what any update does, judge and reference, whose weights stand still, half of it each, and so does
    the base that a judge `compares` with. Keys and values grow by copying, and every copy is kept. Benchmarked on both
    small models, within 3 % in 32 bits; with a base within 1 % in 16.
    """
    places = one.responses * one.response
    past = (2 if size.is_half else NUMBER) * size.remembered * (places * one.prompt + places * one.response / 2)
    earlier = gradients(trained) if one.of > 1 else 0
    kept_of_all = (2 + compares / 2) * size.kept * one.tokens + (3 + compares) * size.kept_once
    tables = TABLES + compares * RATIO_TABLES
    return earlier + masks(one) + tables * NUMBER * places * size.vocabulary + kept_of_all + past


def reading(size: Size, one: Pass, *, has_logits: bool) -> float:
    """A pass without a way back: the states of one layer, or the head's chunks and the states it reads."""
    states = NUMBER * one.tokens * (2 * size.inner + 3 * size.width)
    half = 2 * size.largest if size.is_half else 0  # one weight at a time, in 16 bits
    head = logits(size, one, trains_head=False) + NUMBER * one.tokens * size.width if has_logits else 0
    return masks(one) + max(states + half, head)


def sampling(size: Size, *, rows: int, prompts: int, prompt: int, longest: int) -> float:
    """Keys and values of `rows` responses, with room for all their tokens, in the number format of the products; or
    the pass over the prompts; and four tables of probabilities of the next token."""
    number = 2 if size.is_half else NUMBER
    past = number * size.remembered * rows * (prompt + longest) + NUMBER * size.remembered * prompts * prompt
    # A mask from every prompt's token to every other's, and one layer's states.
    first = NUMBER * prompts * prompt * (prompt + 2 * size.inner + 3 * size.width)
    return past + max(first, 4 * NUMBER * rows * size.vocabulary)
