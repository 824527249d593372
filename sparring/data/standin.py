"""A tokenizer for a model that has none: it knows only about how many tokens a text would have."""

import re
from collections.abc import Mapping

PIECE = re.compile(r"\s*(?:\w{1,6}|[^\w\s])|\s+")


class StandIn:
    """one for every six letters of a word, one for every other sign."""

    eos_token_id = 0
    bos_token_id = None
    pad_token_id = 0
    chat_template = "turns, one to a line"

    def __call__(self, text: list[str], *, add_special_tokens: bool = True) -> Mapping[str, list[list[int]]]:
        """Give every piece of a text the same id."""
        return {"input_ids": [[1] * len(PIECE.findall(t)) for t in text]}

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
        """Return as many signs as there are tokens; what they were is not known."""
        return "." * len(token_ids)

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, add_generation_prompt: bool = False, tokenize: bool = True
    ) -> str:
        """Write a turn on each line, behind its role."""
        turns = "".join(f"{m['role']}: {m['content']}\n" for m in conversation)
        return turns + ("assistant: " if add_generation_prompt else "")
