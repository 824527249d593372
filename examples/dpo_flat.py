"""DPO with nothing hidden: one file, no library of ours. tests/test_examples.py holds it to the library's numbers.

    python examples/dpo_flat.py MODEL_FOLDER pairs.jsonl

Each line of the file has a prompt, a chosen and a rejected response. It takes every pair in every step, so that
nothing depends on an order, and is slow on purpose: one sequence at a time, no padding, no batching.
"""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, AutoTokenizer


def response_logp(model: Any, tokenizer: Any, prompt: str, response: str) -> torch.Tensor:
    """Sum the log-probabilities of the response's tokens, the end of text included; the prompt counts for nothing."""
    before = tokenizer(prompt)["input_ids"]
    after = [*tokenizer(prompt + response)["input_ids"][len(before) :], tokenizer.eos_token_id]
    ids = torch.tensor([before + after])
    logps = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    return logps.gather(-1, ids[0, 1:, None])[len(before) - 1 :].sum()


def main(folder: str, file: str, steps: int = 4, beta: float = 0.1, lr: float = 1e-2) -> list[float]:
    """Train, and return the loss of each step."""
    pairs = [json.loads(line) for line in Path(file).read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    policy = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()  # eval: no dropout
    reference = copy.deepcopy(policy).requires_grad_(False)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=lr, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        total = 0.0
        for pair in pairs:
            reward = {}
            for name in ("chosen", "rejected"):
                logp = response_logp(policy, tokenizer, pair["prompt"], pair[name])
                reward[name] = beta * (logp - response_logp(reference, tokenizer, pair["prompt"], pair[name]))
            loss = -logsigmoid(reward["chosen"] - reward["rejected"]) / len(pairs)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses


if __name__ == "__main__":
    print(*(f"{loss:.6f}" for loss in main(*sys.argv[1:])), sep="\n")
