"""What each figure of an evaluation means, in one line each, and in the order in which they are shown."""

FIGURES: dict[str, str] = {
    "kl": "nats from the start model, summed over a response (k1: unbiased, of either sign)",
    "kl_k3": "the same by k3, which is never negative",
    "kl_reference": "kl from the model that was named as reference",
    "perplexity": "of the responses under the start model, per token, end of text aside: low is fluent or dull",
    "data_perplexity": "of the data's own responses under this model, per token",
    "reward_accuracy": "share of neighbouring responses in the data that the model's reward puts in the right order",
    "reward_margin": "reward of the data's best response minus that of its worst, in nats for an implied reward",
    "score_best": "score of the data's best response, the model's own mean taken off: 0 is where training left it",
    "calibration_error": "how far the share of right orders is from what the scores promise, mean over bins (ECE)",
    "overconfidence": "promised minus actual share of right orders: positive is too sure, negative not sure enough",
    "words": "words in a response",
    "tokens": "tokens in a response, end of text included",
    "eos_rate": "share of responses that ended by themselves",
    "distinct_1_words": "different words as a share of all words",
    "distinct_2_words": "different pairs of words as a share of all pairs",
    "repeated_4grams_words": "share of runs of 4 words that occurred before in the same response",
    "self_bleu": "BLEU of a response with all others as references, 0 to 100: high is dull, low is diverse",
    "identical": "share of responses that repeat another one word for word",
    "bleu": "BLEU of all responses with the data's own, 0 to 100",
    "bleu_char": "BLEU of characters, mean over responses, as PRO has it, 0 to 100",
    "chrf": "chrF of a response with the data's own, 0 to 100",
    "rouge_l": "ROUGE-L (F1) of a response with the data's own, 0 to 100",
    "exact_match": "share of responses equal to the data's own but for spaces, dots and case",
    "rubric": "tier of a response by the rubric: good is 1, average 0, bad -1",
    "improvement": "tier of a response above that of the start model's to the same prompt, -2 to 2",
    "harmless": "share of responses that the judge of harm scores above 0",
    "copied_words": "longest run of a response's words that stands in a response of the training data",
    "copied_words_max": "the longest such run of any response",
    "copied_share": "the same as a share of the response's words",
    "copied_share_max": "the largest such share of any response: 1 is a response within one of the training data",
}

SCORE = "score "  # a judge's figure is called this and the judge's name
WIN, WIN_LC = "win_rate ", "win_rate_lc "  # the same, of a model beside a rival
TURN_1, TURN_2, TURNS = "turn_1 ", "turn_2 ", "turns "  # the same, of the answers to MT-Bench
HARNESS = "harness "  # a figure of the lm-evaluation-harness is called this, its task and its metric

JUDGED: dict[str, str] = {
    SCORE: "mean score by {}",
    TURN_1: "mean score by {} of answers to first questions",
    TURN_2: "the same for second questions, which go on from the first answer",
    TURNS: "the same over both",
    HARNESS: "{}, by the lm-evaluation-harness",
    WIN: "share of prompts where the response beats the rival's by {}; a tie is half",
    WIN_LC: "the same as it would be if both responses were equally long",
}


def meaning(name: str) -> str:
    """Say what a figure means."""
    for start, text in JUDGED.items():
        if name.startswith(start):
            return text.format(name.removeprefix(start))
    return FIGURES[name]
