"""Ask a model: text in, text out. A model is loaded once and asked as often as one likes."""

import warnings
from collections.abc import Callable, Sequence

from sparring.core.errors import SettingError
from sparring.core.records import Message, Prompt, Text
from sparring.core.seeds import derive
from sparring.data.encode import decode
from sparring.data.responses import read_out
from sparring.data.tokens import prepare
from sparring.models.backbone import load_trunk
from sparring.models.machine import Machine
from sparring.models.roles import Network
from sparring.rollout import sample as sampler
from sparring.rollout.sample import Sampling

Say = Callable[[str], None]
"""Told, in a sentence, what happened to the prompts on their way to the model."""

ENDLESS = 1_000_000_000  # positions of a model that does not say how many it has


def sample(
    model: str,
    prompts: Sequence[Text],
    *,
    K: int = 1,
    max_tokens: int = 64,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    say: Say | None = None,
) -> list[list[str]]:
    """Sample K responses to each prompt: from a model folder, a run folder or a hub id.

    A prompt is text to go on from, or a tuple of messages that the model's chat template renders. One that is
    too long for the model loses its beginning; `say` is told (a Python warning when it is None). Temperature 0
    takes the likeliest token. Raises UserError for a model, prompt or setting that cannot be used.
    """
    how = Sampling(max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p)
    check_prompts(prompts, K)
    return Answerer(model, say=say).respond(prompts, how, K=K, seed=seed) if prompts else []


class Answerer:
    """A loaded model that answers prompts."""

    def __init__(self, model: str, *, device: str = "auto", say: Say | None = None) -> None:
        self.trunk = load_trunk(model, device=str(Machine(device, "fp32").device))
        self.policy = Network(trunk=self.trunk)
        self._say = say or _warn

    def respond(self, prompts: Sequence[Text], how: Sampling, *, K: int = 1, seed: int = 0) -> list[list[str]]:
        """Sample K responses to each prompt; what one of them says does not depend on the others."""
        check_prompts(prompts, K)
        ids = self.encode(prompts, how.max_tokens)
        rollout = sampler.sample(self.policy, ids, K, how, seed=seed)
        return [list(texts) for texts in read_out(rollout.batch, self.trunk.tokenizer).texts]

    def encode(self, prompts: Sequence[Text], room: int) -> list[tuple[int, ...]]:
        """Turn prompts into ids, cut on the left to leave `room` tokens for a response; what is cut is said.

        Raises SettingError when the model has no more than `room` positions.
        """
        records = [Prompt(prompt=p, where=f"prompt {i}") for i, p in enumerate(prompts, 1)]
        context = self.trunk.context
        rows, truncation = prepare(
            records, self.trunk.tokenizer, max_prompt=ENDLESS if context is None else max(1, context - room),
            max_response=room, overflow="error", context=context, room=room,
        )  # fmt: skip
        for sentence in truncation.sentences():
            self._say(sentence)
        return [row.prompt for row in rows]


class Conversation:
    """A talk with a model, turn by turn: by its chat template, or as one text that both sides go on writing."""

    def __init__(self, answerer: Answerer, how: Sampling, *, system: str | None = None, seed: int = 0) -> None:
        self.answerer, self.how, self.seed = answerer, how, seed
        self.is_chat = bool(answerer.trunk.tokenizer.chat_template)
        if system and not self.is_chat:
            raise SettingError(
                f"{answerer.trunk.source} has no chat template, so it knows no system message; begin with it as text"
            )
        self._system = (Message(role="system", content=system),) if system else ()
        self._opening = user_opening(answerer) if self.is_chat else None
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._turns = self._system
        self._text = ""
        self._number = 0

    def reply(self, line: str) -> str:
        """Answer one line, given all that was said before."""
        seed = derive(self.seed, "chat", self._number)
        self._number += 1
        if not self.is_chat:
            self._text += ("\n" if self._text else "") + line
            [[text]] = self.answerer.respond([self._text], self.how, seed=seed)
            self._text += text
            return text
        self._turns += (Message(role="user", content=line),)
        [[text]] = self.answerer.respond([self._turns], self.how, seed=seed)
        if self._opening:
            text = text.partition(self._opening)[0]
        text = text.strip()
        self._turns += (Message(role="assistant", content=text),)
        return text


def check_prompts(prompts: Sequence[Text], K: int) -> None:
    """Refuse what is no list of prompts, and a K below 1."""
    if isinstance(prompts, str):
        raise SettingError("prompts is one text, whose characters would each be a prompt; give a list: [prompt]")
    if K < 1:
        raise SettingError(f"K must be at least 1, got {K}")


def user_opening(answerer: Answerer) -> str:
    """What the template writes before a further turn of the user, as text without special tokens.

    A small model that does not end its turn writes the user's next one as well; that is where it is cut. The
    text is found by rendering a conversation with one turn more, not by looking for any template's tags.
    """
    tokenizer = answerer.trunk.tokenizer
    one = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    two = [*one, {"role": "user", "content": "~~"}]
    shorter, longer = (tokenizer.apply_chat_template(turns, tokenize=False) for turns in (one, two))
    if not longer.startswith(shorter) or "~~" not in longer[len(shorter) :]:
        return ""
    opening = longer[len(shorter) :].partition("~~")[0]
    return decode(tokenizer(opening, add_special_tokens=False)["input_ids"], tokenizer).rstrip()


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=4)
