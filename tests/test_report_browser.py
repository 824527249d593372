"""The page in a real browser: it opens fast and quietly, draws everything, and can be used by hand and by keyboard."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparring.report.page import comparison_page
from tests import pages
from tests.browser import Browser, found

pytestmark = pytest.mark.skipif(found() is None, reason="there is no chromium here")
BASE, BEST = pages.NAMES[0], pages.NAMES[-1]
INPUTS = pages.large()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(comparison_page(*INPUTS), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    made = Browser()
    yield made
    made.close()


def gains(name: str = BEST, base: str = BASE) -> list[float]:
    """What the page computes: scores come with four decimals."""
    return [round(s["answers"][name]["gold"], 4) - round(s["answers"][base]["gold"], 4) for s in INPUTS[2]]


def listed(browser: Browser) -> list[int]:
    return json.loads(
        browser.run("JSON.stringify([...document.querySelector('[data-list]').options].map(o => +o.value))")
    )


def choose(browser: Browser, control: str, value: str) -> None:
    kind = "input" if control == "filter" else "change"
    browser.run(
        f"{{ const c = document.querySelector('[data-{control}]'); c.value = {json.dumps(value)};"
        f" c.dispatchEvent(new Event('{kind}')); }}"
    )


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (400, False)])
def test_the_page_is_quiet_draws_every_chart_and_never_scrolls_sideways(
    page: Path, browser: Browser, width: int, dark: bool
) -> None:
    browser.said.clear()
    browser.open(page, width=width, dark=dark)
    assert browser.said == []
    seen = json.loads(
        browser.run("""
        const drawn = [...document.querySelectorAll("svg")].filter((s) => s.checkVisibility());
        const bare = drawn.filter((s) => {
          const box = s.getBoundingClientRect();
          return !(box.width > 1 && box.height > 1 && s.querySelector("path, polyline, rect, line, text"));
        });
        JSON.stringify({
          wide: document.documentElement.scrollWidth, drawn: drawn.length, bare: bare.length,
          charts: drawn.filter((s) => s.classList.contains("chart")).length,
          broken: document.body.innerHTML.includes("NaN") || document.body.innerHTML.includes("undefined"),
          small: Math.min(...[...document.querySelectorAll("svg text")].filter((t) => t.checkVisibility())
            .map((t) => t.getBoundingClientRect().height)),
          ground: getComputedStyle(document.body).backgroundColor,
        })
    """)
    )
    assert seen["wide"] <= width
    assert seen["bare"] == 0 and not seen["broken"]
    # The frontier; two charts for each of four methods and for best of n; six curves.
    assert seen["charts"] == 1 + 2 * 5 + 6
    assert seen["small"] >= 8
    assert (seen["ground"] == "rgb(255, 255, 255)") is not dark


def test_samples_are_sorted_filtered_and_compared(page: Path, browser: Browser) -> None:
    browser.open(page)
    gain, others = gains(), gains(BEST, "SFT")
    assert listed(browser) == sorted(range(500), key=lambda i: (-gain[i], i))
    choose(browser, "sort", "loss")
    assert listed(browser) == sorted(range(500), key=lambda i: (gain[i], i))
    choose(browser, "base", str(pages.NAMES.index("SFT")))
    assert listed(browser)[0] == min(range(500), key=lambda i: others[i])

    choose(browser, "filter", "PROMPT 17:")
    assert listed(browser) == [17]
    shown = json.loads(
        browser.run("""JSON.stringify({
        title: document.querySelector("[data-shown] h3").textContent,
        names: [...document.querySelectorAll("[data-shown] .who > span:nth-child(2)")].map((s) => s.textContent),
        texts: [...document.querySelectorAll("[data-shown] .answer p")].map((p) => p.textContent),
        kept: [...document.querySelectorAll("[data-shown] .answer p")]
          .map((p) => [...p.querySelectorAll("span")].map((s) => s.textContent).join("").split(/\\s+/).filter(Boolean)),
    })""")
    )
    order = ["SFT", BEST, *(name for name in pages.NAMES if name not in ("SFT", BEST))]
    answers = INPUTS[2][17]["answers"]
    assert shown["title"] == INPUTS[2][17]["prompt"] and shown["names"] == order
    assert shown["texts"] == [answers[name]["text"] for name in order]
    for name, kept in list(zip(order, shown["kept"], strict=True))[1:]:
        assert len(kept) == longest_common(answers[name]["text"].split(), answers["SFT"]["text"].split())
    choose(browser, "filter", "no such word at all")
    assert (
        listed(browser) == [] and browser.run("document.querySelector('[data-count]').textContent") == "nothing found"
    )


def test_the_keyboard_goes_through_the_prompts(page: Path, browser: Browser) -> None:
    browser.open(page)
    title = "document.querySelector('[data-shown] h3').textContent"
    order = listed(browser)
    browser.run("document.querySelector('[data-list]').focus()")
    browser.press("ArrowDown")
    browser.press("ArrowDown")
    assert browser.run(title) == INPUTS[2][order[2]]["prompt"]
    browser.press("Tab")
    assert browser.run("document.activeElement.textContent") == "Previous"
    browser.press("Enter")
    assert browser.run(title) == INPUTS[2][order[1]]["prompt"]
    names = browser.run(
        "[...document.querySelectorAll('select, input')].filter(c => c.checkVisibility() && !c.labels.length"
        " && !c.getAttribute('aria-label')).length"
    )
    assert names == 0


def test_ten_methods_on_five_hundred_prompts_are_small_and_open_in_under_two_seconds(
    page: Path, browser: Browser
) -> None:
    assert page.stat().st_size < 5_000_000
    # The page's own time on the processor, since the clock on the wall also tells how busy the machine is.
    browser.ask("Performance.enable", timeDomain="threadTicks")
    spent = []
    for _ in range(3):  # the least of three, for neighbours on the processor slow it down as well
        browser.open(page)
        found = browser.ask("Performance.getMetrics")["metrics"]
        spent += [one["value"] for one in found if one["name"] == "TaskDuration"]
    browser.ask("Performance.disable")
    assert 0 < min(spent) < 2


def longest_common(a: list[str], b: list[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b, start=1):
            before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]
