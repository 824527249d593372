"""The parts of the report page: places of labels, bars, columns of the heat map, what fits into a page."""

import json
import math
import re
from itertools import pairwise

import pytest

from sparring.report import browser
from sparring.report.browser import browser_section
from sparring.report.charts import Frame
from sparring.report.inputs import read_results, read_samples
from sparring.report.plane import frontier_chart, nats, over_seeds, place_labels
from sparring.report.spread import bins_of, groups, heat_section, kinds_of, spread_section
from sparring.report.tables import costs_section, differences_section


def answers(**texts):
    return {name: {"text": text, "gold": score} for name, (text, score) in texts.items()}


SAMPLES = read_samples([
    {"prompt": "p", "answers": answers(base=("a b", 0.25), dpo=("a c d", 0.75))},
    {"prompt": "</script><b>", "answers": answers(base=("e", 0.5), dpo=("f", 0.25))},
    {"prompt": "r", "answers": answers(base=("g", 0.0), dpo=("", 1.0))},
])  # fmt: skip


def test_no_name_covers_another_or_a_point():
    anchors = [(100.0 + 9 * i, 100.0 + 5 * (i % 3), f"method number {i}") for i in range(8)]
    labels = place_labels(anchors, right=748)
    assert len(labels) >= 4
    boxes = [label.box for label in labels] + [(x - 5, y - 5, x + 5, y + 5) for x, y, _ in anchors]
    for i, a in enumerate(boxes[: len(labels)]):
        for b in boxes[i + 1 :]:
            assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]
    assert all(46 <= box[0] and box[2] <= 748 for box in boxes[: len(labels)])
    assert [label.text for label in place_labels([(700.0, 50.0, "at the right edge")], right=748)] == [
        "at the right edge"
    ]


def test_the_axis_of_distance_is_a_square_root_with_numbers_apart():
    for end in (0.7, 3.0, 9.0, 40.0):
        frame = Frame(x=(0.0, end), y=(0.0, 1.0))
        ticks = nats(frame)
        assert len(ticks) >= 3 and all(math.sqrt(float(text)) == pytest.approx(d) for d, text in ticks)
        places = [frame.across(d) for d, _ in ticks]
        assert all(b - a >= 30 for a, b in pairwise(places))


def test_rounds_of_several_seeds_are_averaged_in_their_order():
    rows = [
        {"round": 2, "kl": 4.0, "gold": 1.0},
        {"round": 1, "kl": 1.0, "gold": 0.0},
        {"round": 2, "kl": 2.0, "gold": 0.5},
    ]
    assert over_seeds(rows) == [(1.0, 0.0), (3.0, 0.75)]


def test_the_frontier_draws_points_rounds_of_the_same_start_and_best_of_n():
    raw = {
        "start": "SFT", "points": [{"name": "dpo", "kl": 4.0, "gold": 0.5}, {"name": "lost", "kl": None, "gold": 1.0}],
        "best_of": [{"n": 1, "kl": 0.0, "gold": 0.1}, {"n": 2, "kl": math.log(2) - 0.5, "gold": 0.2}],
        "trails": [{"name": "dpo", "begins_at": "SFT", "rows": [{"round": 1, "kl": 1.0, "gold": 0.3}]},
                   {"name": "ppo", "begins_at": "base", "rows": [{"round": 1, "kl": 99.0, "gold": 9.0}]}],
    }  # fmt: skip
    found = read_results({"methods": [{"name": "dpo"}], "frontier": raw}).frontier
    chart = frontier_chart(found, {"dpo": 0, "ppo": 1}, y_label="gold", width=360, more="")
    assert "dpo: 0.500 at 4 nats" in chart and "lost" not in chart
    assert chart.count('class="way') == 1 and chart.count('class="picked"') == 1
    # From 0 to the square root of 4 and 8 % of air: log 2 - 1/2 nats lie at sqrt(0.193) = 0.4395 of 2.16.
    assert f'cx="{46 + 0.43949 / 2.16 * 302:.1f}"' in chart


def test_few_even_values_get_a_bar_each_and_many_share_bars_that_hold_all():
    tiers = bins_of([-1, 0, 1, 1, 0])
    assert tiers.edges == (-1.5, -0.5, 0.5, 1.5) and tiers.counts([-1, 0, 1, 1, 0]) == [1, 2, 2]
    many = [i**2 / 7 for i in range(100)]
    assert sum(bins_of(many).counts(many)) == 100 and len(bins_of(many).edges) == 25
    assert sum(bins_of([3.0, 3.0]).counts([3.0, 3.0])) == 2


def test_gains_are_taken_prompt_by_prompt_and_counted():
    kinds = kinds_of(SAMPLES, ["base", "dpo"], "base")
    assert kinds["gain over base"] == {"dpo": [0.5, -0.25, 1.0]}
    assert kinds["words"]["dpo"] == [3, 1, 0]
    (section,) = spread_section(SAMPLES, ["base", "dpo"], "base", {"base": 0, "dpo": 1})
    assert "+2  \u22121" in section and "mean 0.667" in section  # 2/3, the mean of 0.75, 0.25 and 1
    assert spread_section([], ["base"], "base", {"base": 0}) == []


def test_the_heat_map_goes_from_hard_to_easy_and_says_what_a_column_is():
    (section,) = heat_section(SAMPLES, ["base", "dpo"])
    assert "A column is a prompt" in section and section.index(">dpo<") < section.index(">base<")
    # Means over both methods: 0.5, 0.375, 0.5; the second prompt comes first, of equals the earlier.
    assert re.findall(r"<title>([^<]+)</title>", section.split(">base<")[1]) == ["0.500", "0.250", "0"]
    assert groups(range(7), 3) == [range(0, 3), range(3, 6), range(6, 7)]
    many = [s for s in SAMPLES for _ in range(100)]
    assert "the mean of 3 prompts" in heat_section(many, ["base", "dpo"])[0]
    assert heat_section(SAMPLES, ["base"]) == []


def data(section):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', section, re.S)[1])


def test_the_browser_holds_every_text_and_nothing_in_it_is_markup():
    section = browser_section(SAMPLES, ["base", "dpo", "absent"], "base", {"base": 0, "dpo": 1, "absent": 2})
    found = data(section)
    assert found["names"] == ["base", "dpo"] and found["base"] == 0 and found["focus"] == 1
    assert [row[0] for row in found["rows"]] == ["p", "</script><b>", "r"]
    assert found["rows"][2] == ["r", ["g", ""], [0.0, 1.0]]
    assert section.count("</script>") == 1 and "<b>" not in section


def test_a_page_that_would_be_too_large_says_how_many_prompts_it_left_out(monkeypatch):
    monkeypatch.setattr(browser, "MOST_BYTES", 80)
    section = browser_section(SAMPLES, ["base", "dpo"], "base", {"base": 0, "dpo": 1})
    kept = len(data(section)["rows"])
    assert 0 < kept < 3 and f"The first {kept} of 3 prompts" in section


def test_costs_and_tests_have_tables_of_their_own():
    raw = {
        "methods": [{"name": "dpo", "gold": 0.5, "seconds": 60, "tokens": 1200, "labels": 7}],
        "judges": [{"name": "reward", "seconds": 30}],
        "tests": {"with the baselines": [
            {"name": "dpo", "rival": "SFT", "mean": 0.25, "low": 0.125, "high": 0.375, "adjusted": 0.0004},
            {"name": "ipo", "rival": "SFT", "mean": 0.05, "low": -0.1, "high": 0.2, "adjusted": 0.4,
             "seeds_needed": 7},
        ]},
    }  # fmt: skip
    found = read_results(raw)
    (costs,), (differences,) = costs_section(found), differences_section(found)
    for said in ("1 min 00 s", "1,200", ">reward<", "30 s"):
        assert said in costs
    assert ">0.500" not in costs and "memory, MB" not in costs
    assert (
        "&lt; 0.001" in differences
        and ">better<" in differences
        and ">not to be told apart; about 7 seeds would tell<" in differences
    )
    assert costs_section(read_results({"methods": [{"name": "a", "gold": 1}]})) == []
