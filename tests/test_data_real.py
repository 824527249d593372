"""Real files and real tokenizers, where they lie beside the checkout; nothing here is needed to use the library."""

import warnings
from pathlib import Path

import pytest

from sparring.core.records import Message
from sparring.data.encode import decode, encode, encode_prompts
from sparring.data.formats import recognise, to_records
from sparring.data.lessons import lessons
from sparring.data.read import read_rows
from sparring.data.split import prompt_text, shared_prompts
from sparring.data.tokens import prepare

SHARED = Path(__file__).parents[2] / "shared"
DATA, MODELS = SHARED / "data", SHARED / "models"

pytestmark = pytest.mark.skipif(not DATA.is_dir() or not MODELS.is_dir(), reason="no shared folder beside the checkout")


def rows_of(name, **options):
    return read_rows(str(DATA / f"{name}.jsonl.gz"), **options)


@pytest.fixture(scope="module")
def tokenizers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoTokenizer

        names = ("reviews-7m", "stories260K", "tinystories-656k")
        return {name: AutoTokenizer.from_pretrained(str(MODELS / name), model_max_length=10**9) for name in names}


@pytest.mark.parametrize(
    ("name", "kind", "count", "first"),
    [
        ("oasst_ranked", "ranking", 212, "ranked"),
        ("alpaca_eval_ranked", "ranking", 805, "ranked"),
        ("qa_feedback_ranked", "ranking", 500, "ranked"),
        ("tldr_pairs", "preference", 1000, "chosen"),
        ("llmeval2_human", "preference", 2262, "chosen"),
        ("mt_bench", "prompt", 160, "prompt"),
        ("oasst_demos", "demonstration", 254, "response"),
        ("tinystories", "demonstration", 4937, "response"),
    ],
)
def test_real_files_are_taken_for_what_they_are(name, kind, count, first):
    rows = rows_of(name)
    assert recognise(rows).kind == kind
    records = to_records(rows, kind)
    assert len(records) == count and getattr(records[0], first)
    assert records[-1].where.endswith(f"{name}.jsonl.gz:{count}")


def test_the_counts_of_the_readme_come_out_and_no_prompt_is_in_two_splits():
    train, test = (to_records(rows_of("tldr_pairs", split=s), "preference") for s in ("train", "test"))
    assert (len(train), len(test)) == (879, 121)
    assert shared_prompts(train, test) == ()
    rows = rows_of("imdb", where=("split=train", "label=pos"))
    assert len(rows) == 5000 and recognise(rows).kind == "demonstration"


def test_a_file_with_columns_of_its_own_is_read_with_fields():
    rows = rows_of("multi30k", where=("split=test",))
    records = to_records(rows, "demonstration", fields={"prompt": "en", "response": "de"})
    assert len(records) == 1000 and records[0].prompt == rows[0].values["en"]


def test_the_best_of_a_ranking_is_what_has_the_highest_score():
    rows = rows_of("alpaca_eval_ranked")[:200]
    for row, best in zip(rows, to_records(rows, "demonstration"), strict=True):
        scores, texts = row.values["scores"], row.values["completions"]
        assert best.response == texts[scores.index(max(scores))]


def test_rankings_without_a_best_response_are_counted():
    rows = rows_of("qa_feedback_ranked")
    tied = sum(len(set(r.values["scores"])) == 1 and len(set(r.values["completions"])) > 1 for r in rows)
    assert tied > 0 and lessons(to_records(rows, "ranking")).equal_scores == tied


@pytest.mark.parametrize("model", ["reviews-7m", "stories260K"])
@pytest.mark.parametrize("name", ["imdb", "hh_rlhf", "squad_v2_dev", "alpaca_instructions", "oasst_ranked"])
def test_prompt_and_response_decode_to_the_text_of_the_file(tokenizers, model, name):
    tokenizer = tokenizers[model]
    rows = rows_of(name)[:60]
    records = to_records(rows, recognise(rows).kind)
    for record, row in zip(records, encode(records, tokenizer), strict=True):
        for text, ids in zip(record.responses(), row.responses, strict=True):
            assert tokenizer.decode([*row.prompt, *ids], skip_special_tokens=True) == record.prompt + text
            assert decode(ids, tokenizer) == text
            assert ids[-1] == tokenizer.eos_token_id and tokenizer.eos_token_id not in ids[:-1]


def test_a_prompt_is_encoded_as_it_is_when_the_policy_goes_on_from_it(tokenizers):
    for tokenizer in tokenizers.values():
        records = to_records(rows_of("tinystories")[:50], "demonstration")
        alone = encode_prompts([r.prompt for r in records], tokenizer)
        assert [row.prompt for row in encode(records, tokenizer)] == alone
        assert alone == [tuple(tokenizer(r.prompt)["input_ids"]) for r in records]


def test_pieces_that_span_words_lose_nothing_at_the_seam(tokenizers):
    tokenizer = tokenizers["tinystories-656k"]
    records = to_records(rows_of("tinystories")[:200], "demonstration")
    for record, row in zip(records, encode(records, tokenizer), strict=True):
        whole = tokenizer.decode(tokenizer(record.prompt + record.response)["input_ids"])
        assert tokenizer.decode([*row.prompt, *row.responses[0][:-1]]) == whole


@pytest.mark.parametrize("model", ["stories260K", "tinystories-656k"])
def test_a_seam_inside_a_word_gets_no_space(tokenizers, model):
    tokenizer = tokenizers[model]
    seams = [
        ("She found a mag", "ic box."),
        ("She ", "smiled."),
        ("She", " smiled."),
        ("She smiled. ", " Then"),
        ("", "She"),
    ]
    for prompt, response in seams:
        record = to_records([_row(prompt, response)], "demonstration")[0]
        row = encode([record], tokenizer)[0]
        start = tokenizer.decode(list(row.prompt))
        assert (
            tokenizer.decode([*row.prompt, *row.responses[0][:-1]])[len(start) :].lstrip(" " * (not prompt)) == response
        )


def test_the_chat_template_of_a_real_tokenizer_is_used(tokenizers):
    tokenizer = tokenizers["reviews-7m"]
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}]
    record = to_records([_row(turns[:1], turns[1:])], "demonstration")[0]
    assert record.prompt == (Message(role="user", content="Hi"),) and prompt_text(record.prompt) == "user: Hi"
    row = encode([record], tokenizer)[0]
    prompt = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, tokenize=True, return_dict=False)
    whole = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    assert [*row.prompt] == prompt and [*row.prompt, *row.responses[0]] == whole
    assert decode(row.responses[0], tokenizer) == " Hello there"


def test_real_pairs_are_made_to_fit_and_the_count_is_right(tokenizers):
    tokenizer, records = tokenizers["reviews-7m"], to_records(rows_of("tldr_pairs")[:100], "preference")
    rows, truncation = prepare(records, tokenizer, max_prompt=300, max_response=40, overflow="cut", context=1024)
    whole = encode(records, tokenizer)
    assert truncation.prompts_cut == sum(len(r.prompt) > 300 for r in whole) > 0
    assert truncation.responses_cut == sum(len(y) > 40 for r in whole for y in r.responses) > 0
    assert all(new.prompt == old.prompt[-300:] for new, old in zip(rows, whole, strict=True))


def _row(prompt, response):
    from sparring.data.read import RawRow

    return RawRow(values={"prompt": prompt, "response": response}, where="made here")
