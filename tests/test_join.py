"""The data's own responses beside the samples of a round: scored, measured and selected as these are."""

import json
import shutil

import pytest
import torch

from sparring.core.errors import DataError
from sparring.models.backbone import load_trunk
from tests.small import quick, rows, same, weights, write

LENGTH = ["length"]


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


RANKED = [{"prompt": f"ba b{v}", "ranked": [" ga ge gi", " mu", " de di"][: 2 + i % 2]} for i, v in enumerate("aeiou")]


@pytest.mark.parametrize("kind", ["ranking", "demonstration", "preference"])
def test_the_data_joins_the_samples_and_is_scored_as_they_are(tmp_path, kind):
    cut = {"ranking": 3, "preference": 2, "demonstration": 1}[kind]
    names = {"ranking": ("ranked",), "preference": ("chosen", "rejected"), "demonstration": ("response",)}[kind]
    given = {r["prompt"]: r["ranked"][:cut] for r in RANKED}
    rows_of = [
        {"prompt": p, **dict(zip(names, [y] if kind == "ranking" else y, strict=True))} for p, y in given.items()
    ]
    settings = {"pairs": "list", "sampler": "policy", "K": 2, "accepted": 2, "join": "data", "held_out": 0.2}
    data = write(tmp_path / "data.jsonl", rows_of)
    run = quick("sample_rank", tmp_path / "run", data=data, feedback=LENGTH, policy="rrhf", settings=settings)
    found = lines(run / "rounds/01/samples.jsonl")
    assert len(found) == 4
    for s in found:
        n = len(given[s["prompt"]])
        assert s["joined"] == n and s["responses"][:n] == given[s["prompt"]] and len(s["responses"]) == n + 2
        assert s["scores"] == [len(y.split()) for y in s["responses"]]
        assert len(s["logps"]) == len(s["ref_logps"]) == n + 2 and s["logps"] == pytest.approx(s["ref_logps"], abs=1e-4)
    second = lines(run / "rounds/02/samples.jsonl")
    assert all(abs(a - b) > 1e-4 for s in second for a, b in zip(s["logps"], s["ref_logps"], strict=True))
    ranked = {r["prompt"]: r for r in lines(run / "rounds/01/selected.jsonl")}
    for s in found:
        row = ranked[s["prompt"]]
        assert sorted(row["ranked"]) == sorted(y for y in s["responses"] if y.strip())
        assert row["scores"] == sorted(row["scores"], reverse=True)
    shown = lines(run / "samples.jsonl")
    assert len(shown) == 2 * 4 * 2, "what is shown as sampled are the samples"


def test_the_log_probabilities_of_joined_responses_are_those_of_the_model_that_sampled(tmp_path):
    data = write(tmp_path / "data.jsonl", [{"prompt": "ba", "response": " ga ge"}, {"prompt": "be", "response": " mu"}])
    settings = {"join": "data", "held_out": 0.0, "temperature": 0.7, "thresholds": "0.1"}
    run = quick("rest", tmp_path / "run", data=data, feedback=LENGTH, settings=settings)
    trunk = load_trunk(str(run / "rounds/01/train"))
    for s in lines(run / "rounds/02/samples.jsonl"):
        prompt, whole = (trunk.tokenizer(text)["input_ids"] for text in (s["prompt"], s["prompt"] + s["responses"][0]))
        whole = torch.tensor([[*whole, trunk.tokenizer.eos_token_id]])
        logps = (trunk.lm(input_ids=whole).logits[0] / 0.7).log_softmax(-1)[len(prompt) - 1 : -1]
        own = logps.gather(-1, whole[0, len(prompt) :, None]).sum().item()
        assert s["joined"] == 1 and s["logps"][0] == pytest.approx(own, abs=1e-4)


def test_a_run_that_joins_the_data_goes_on_exactly_where_a_kill_left_it(tmp_path):
    settings = {"join": "data", "thresholds": "0.5,0.9"}
    whole = quick("rest", tmp_path / "whole", feedback=LENGTH, settings=settings)
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for name in ("model", "rounds/02", "rounds/01/train", "rounds/01/selected.jsonl", "rounds/01/figures.json"):
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()
    again = quick("rest", run, feedback=LENGTH, settings=settings, resume=True)
    assert same(weights(again), weights(whole)) and rows(again) == rows(whole)
    assert (again / "samples.jsonl").read_text() == (whole / "samples.jsonl").read_text()


def test_a_file_of_prompts_alone_has_nothing_to_join(tmp_path):
    data = write(tmp_path / "prompts.jsonl", [{"prompt": "ba"}, {"prompt": "be"}])
    with pytest.raises(DataError, match=r"prompts.jsonl: join data scores the file's own responses, and it has none"):
        quick("raft", tmp_path / "run", data=data, feedback=LENGTH, settings={"join": "data"})
    assert not (tmp_path / "run").exists()


class SafetyFirst:
    """Feedback that reads what prompts are for."""

    def score(self, responses):
        tagged = torch.tensor([[float(tag == "safety")] for tag in responses.batch.tags])
        return tagged.expand(responses.batch.exists.shape)


def test_a_judge_sees_what_prompts_are_for_also_beside_the_responses_of_the_data(tmp_path):
    data = [{"prompt": f"b{v}", "response": " mu", "tag": "safety" if v in "ae" else "chat"} for v in "aeiou"]
    settings = {"join": "data", "held_out": 0.0, "rounds": 1}
    run = quick("raft", tmp_path / "run", data=write(tmp_path / "data.jsonl", data), feedback=[SafetyFirst()],
                settings=settings)  # fmt: skip
    found = {s["prompt"]: s["scores"] for s in lines(run / "rounds/01/samples.jsonl")}
    assert found == {f"b{v}": [float(v in "ae")] * 5 for v in "aeiou"}
