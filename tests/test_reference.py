import pytest
import torch

from sparring.data.batch import collate
from sparring.models.machine import Machine
from sparring.models.reference import cache_folder, hash_weights, store_reference
from sparring.models.roles import Network, Networks
from sparring.models.signals import compute
from tests import nets


@pytest.fixture
def setting(tmp_path):
    trunk = nets.trunk("llama")
    calls = []
    trunk.body.register_forward_hook(lambda *_: calls.append(1))
    networks = Networks(policy=Network(trunk=trunk), reference=Network(trunk=trunk))
    rows = nets.random_rows(0, B=7, K=3)

    def store(rows=rows, model="m", limit=40, tick=None):
        machine = Machine("cpu", "fp32")
        return store_reference(rows, networks, machine, model=model, cache=tmp_path, micro_tokens=limit, tick=tick)

    return rows, networks, calls, store, tmp_path


def test_stored_figures_are_those_of_a_live_reference_in_any_batch(setting):
    rows, networks, _, store, _ = setting
    stored = store()
    for chosen in ([0, 1, 2], [6, 3], [5]):
        picked = [rows[i] for i in chosen]
        batch = collate(picked)
        live = compute(["ref_token_logps"], batch, networks)["ref_token_logps"]
        torch.testing.assert_close(stored.of(picked, batch), live, atol=1e-5, rtol=1e-5)


def test_a_second_run_on_the_same_model_and_rows_reads_them_from_disk(setting):
    rows, _, calls, store, place = setting
    counted = []
    first = store(tick=counted.append)
    assert counted[-1] == len(rows) and counted == sorted(counted)
    calls.clear()
    second = store(limit=1000)
    assert not calls and len(list(place.iterdir())) == 1
    assert torch.equal(first.of(rows, collate(rows)), second.of(rows, collate(rows)))


def test_another_model_or_other_rows_are_computed_anew(setting):
    rows, _, calls, store, place = setting
    store()
    for change in ({"model": "other"}, {"rows": rows[:-1]}):
        calls.clear()
        store(**change)
        assert calls
    assert len(list(place.iterdir())) == 3


def test_a_hash_of_weights_knows_names_and_values_and_not_their_order():
    a, b = torch.arange(4.0), torch.ones(2, 2)
    assert hash_weights({"a": a, "b": b}) == hash_weights({"b": b.clone(), "a": a})
    assert len({hash_weights(w) for w in ({"a": a, "b": b}, {"a": a, "c": b}, {"a": a + 1, "b": b}, {"a": a})}) == 4


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("SPARRING_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "sparring"
