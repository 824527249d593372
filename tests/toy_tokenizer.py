"""A tokenizer small enough to predict by hand, with the habits of the real ones as switches."""

import re

EOS, BOS, END_OF_TURN = 0, 1, 2
SPECIAL = ("</s>", "<s>", "<end>")


class ToyTokenizer:
    """Every token is `width` characters; special tokens are tokens of their own.

    `marks_start` puts a space before each text and takes one away in decoding, as Llama's first
    tokenizers do. `begins` and `ends` add special tokens to every text. `turn_end` is what the chat
    template writes after an answer, `opening` what it asks for one with.
    """

    def __init__(
        self, *, width: int = 1, marks_start: bool = False, begins: bool = False, ends: bool = False,
        has_eos: bool = True, has_template: bool = True, turn_end: str = "</s>\n", opening: str = "<assistant>",
    ) -> None:  # fmt: skip
        self.width, self.marks_start, self.begins, self.ends = width, marks_start, begins, ends
        self.eos_token_id = EOS if has_eos else None
        self.bos_token_id = BOS if begins else None
        self.chat_template = "toy" if has_template else None
        self.turn_end, self.opening = turn_end, opening
        self.pieces = list(SPECIAL)

    def __call__(self, text: list[str], *, add_special_tokens: bool = True) -> dict[str, list[list[int]]]:
        rows = [self.encode(t) for t in text]
        if add_special_tokens:
            rows = [[BOS] * self.begins + ids + [EOS] * self.ends for ids in rows]
        return {"input_ids": rows}

    def encode(self, text: str) -> list[int]:
        text = f" {text}" if self.marks_start and text else text
        ids = []
        for part in re.split("(" + "|".join(SPECIAL) + ")", text):
            pieces = [part] if part in SPECIAL else [part[i : i + self.width] for i in range(0, len(part), self.width)]
            for piece in pieces:
                if piece not in self.pieces:
                    self.pieces.append(piece)
                ids.append(self.pieces.index(piece))
        return ids

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
        text = "".join(self.pieces[i] for i in token_ids if not (skip_special_tokens and i < len(SPECIAL)))
        return text.removeprefix(" ") if self.marks_start else text

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, add_generation_prompt: bool = False, tokenize: bool = True
    ) -> str:
        assert not tokenize
        if any(m["role"] not in ("user", "assistant") for m in conversation):
            raise KeyError("only user and assistant")
        ends = {"user": "\n", "assistant": self.turn_end}
        text = "".join(f"<{m['role']}>{m['content']}{ends[m['role']]}" for m in conversation)
        return text + self.opening if add_generation_prompt else text
