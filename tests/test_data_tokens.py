import pytest

from sparring.core.errors import DataError, ModelError, SettingError
from sparring.core.records import Demonstration, Message, Preference, Prompt, Ranking, Rating
from sparring.data.encode import decode, encode, encode_prompts
from sparring.data.tokens import prepare
from tests.toy_tokenizer import BOS, END_OF_TURN, EOS, ToyTokenizer

USER = Message(role="user", content="Hi")


def ids(tokenizer, *pieces):
    return tuple(tokenizer.pieces.index(p) for p in pieces)


def demonstration(prompt, response):
    return Demonstration(prompt=prompt, response=response, where="file:1")


def pair(prompt, chosen, rejected, where="file:1"):
    return Preference(prompt=prompt, chosen=chosen, rejected=rejected, where=where)


def fit(records, tokenizer=None, *, max_prompt=100, max_response=100, overflow="error", context=None, room=0):
    tokenizer = tokenizer or ToyTokenizer()
    return prepare(
        records,
        tokenizer,
        max_prompt=max_prompt,
        max_response=max_response,
        overflow=overflow,
        context=context,
        room=room,
    )


def test_a_response_is_what_comes_after_the_prompt_and_ends_with_the_end_of_text_token():
    tokenizer = ToyTokenizer()
    row = encode([demonstration("ab", "cd")], tokenizer)[0]
    assert row.prompt == ids(tokenizer, "a", "b")
    assert row.responses == ((*ids(tokenizer, "c", "d"), EOS),)
    assert row.where == "file:1"


def test_what_the_tokenizer_puts_first_is_kept_and_what_it_puts_last_is_not():
    tokenizer = ToyTokenizer(begins=True, ends=True)
    row = encode([demonstration("ab", "c")], tokenizer)[0]
    assert row.prompt == (BOS, *ids(tokenizer, "a", "b"))
    assert row.responses == ((*ids(tokenizer, "c"), EOS),)


def test_a_prompt_that_already_begins_with_the_first_token_does_not_get_another():
    tokenizer = ToyTokenizer(begins=True)
    assert encode([demonstration("<s>a", "c")], tokenizer)[0].prompt == (BOS, *ids(tokenizer, "a"))


@pytest.mark.parametrize(("begins", "token"), [(True, BOS), (False, EOS)])
def test_an_empty_prompt_is_one_token(begins, token):
    assert encode_prompts([""], ToyTokenizer(begins=begins)) == [(token,)]


def test_a_response_that_is_already_ended_is_not_ended_again():
    tokenizer = ToyTokenizer()
    for text in ("b</s>", "b</s></s>"):
        assert encode([demonstration("a", text)], tokenizer)[0].responses == ((*ids(tokenizer, "b"), EOS),)


def test_a_token_across_the_seam_leaves_the_prompt_as_it_is_sampled_from():
    tokenizer = ToyTokenizer(width=2)
    row = encode([demonstration("abc", "def")], tokenizer)[0]
    assert row.prompt == ids(tokenizer, "ab", "c")  # although the whole is ab cd ef
    assert row.responses == ((*ids(tokenizer, "de", "f"), EOS),)


def test_the_mark_at_the_start_of_a_text_does_not_get_between_prompt_and_response():
    tokenizer = ToyTokenizer(width=2, marks_start=True)
    row = encode([demonstration("ab", "cd")], tokenizer)[0]
    assert row.prompt == ids(tokenizer, " a", "b")  # the whole is " a", "bc", "d"; "cd" for itself would be " c", "d"
    assert tokenizer.decode([*row.prompt, *row.responses[0]], skip_special_tokens=True) == "abcd"
    assert encode([demonstration("ab", " cd")], tokenizer)[0].responses == ((*ids(tokenizer, " c", "d"), EOS),)


def test_decoding_keeps_the_space_that_a_response_begins_with_and_drops_the_end():
    for tokenizer in (ToyTokenizer(), ToyTokenizer(marks_start=True), ToyTokenizer(width=2, marks_start=True)):
        response = encode([demonstration("ab", " cd")], tokenizer)[0].responses[0]
        assert decode(response, tokenizer) == " cd"
    assert decode((), ToyTokenizer()) == ""


def test_every_kind_of_record_becomes_a_row_with_what_the_data_says():
    tokenizer = ToyTokenizer()
    rows = encode(
        [
            Prompt(prompt="p", where="1"),
            Preference(prompt="p", chosen="a", rejected="b", margin=2.0, label=0.9),
            Ranking(prompt="p", ranked=("a", "b", "c"), scores=(3.0, 2.0, 2.0)),
            Rating(prompt="p", response="a", rating=1.0),
        ],
        tokenizer,
    )
    a, b, c = ((*ids(tokenizer, x), EOS) for x in "abc")
    assert [r.responses for r in rows] == [(), (a, b), (a, b, c), (a,)]
    assert [(r.margin, r.label, r.scores) for r in rows] == [
        (None, None, None), (2.0, 0.9, None), (None, None, (3.0, 2.0, 2.0)), (None, None, (1.0,)),
    ]  # fmt: skip
    assert [r.index for r in rows] == [0, 1, 2, 3]


def test_more_records_than_one_call_of_the_tokenizer_takes_keep_their_order():
    rows = encode([demonstration(f"{i}:", "x") for i in range(2345)], ToyTokenizer())
    assert [r.index for r in rows] == list(range(2345))
    assert len({r.prompt for r in rows}) == 2345


@pytest.mark.parametrize(
    ("turn_end", "tail"),
    [
        ("</s>\n", (EOS,)),  # the end of the turn is the end of text; the newline after it is never sampled
        ("</s>", (EOS,)),
        ("<end>\n", (END_OF_TURN, EOS)),  # another token ends the turn: it stays, and the end of text follows
        ("", (EOS,)),
    ],
)
def test_a_conversation_is_rendered_by_the_tokenizers_own_template(turn_end, tail):
    tokenizer = ToyTokenizer(turn_end=turn_end)
    row = encode([demonstration((USER,), "Yo ")], tokenizer)[0]
    assert row.prompt == ids(tokenizer, *"<user>Hi\n<assistant>")
    assert row.responses == ((*ids(tokenizer, *"Yo "), *tail),)


def test_white_space_that_ends_a_turn_without_a_token_is_part_of_the_response():
    tokenizer = ToyTokenizer(turn_end="\n")
    assert encode([demonstration((USER,), "Yo")], tokenizer)[0].responses == ((*ids(tokenizer, *"Yo\n"), EOS),)


def test_a_chat_template_adds_its_own_first_token_so_none_is_added():
    tokenizer = ToyTokenizer(begins=True)
    assert encode([demonstration((USER,), "Yo")], tokenizer)[0].prompt == ids(tokenizer, *"<user>Hi\n<assistant>")


@pytest.mark.parametrize(
    ("tokenizer", "record", "error", "words"),
    [
        (ToyTokenizer(has_eos=False), demonstration("a", "b"), ModelError, ["end-of-text"]),
        (
            ToyTokenizer(has_template=False),
            demonstration((USER,), "b"),
            DataError,
            ["file:1", "no chat template", "plain text"],
        ),
        (
            ToyTokenizer(opening="<assistant><think>"),
            demonstration((USER,), "b"),
            DataError,
            ["file:1", "differently", "<think>"],
        ),
        (
            ToyTokenizer(),
            demonstration((Message(role="tool", content="7"),), "b"),
            DataError,
            ["file:1", "only user and assistant", "tool"],
        ),
        (ToyTokenizer(), demonstration("a", "</s>"), DataError, ["file:1", "no token"]),
    ],
)
def test_what_cannot_be_encoded_is_an_error_that_names_the_row(tokenizer, record, error, words):
    with pytest.raises(error) as caught:
        encode([record], tokenizer)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_nothing_is_said_when_everything_fits():
    rows, truncation = fit([demonstration("ab", "cd"), demonstration("a", "b")], max_prompt=2, max_response=3)
    assert [len(r.responses[0]) for r in rows] == [3, 2]
    assert truncation.sentences() == []


def test_prompts_are_cut_on_the_left_and_counted():
    tokenizer = ToyTokenizer()
    rows, truncation = fit([demonstration("abcde", "x"), demonstration("a", "x")], tokenizer, max_prompt=3)
    assert rows[0].prompt == ids(tokenizer, *"cde") and rows[1].prompt == ids(tokenizer, "a")
    assert truncation.prompts_cut == 1 and truncation.squeezed == 0
    assert truncation.sentences() == ["1 of 2 prompts lost their beginning to keep to 3 tokens."]


def test_a_cut_prompt_keeps_its_begin_of_text_token():
    tokenizer = ToyTokenizer(begins=True)
    rows, _ = fit([demonstration("abcde", "x")], tokenizer, max_prompt=3)
    assert rows[0].prompt == (BOS, *ids(tokenizer, *"de"))


LONG = [pair("p", "abc", "abcdef", "f:1"), pair("p", "a", "b", "f:2"), pair("p", "abcd", "abcde", "f:3")]


def test_a_response_that_is_too_long_stops_by_default_and_names_the_first_row_the_count_and_the_cures():
    with pytest.raises(DataError) as caught:
        fit(LONG, max_response=4)
    said = str(caught.value)
    # with its end-of-text token abcdef has 7 tokens, in the first row; rows 1 and 3 are too long
    for words in ("f:1", "7 tokens", "longer than 4", "2 of 3 rows", "--max-response 7", "--overflow drop", "cut"):
        assert words in said, said


def test_rows_that_are_too_long_can_be_dropped_and_keep_their_index():
    rows, truncation = fit(LONG, max_response=4, overflow="drop")
    assert [(r.where, r.index) for r in rows] == [("f:2", 1)]
    assert truncation.dropped == 2
    assert truncation.sentences() == ["2 of 3 rows were dropped: a response is longer than 4 tokens."]
    with pytest.raises(DataError, match=r"all 3 rows .* no row is left"):
        fit(LONG, max_response=1, overflow="drop")


def test_responses_that_are_cut_do_not_end_and_what_that_costs_is_counted():
    rows, truncation = fit(LONG, max_response=4, overflow="cut")
    # abc + end fits exactly; abcdef -> abcd; both responses of the third row become abcd
    assert [[len(y) for y in r.responses] for r in rows] == [[4, 4], [2, 2], [4, 4]]
    assert [[y[-1] == EOS for y in r.responses] for r in rows] == [[True, False], [True, True], [False, False]]
    assert (truncation.responses, truncation.responses_cut) == (6, 3)
    assert (truncation.all_cut, truncation.made_equal) == (1, 1)
    said = " ".join(truncation.sentences())
    assert "3 of 6 responses were cut to 4 tokens" in said
    assert "1 of 3 rows have no response that ends" in said and "1 of 3 rows have equal responses" in said


def test_pairs_that_were_equal_before_are_not_blamed_on_cutting():
    _, truncation = fit([pair("p", "abcdef", "abcdef")], max_response=4, overflow="cut")
    assert truncation.made_equal == 0 and truncation.all_cut == 1


def test_a_prompt_makes_room_for_its_longest_response_in_the_models_positions():
    tokenizer = ToyTokenizer()
    rows, truncation = fit([pair("abcdefgh", "xyz", "x"), pair("ab", "x", "y")], tokenizer, max_prompt=7, context=10)
    # 10 positions less 4 (xyz and its end) leave 6; the limit of 7 alone would have left 7
    assert rows[0].prompt == ids(tokenizer, *"cdefgh") and rows[1].prompt == ids(tokenizer, *"ab")
    assert (truncation.prompts_cut, truncation.squeezed) == (1, 1)
    assert "1 of the 1 prompts were cut further" in truncation.sentences()[-1]


def test_room_is_kept_for_responses_that_are_yet_to_be_sampled():
    rows, _ = fit([Prompt(prompt="abcdefgh")], context=10, room=5)
    assert len(rows[0].prompt) == 5
    with pytest.raises(SettingError, match="10 positions"):
        fit([Prompt(prompt="a")], context=10, room=10)


def test_a_response_that_the_model_has_no_positions_for_is_an_error():
    with pytest.raises(DataError, match=r"6 tokens, longer than 4 .*no positions for more"):
        fit([demonstration("p", "abcde")], context=5)
    rows, truncation = fit([demonstration("p", "abcde")], context=5, overflow="cut")
    assert len(rows[0].prompt) == 1 and len(rows[0].responses[0]) == 4 and truncation.max_response == 4


def test_wrong_settings_and_no_records_are_errors():
    with pytest.raises(SettingError, match="did you mean drop"):
        fit([demonstration("a", "b")], overflow="drp")
    with pytest.raises(DataError, match="not one record"):
        fit([])
