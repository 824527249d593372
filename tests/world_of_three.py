"""The world of tests/bandit.py for the real loops: a language model whose only prompt has three answers of one word.

Its last layer is set so that the reference's probabilities are those of the bandit; every other word is as
good as impossible. The answer is one token, so the policy is a table of three numbers, however it is made.
"""

import torch

from sparring.models.backbone import load_trunk, save_trunk, tiny_model
from tests.bandit import REF, REWARD
from tests.small import write

ARMS = ["a", "b", "c"]
SETTINGS = {
    "precision": "fp32", "device": "cpu", "max_response": 1, "overflow": "cut", "held_out": 0.0, "save_every": 1000,
    "max_grad_norm": 1e6, "warmup": 0.0,
}  # fmt: skip


def reward(response):
    """What an answer is worth."""
    return float(REWARD[ARMS.index(response.strip())])


def make(place):
    """Write the reference model, and a file with the one prompt; returns their paths."""
    trunk = tiny_model(["ask", *ARMS], width=16, layers=1, heads=1, context=8, seed=0)
    lm, ids = trunk.lm, trunk.tokenizer(["ask", *ARMS])["input_ids"]
    # The head must not be the embeddings, for those are what the prompt is read by.
    lm.config.tie_word_embeddings = False
    lm.lm_head.weight = torch.nn.Parameter(lm.lm_head.weight.detach().clone())
    with torch.no_grad():
        state = lm.base_model(input_ids=torch.tensor([ids[0]])).last_hidden_state[0, -1]
        wanted = torch.full((len(lm.lm_head.weight),), -30.0)
        wanted[[i[0] for i in ids[1:]]] = REF.log().float()
        lm.lm_head.weight.copy_(wanted[:, None] * state / state.square().sum())
    save_trunk(trunk, place / "reference")
    return str(place / "reference"), str(write(place / "ask.jsonl", [{"prompt": "ask"}]))


def policy(folder, prompt="ask"):
    """The probabilities of the three answers, among themselves, and of everything else."""
    trunk = load_trunk(str(folder))
    ids = [i[0] for i in trunk.tokenizer(ARMS)["input_ids"]]
    with torch.no_grad():
        probs = (
            trunk.lm(input_ids=torch.tensor(trunk.tokenizer([prompt])["input_ids"])).logits[0, -1].double().softmax(-1)
        )
    arms = probs[ids]
    return (arms / arms.sum()).tolist(), 1 - float(arms.sum())
