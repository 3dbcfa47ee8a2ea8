"""The report's page as a browser shows it: on a phone, in the dark, by keyboard, on paper; it asks nobody for anything."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcp_planner_schema.telemetry.report import html, sections
from tests import browser
from tests.browser import Browser
from tests.reports import night

pytestmark = pytest.mark.skipif(
    browser.program() is None,
    reason=f"no headless Chromium: set CHROMIUM, or have one of {', '.join(browser.NAMES)} in PATH",
)
STATES = ("failed", "done", "running", "killed")
# Of every element that shows text of its own: what it says, its colour, and the first colour behind it that is not transparent.
COLOURS = """
[...document.querySelectorAll('body *')].filter(one => [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim())
    && one.checkVisibility()).map(one => {
  let behind = one;
  while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)' && behind.parentElement) behind = behind.parentElement;
  const style = getComputedStyle(one);
  return [one.tagName + '.' + one.className + ' ' + one.textContent.trim().slice(0, 30), style.color,
          getComputedStyle(behind).backgroundColor]
})
"""
WIDER = """
[...document.querySelectorAll('body *')].filter(one => !one.closest('.scroll, pre, svg, .skip')
    && one.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5).map(one => one.outerHTML.slice(0, 80))
"""
SMALLEST = """
Math.min(...[...document.querySelectorAll('p, td, th, li, dd, pre')].map(one => parseFloat(getComputedStyle(one).fontSize)))
"""
FOCUSED = """
(() => {
  const one = document.activeElement, style = getComputedStyle(one), box = one.getBoundingClientRect();
  return {tag: one.tagName, place: [...document.querySelectorAll('*')].indexOf(one), outline: style.outlineStyle,
          width: parseFloat(style.outlineWidth), color: style.outlineColor,
          seen: box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth && box.width > 0}
})()
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for all tests of the page."""
    with browser.opened(browser.program() or "") as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of a run in each state."""
    folder = tmp_path_factory.mktemp("pages")
    for state in STATES:
        (folder / f"{state}.html").write_text(html.html(sections.page(night(state))), encoding="utf-8")
    return {state: folder / f"{state}.html" for state in STATES}


def shown(chromium: Browser, page: Path, scheme: str = "light", width: int = 360) -> None:
    """Open the page on a screen of that width."""
    chromium.size(width, mobile=width < 500)
    chromium.scheme(scheme)
    chromium.open(page)


def contrast(first: str, second: str) -> float:
    """Of two colours, as WCAG reckons it: from 1 to 21."""

    def light(colour: str) -> float:
        parts = [float(one) / 255 for one in re.findall(r"[\d.]+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, bright = sorted((light(first), light(second)))
    return (bright + 0.05) / (dark + 0.05)


def told(chromium: Browser, method: str) -> list[dict[str, Any]]:
    """What the browser has told of one kind."""
    return [one["params"] for one in chromium.events if one.get("method") == method]


def test_the_page_asks_nobody_and_complains_of_nothing(chromium: Browser, pages: dict[str, Path]) -> None:
    """One request, for the page itself; no line in the console; its style is obeyed, and one that is not its own is not."""
    shown(chromium, pages["failed"])

    chromium.ask("new Promise(done => setTimeout(done, 100))")
    requests = [one["request"]["url"] for one in told(chromium, "Network.requestWillBeSent")]
    complaints = (
        told(chromium, "Log.entryAdded")
        + told(chromium, "Runtime.consoleAPICalled")
        + told(chromium, "Runtime.exceptionThrown")
    )

    assert requests == [pages["failed"].as_uri()]
    assert complaints == []
    assert chromium.ask("getComputedStyle(document.querySelector('h1')).fontWeight") == "650"
    chromium.ask("document.head.insertAdjacentHTML('beforeend', '<style>h1 { font-weight: 100 }</style>')")
    assert chromium.ask("getComputedStyle(document.querySelector('h1')).fontWeight") == "650"


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_nothing_is_wider_than_the_screen(width: int, chromium: Browser, pages: dict[str, Path]) -> None:
    """On a phone too, only tables and code move sideways, within boxes of their own."""
    shown(chromium, pages["failed"], width=width)

    chromium.ask("document.querySelectorAll('details').forEach(one => one.open = true)")

    assert chromium.ask("document.documentElement.scrollWidth") == width
    assert chromium.ask(WIDER) == []
    assert chromium.ask(SMALLEST) >= 12


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", STATES)
def test_everything_can_be_read_in_both_schemes(
    scheme: str, state: str, chromium: Browser, pages: dict[str, Path]
) -> None:
    """Every text has a contrast of 4.5 at least to what is behind it, and the two schemes are two."""
    shown(chromium, pages[state], scheme, width=1280)

    chromium.ask("document.querySelectorAll('details').forEach(one => one.open = true)")
    found = chromium.ask(COLOURS)

    assert len(found) > 100
    assert [(what, round(contrast(*colours), 2)) for what, *colours in found if contrast(*colours) < 4.5] == []
    background = chromium.ask("getComputedStyle(document.body).backgroundColor")
    assert (contrast(background, "rgb(0, 0, 0)") < 2) == (scheme == "dark")


def test_the_keyboard_goes_through_all_of_it_in_order(chromium: Browser, pages: dict[str, Path]) -> None:
    """Tab reaches every link, box and fold in the order in which they are read, each seen where it is and with an outline."""
    shown(chromium, pages["failed"], width=1280)
    wanted = chromium.ask(
        "[...document.querySelectorAll('a, [tabindex], summary')].filter(one => one.checkVisibility()).length"
    )

    stops = []
    for _ in range(wanted):
        chromium.press("Tab", 9)
        stops.append(chromium.ask(FOCUSED))

    assert wanted > 20
    assert len({one["place"] for one in stops}) == wanted
    assert [one["place"] for one in stops] == sorted(one["place"] for one in stops)
    assert [one for one in stops if not one["seen"] or one["outline"] != "solid" or one["width"] < 2] == []
    background = chromium.ask("getComputedStyle(document.body).backgroundColor")
    assert min(contrast(one["color"], background) for one in stops) >= 3


def test_the_first_stop_leads_to_what_to_do_next(chromium: Browser, pages: dict[str, Path]) -> None:
    """The skip link is seen when it has the focus, and Enter goes to the command; a fold opens by keyboard."""
    shown(chromium, pages["failed"])

    chromium.press("Tab", 9)
    skip = chromium.ask("[document.activeElement.className, document.activeElement.getBoundingClientRect().top >= 0]")
    chromium.press("Enter", 13)
    chromium.press("Tab", 9)

    assert skip == ["skip", True]
    assert chromium.ask("location.hash") == "#next"
    assert chromium.ask("document.activeElement.closest('section').id") == "next"
    chromium.ask("document.querySelector('summary').focus()")
    chromium.press("Enter", 13)
    assert chromium.ask("document.querySelector('details').open") is True


def test_on_paper_it_is_light_and_nothing_is_folded(chromium: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    """Printed from a dark screen it has dark letters, no navigation, and what is folded is there."""
    shown(chromium, pages["failed"], "dark", width=1280)
    chromium.scheme("dark", "print")

    ink = chromium.ask("getComputedStyle(document.body).color")
    gone = chromium.ask("getComputedStyle(document.querySelector('nav')).display")
    height = chromium.ask("document.querySelector('details pre').getBoundingClientRect().height")
    chromium.paper(tmp_path / "report.pdf")

    assert contrast(ink, "rgb(255, 255, 255)") > 12
    assert gone == "none"
    assert height > 20
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_a_timeline_shows_a_bar_for_each_step(chromium: Browser, pages: dict[str, Path]) -> None:
    """A step of 90 ms in a run of 27 s is seen too; bars lie where their time is, and none leaves its row."""
    shown(chromium, pages["failed"], width=360)

    rows = chromium.ask(
        "[...document.querySelectorAll('.timeline li')].map(row => {const own = row.querySelector('svg').getBoundingClientRect();"
        "return [...row.querySelectorAll('rect')].map(one => {const box = one.getBoundingClientRect();"
        "return [one.getAttribute('class'), (box.left - own.left) / own.width, box.width / own.width]})})"
    )

    assert len(rows) == 4
    assert all(left >= 0 and left + width <= 1.001 and width > 0.003 for row in rows for _, left, width in row)
    assert [kind for kind, *_ in rows[3]].count("wait") >= 2
    assert rows[3][0][1] > rows[1][0][1] + rows[1][0][2] - 0.01


@pytest.mark.long
def test_a_page_of_a_thousand_waits_stays_small(chromium: Browser, tmp_path: Path) -> None:
    """What is too much for a page is left to JSON, and that is said."""
    report = night()
    much = dataclasses.replace(report, waits=report.waits[:1] * 1000)
    page = tmp_path / "much.html"
    page.write_text(html.html(sections.page(much)), encoding="utf-8")

    shown(chromium, page)

    assert page.stat().st_size < 300_000
    assert chromium.ask("document.querySelectorAll('#waits tbody tr').length") == sections.MOST
    assert "800 more rows are in make migrate-report JSON=1." in chromium.ask(
        "document.querySelector('#waits').innerText"
    )
