import io
import warnings
from pathlib import Path

import pytest
import torch

from sparring.cli.main import main
from sparring.core.errors import DataError, ModelError, SettingError
from sparring.core.records import Message
from sparring.models.backbone import save_trunk, tiny_model
from sparring.rollout.answer import Answerer, Conversation, sample
from sparring.rollout.sample import Sampling

WORDS = ["good", "bad", "film", "was", "the", "U", "A", "S"]
TEMPLATE = (
    "{% for m in messages %}{{ {'user': ' U ', 'assistant': ' A ', 'system': ' S '}[m.role] + m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %} A{% endif %}"
)
HOW = Sampling(max_tokens=6)


def save(folder: Path, *, template: str | None = None, context: int = 32) -> str:
    made = tiny_model(WORDS, width=16, layers=1, heads=2, context=context, seed=0)
    made.lm.get_input_embeddings().weight.data.mul_(20)
    made.tokenizer.chat_template = template
    save_trunk(made, folder)
    return str(folder)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> str:
    return save(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def chatty(tmp_path_factory) -> str:
    return save(tmp_path_factory.mktemp("chatty"), template=TEMPLATE)


def test_every_prompt_gets_K_responses_in_order_and_the_seed_decides(plain):
    prompts = ["the film", "was", "good bad film was"]
    got = sample(plain, prompts, K=3, max_tokens=6, seed=5)
    assert [len(texts) for texts in got] == [3, 3, 3]
    assert sample(plain, prompts, K=3, max_tokens=6, seed=5) == got != sample(plain, prompts, K=3, max_tokens=6, seed=6)
    assert sample(plain, prompts[:1], K=3, max_tokens=6, seed=5)[0] == got[0]  # whoever else is asked


def test_temperature_zero_takes_the_likeliest_token_again_and_again(plain):
    answerer = Answerer(plain)
    [[text]] = answerer.respond(["the film"], Sampling(max_tokens=4, temperature=0))
    ids, lm = answerer.trunk.tokenizer("the film")["input_ids"], answerer.trunk.lm
    expected = []
    for _ in range(4):
        with torch.no_grad():
            ids = [*ids, int(lm(torch.tensor([ids])).logits[0, -1].argmax())]
        if ids[-1] == answerer.trunk.tokenizer.eos_token_id:
            break
        expected.append(ids[-1])
    assert text.split() == answerer.trunk.tokenizer.convert_ids_to_tokens(expected)


def test_no_prompt_gets_no_response(plain):
    assert sample(plain, []) == []


def test_a_text_instead_of_a_list_and_other_nonsense_is_refused(plain):
    with pytest.raises(SettingError, match="give a list"):
        sample(plain, "the film")
    with pytest.raises(SettingError, match="K must be at least 1, got 0"):
        sample(plain, ["the"], K=0)
    with pytest.raises(SettingError, match="top_p must be above 0"):
        sample(plain, ["the"], top_p=0.0)
    with pytest.raises(ModelError, match="no such model folder"):
        sample(f"{plain}-not", ["the"])


def test_a_prompt_that_is_too_long_loses_its_beginning_and_that_is_said(plain):
    long = " ".join(["bad"] * 40 + ["the film was"] * 8 + ["good", "bad"])  # 66 tokens; of 32 positions 6 are taken
    said = []
    answerer = Answerer(plain, say=said.append)
    ids = answerer.encode([long, "the"], 6)
    whole = answerer.trunk.tokenizer(long)["input_ids"]
    assert ids[0] == tuple(whole[-26:]) and len(ids[1]) == 1
    assert len(said) == 1 and said[0].startswith("1 of 2 prompts lost their beginning to keep to 26 tokens")
    with pytest.warns(UserWarning, match="lost their beginning"):
        got = sample(plain, [long], max_tokens=6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sample(plain, [long], max_tokens=6, say=said.append) == got


def test_a_response_that_leaves_no_room_for_a_prompt_is_refused(plain):
    with pytest.raises(SettingError, match="32 positions; a response of 32 tokens leaves none for its prompt"):
        sample(plain, ["the"], max_tokens=32)


def test_messages_are_rendered_by_the_models_template(plain, chatty):
    turns = (Message(role="user", content="the film"),)
    [ids] = Answerer(chatty).encode([turns], 4)
    assert ids == tuple(Answerer(chatty).trunk.tokenizer(" U the film A", add_special_tokens=False)["input_ids"])
    with pytest.raises(DataError, match="no chat template"):
        sample(plain, [turns], max_tokens=4)


class Recorder:
    """An answerer that remembers what it was asked, and says what it was told to."""

    def __init__(self, answerer: Answerer, texts: list[str]) -> None:
        self.trunk, self.texts, self.asked, self.seeds = answerer.trunk, iter(texts), [], []

    def respond(self, prompts, how, *, K=1, seed=0):
        self.asked.append(prompts[0])
        self.seeds.append(seed)
        return [[next(self.texts)]]


def talk(model: str, texts: list[str], **more) -> tuple[Conversation, Recorder]:
    conversation = Conversation(Answerer(model), HOW, **more)
    conversation.answerer = recorder = Recorder(conversation.answerer, texts)
    return conversation, recorder


def test_a_conversation_keeps_every_turn(chatty):
    conversation, recorder = talk(chatty, [" good ", "bad"], system="film")
    assert conversation.reply("was") == "good" and conversation.reply("the") == "bad"
    roles = [[(m.role, m.content) for m in turns] for turns in recorder.asked]
    first = [("system", "film"), ("user", "was")]
    assert roles == [first, [*first, ("assistant", "good"), ("user", "the")]]
    assert recorder.seeds[0] != recorder.seeds[1]  # the same line twice need not get the same response
    conversation.forget()
    conversation.answerer = Recorder(Answerer(chatty), ["good"])
    conversation.reply("was")
    assert [m.role for m in conversation.answerer.asked[0]] == ["system", "user"]


def test_a_response_that_goes_on_as_the_user_is_cut_there(chatty):
    # The template writes " U " before a turn of the user.
    assert talk(chatty, ["good film U bad A the"])[0].reply("was") == "good film"


def test_without_a_template_both_sides_write_on_one_text(plain):
    conversation, recorder = talk(plain, [" was good", " bad"])
    assert conversation.reply("the film") == " was good"
    conversation.reply("the")
    assert recorder.asked == ["the film", "the film was good\nthe"]
    with pytest.raises(SettingError, match="no chat template, so it knows no system message"):
        Conversation(Answerer(plain), HOW, system="x")


def test_chat_works_from_a_pipe_and_ends_at_quit(plain, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("the film\n\n/what\nwas\n/quit\nbad\n"))
    assert main(["chat", plain, "--max-tokens", "4", "--temperature", "0"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2 and "there is no /what" in err
    assert out.splitlines()[0] == sample(plain, ["the film"], max_tokens=4, temperature=0)[0][0]


def test_sample_prints_responses_on_stdout_and_what_was_cut_on_stderr(plain, capsys):
    assert main(["sample", plain, "--prompt", " ".join(["bad"] * 40), "-k", "2", "--max-tokens", "4", "--json"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2 and "note: 1 of 1 prompts lost their beginning" in err
