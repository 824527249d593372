"""The charts and numbers of the report, against what a ruler would say."""

import math
import re

import pytest

from sparring.report.charts import Band, Series, bounds_of, by_x, interval_row, line_chart, thin
from sparring.report.figures import Figure, duration, interval, number, tick_labels, ticks
from sparring.report.html import Html, el


def test_values_that_are_not_finite_leave_a_gap_in_the_line() -> None:
    points = [(0.0, 1.0), (1.0, 2.0), (2.0, math.nan), (3.0, 2.0), (4.0, math.inf), (5.0, 3.0), (6.0, 1.0)]
    chart = line_chart(
        [Series(name="a", colour=0, points=points)], label="a by step", x_label="step", y_label="nats", band=Band()
    )
    assert chart.count("<polyline") == 3
    assert "nan" not in chart
    assert "inf" not in chart


def test_a_chart_draws_higher_values_higher_and_later_ones_further_right() -> None:
    points = [(1.0, 0.0), (2.0, 10.0), (3.0, 5.0)]
    chart = line_chart([Series(name="a", colour=2, points=points)], label="", x_label="step", y_label="")
    found = re.search(r'points="([^"]+)"', chart)
    assert found is not None
    drawn = [tuple(map(float, pair.split(","))) for pair in found[1].split()]
    assert drawn[0][0] < drawn[1][0] < drawn[2][0]
    assert drawn[1][1] < drawn[2][1] < drawn[0][1]
    assert drawn[2][1] == pytest.approx((drawn[0][1] + drawn[1][1]) / 2, abs=0.1)


@pytest.mark.parametrize(
    ("band", "is_drawn"),
    [
        (Band(low=0.2, high=0.8), True),
        (Band(low=0.5), True),
        (Band(low=-100, high=100), False),
        (Band(low=50, high=60), False),
        (Band(), False),
    ],
)
def test_the_band_is_shaded_when_an_edge_of_it_can_be_seen(band: Band, is_drawn: bool) -> None:
    points = [(float(i), i / 10) for i in range(11)]
    chart = line_chart([Series(name="a", colour=0, points=points)], label="", x_label="", y_label="", band=band)
    assert ('class="band"' in chart) == is_drawn


def test_constant_and_single_values_can_be_drawn() -> None:
    for points in ([(1.0, 0.0)], [(1.0, 5.0), (2.0, 5.0)], [(1.0, -3.0)] * 4):
        chart = line_chart([Series(name="a", colour=0, points=points)], label="", x_label="", y_label="")
        assert "polyline" in chart
    assert "no finite value" in line_chart([Series(name="a", colour=0, points=[])], label="", x_label="", y_label="")


def test_thinning_keeps_the_mean_and_the_order() -> None:
    points = [(float(i), float(i % 7)) for i in range(1200)]
    kept = thin(points)
    assert len(kept) == 120
    assert list(kept) == sorted(kept)
    # 1200 points make 120 groups of ten, so the mean of means is the mean.
    assert sum(y for _, y in kept) / 120 == pytest.approx(sum(y for _, y in points) / 1200)


def test_columns_are_taken_from_rows_that_have_both() -> None:
    rows = [{"step": 2, "loss": 1.0}, {"step": 1, "loss": 3}, {"step": 3, "loss": None}, {"loss": 4.0}, {"step": True}]
    assert by_x(rows, "step", "loss") == [(1.0, 3.0), (2.0, 1.0)]


def test_a_dot_stands_between_the_ends_of_its_interval() -> None:
    bounds = bounds_of([Figure(mean=0.5, low=0.25, high=0.75), Figure(mean=0.0)])
    assert bounds[0] < 0
    assert bounds[1] > 0.75
    drawn = interval_row(Figure(mean=0.5, low=0.25, high=0.75), (0.0, 1.0), 1)
    assert 'x1="25.00%" x2="75.00%"' in drawn
    assert 'cx="50.00%"' in drawn


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.0, "0"), (0.5, "0.500"), (-2.25, "\u22122.25"), (1234.0, "1,234"), (0.00003, "3.0e\u22125"), (12.34, "12.3")],
)
def test_numbers_are_short(value: float, written: str) -> None:
    assert number(value) == written
    assert number(math.nan) == "not finite"


def test_intervals_and_durations_read_well() -> None:
    assert interval(Figure(mean=1.0, low=0.5, high=1.5), 2) == "0.50 to 1.50"
    assert interval(Figure(mean=1.0)) == ""
    assert [duration(s) for s in (4.26, 59.2, 131, 7260)] == ["4.3 s", "59 s", "2 min 11 s", "2 h 01 min"]


def test_ticks_are_round_inside_and_labelled_alike() -> None:
    assert ticks(0.0, 1.0) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert tick_labels(ticks(0.0, 1.0)) == ["0.00", "0.25", "0.50", "0.75", "1.00"]
    for low, high in ((-3.2, 17.9), (0.98, 1.0), (1e-6, 2e-6), (-5e4, 8e5)):
        found = ticks(low, high)
        assert 2 <= len(found) <= 6
        assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)


def test_markup_is_escaped_unless_it_was_made_here() -> None:
    assert el("p", {"class": 'a"b'}, ["<", Html("<i></i>")]) == '<p class="a&quot;b">&lt;<i></i></p>'
