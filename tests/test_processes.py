import subprocess
import sys
from pathlib import Path

from sparring.core.loss import add
from tests.small import machine


def test_two_processes_make_the_weights_and_the_stages_that_one_makes(tmp_path):
    script = Path(__file__).parent / "two_processes.py"
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    apart = dict(line.split() for line in done.stdout.splitlines())
    assert apart.keys() == {"sft", "rlgaf", "nlpo", "sample_rank", "sample_rank:stages"}
    assert all(float(value) < 1e-5 for value in apart.values()), apart


class Three:
    """Three processes, as far as sharing and joining are concerned."""

    def __init__(self, rank):
        self.rank, self.world = rank, 3

    share = type(machine()).share


def test_shares_are_joined_in_their_first_order():
    things = list(range(8))
    shares = [Three(rank).share(things) for rank in range(3)]
    assert [len(s) for s in shares] == [3, 3, 2]
    first = Three(0)
    first.gather = lambda _: shares
    assert type(machine()).join(first, shares[0]) == things


def test_one_process_has_everything_itself():
    m = machine()
    assert m.is_first and m.share([1, 2]) == m.join([1, 2]) == [1, 2]
    assert m.any(True) and not m.any(False)
    assert m.sum_tally({"loss": (1.0, 2.0)}) == add([{"loss": (1.0, 2.0)}])
