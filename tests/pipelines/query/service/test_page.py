"""The page in Debian's chromium: what a person sees and does."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

import numpy as np
import pytest

from m3core.types import Identity
from tests.pipelines.query.service.conftest import Serve, listening
from tests.servers.missing import MissingPartError, skip_or_fail

pytestmark = pytest.mark.slow

HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script> &amp; <b>bold</b> night'
TEXTS = [
    ("de", "Schlüssel", "Der Schlüssel zum Labor liegt beim Empfang, Schlüssel werden quittiert."),
    ("ar", "مفتاح المختبر", "يوجد مفتاح المختبر عند الاستقبال ويسلم مقابل توقيع."),
    ("ja", "実験室の鍵", "低温実験室の鍵は受付にあります。"),
    ("th", "กุญแจห้องปฏิบัติการ", "กุญแจห้องปฏิบัติการอยู่ที่แผนกต้อนรับ"),
    ("en", "Night \u202etrains", "Travel by night train is refunded within thirty days."),
    ("en", HOSTILE, HOSTILE),
]


def make_world(kit: Any, **rest: Any) -> Any:
    rng = np.random.default_rng(4)
    rows = []
    for number in range(24):
        language, title, text = TEXTS[number % len(TEXTS)]
        metadata = {"year": 2020 + number % 3, "topic": ("keys", "travel")[number % 2]}
        row = kit.row(
            kit.facts(number, metadata=metadata, language=language, text=f"{text} [{number}]"), kit.vectors(rng)
        )
        object.__setattr__(row.chunk, "title", title)
        rows.append(row)
    return kit.world(rows, kit.query(rng), **rest)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        skip_or_fail(MissingPartError("chromium is not installed; on Debian: apt-get install chromium"))
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


Visit = Callable[..., Any]


@pytest.fixture
def visit(browser: Any) -> Iterator[Visit]:
    """Open a page; at the end nothing may have failed in it or been asked of anybody else."""
    contexts: list[Any] = []
    faults: list[str] = []

    def go(url: str, *, wait: str = "#foot:not([hidden])", **context: Any) -> Any:
        opened = browser.new_context(**context)
        contexts.append(opened)
        page = opened.new_page()
        base = url.split("#", maxsplit=1)[0]
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(base) else faults.append(request.url))
        page.on("console", lambda line: faults.append(line.text) if "Content Security" in line.text else None)
        page.goto(url)
        page.wait_for_selector(wait)
        return page

    yield go
    for each in contexts:
        assert each.cookies() == []
        each.close()
    assert faults == []


def titles(page: Any) -> list[str]:
    return [str(each) for each in page.locator(".hit .title").all_inner_texts()]


@pytest.mark.parametrize(
    ("question", "word"),
    [("Wo ist der Schlüssel?", "Schlüssel"), ("أين مفتاح المختبر", "مفتاح"), ("実験室の鍵", "鍵"), ("กุญแจ", "กุญแจ")],
)
def test_searches_in_any_script(kit: Any, serve: Serve, visit: Visit, question: str, word: str) -> None:
    with listening(serve(make_world(kit))) as url:
        page = visit(url, wait="#welcome")
        page.fill("#query", question)
        page.keyboard.press("Enter")
        page.wait_for_selector(".hit")
        assert page.locator(".hit").count() == 10
        # Thai vowels above and below are no letters to the snippet, so that a mark may be a part of the word.
        assert any(mark in word or word in mark for mark in page.locator("mark").all_inner_texts())
        mirrored = page.get_attribute("html", "dir")
        assert mirrored == ("rtl" if "م" in question else "ltr")
        assert quote_plus(question) in page.url


def test_a_document_full_of_html_is_text(kit: Any, serve: Serve, visit: Visit) -> None:
    with listening(serve(make_world(kit))) as url:
        page = visit(f"{url}#q=night&n=30")
        assert HOSTILE in titles(page)
        assert page.locator(".hit img, .hit script, .hit b").count() == 0
        assert page.title() == "handbook"
        assert "Night trains" in titles(page)


def test_a_filter_is_a_chip_and_a_link(kit: Any, serve: Serve, visit: Visit) -> None:
    with listening(serve(make_world(kit))) as url:
        page = visit(f"{url}#q=key")
        assert "not the whole collection" in page.inner_text("#facets")
        page.locator(".facet .chip", has_text="travel").click()
        page.wait_for_selector('#chips .chip:has-text("topic = \\"travel\\"")')
        assert page.locator('.facet .chip[aria-pressed="true"]').inner_text().startswith("travel")
        again = visit(page.url)
        assert titles(again) == titles(page)
        page.locator("#chips .chip").click()
        page.wait_for_selector("#chips", state="hidden")


def test_a_slider_reorders_at_once_and_the_service_agrees(kit: Any, serve: Serve, visit: Visit) -> None:
    with listening(serve(make_world(kit))) as url:
        page = visit(f"{url}#q=key&n=30")
        before = titles(page), page.locator(".source").all_inner_texts()
        assert page.input_value("#preset") == "balanced"
        for signal, value in (("dense", 1), ("lexical", 100), ("multi", 5)):
            page.locator(f"#w-{signal}").fill(str(value))
        at_once = page.locator(".source").all_inner_texts()
        assert at_once != before[1]
        with page.expect_response("**/search"):
            pass
        page.wait_for_selector("#foot:not([hidden])")
        page.wait_for_timeout(200)
        assert page.locator(".source").all_inner_texts() == at_once
        assert page.input_value("#preset") == ""
        assert "w=1%2C100%2C5" in page.url
        page.select_option("#preset", "balanced")
        with page.expect_response("**/search"):
            pass


def tab_to(page: Any, selector: str, most: int = 60) -> None:
    """Press Tab until an element is reached that `selector` means."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    pytest.fail(f"{selector} is not reached by {most} times Tab")


def test_everything_by_keyboard_alone(kit: Any, serve: Serve, visit: Visit) -> None:
    with listening(serve(make_world(kit))) as url:
        # The query box has the focus: a person can type at once.
        page = visit(url, wait="#welcome")
        page.keyboard.type("key")
        page.keyboard.press("Enter")
        page.wait_for_selector(".hit")
        tab_to(page, ".hit:nth-child(2) .why")
        page.keyboard.press("Enter")
        page.wait_for_selector(".hit:nth-child(2) .reasons table")
        assert page.locator(":focus").get_attribute("aria-expanded") == "true"
        cells = page.locator(".hit:nth-child(2) .reasons tbody tr").all_inner_texts()
        assert [row.split()[0] for row in cells] == ["dense", "lexical", "multi"]
        total = sum(float(row.split("=")[1].split()[0]) for row in cells)
        assert total == pytest.approx(float(page.locator(".hit:nth-child(2) .score").inner_text()), abs=0.002)
        page.keyboard.press("Enter")
        assert page.locator(".hit:nth-child(2) .reasons").is_hidden()
        page.keyboard.press("j")
        page.keyboard.press("Tab")
        assert page.locator(":focus").get_attribute("class") == "why"
        tab_to(page, "#w-lexical")
        with page.expect_response("**/search"):
            page.keyboard.press("End")
        assert page.input_value("#w-lexical") == "100"
        page.keyboard.press("/")
        assert page.locator(":focus").get_attribute("id") == "query"
        tab_to(page, ".facet .chip")
        page.keyboard.press("Space")
        page.wait_for_selector("#chips .chip")
        tab_to(page, "#chips .chip")
        page.keyboard.press("Enter")
        page.wait_for_selector("#chips", state="hidden")


def test_a_store_that_stops_is_said_in_a_band_until_it_is_back(kit: Any, serve: Serve, visit: Visit) -> None:
    world = make_world(kit, stores=kit.three_stores)
    router = world.router({"words": {}})
    words = router.stores.pinned.searchers["words"]
    with listening(serve(world, router=router)) as url:
        page = visit(f"{url}#q=key")
        assert page.locator("#banner").is_hidden()
        assert "coverage full" in page.inner_text("#foot")
        words.faults = dict.fromkeys(("search lexical", "score lexical"), ConnectionRefusedError("secret"))
        page.locator("#query").press("Enter")
        page.wait_for_selector("#banner:not([hidden])")
        band = page.inner_text("#banner")
        assert band.startswith("Lexical is missing (its store failed).")
        assert "rests on dense and multi" in band
        assert "secret" not in page.content()
        assert "coverage partial" in page.inner_text("#foot")
        assert page.locator(".hit").count() == 10
        words.faults = {}
        page.locator("#query").press("Enter")
        page.wait_for_selector("#banner", state="hidden")
        assert "coverage full" in page.inner_text("#foot")


def test_no_hits_says_which_filter_and_drops_it(kit: Any, serve: Serve, visit: Visit) -> None:
    with listening(serve(make_world(kit))) as url:
        late, topic = quote("year > 2030"), quote('topic = "keys"')
        page = visit(f"{url}#q=key&f={late}&f={topic}")
        assert "year > 2030" in page.inner_text("#empty-why")
        page.click("#empty-drops button")
        page.wait_for_selector(".hit")
        assert page.locator("#chips .chip").count() == 1


def test_errors_are_told_with_a_way_out(kit: Any, serve: Serve, visit: Visit) -> None:
    with listening(serve(make_world(kit))) as url:
        page = visit(f"{url}#q=key&f=yeer", wait="#failed:not([hidden])")
        assert "yeer" in page.inner_text("#failed-why")
        page.click("#chips .chip")
        page.wait_for_selector(".hit")


def test_a_key_is_asked_for_and_kept_nowhere(kit: Any, serve: Serve, visit: Visit) -> None:
    served = serve(make_world(kit))
    text = served.key(identity=Identity("acme", ("staff",)))["authorization"].removeprefix("Bearer ")
    with listening(served) as url:
        page = visit(f"{url}#q=key", wait="#door:not([hidden])")
        page.fill("#key", "m3_wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector('#door-why:has-text("opens nothing")')
        page.fill("#key", text)
        page.keyboard.press("Enter")
        page.wait_for_selector(".hit")
        assert text not in page.url
        assert page.context.storage_state() == {"cookies": [], "origins": []}
        page.reload()
        page.wait_for_selector("#door:not([hidden])")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_axe_finds_nothing_serious_and_nothing_sticks_out(
    kit: Any, serve: Serve, visit: Visit, width: int, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")
    with listening(serve(make_world(kit))) as url:
        page = visit(
            f"{url}#q=night&f={quote('year >= 2020')}",
            viewport={"width": width, "height": 800},
            color_scheme=scheme,
            bypass_csp=True,
        )
        page.locator(".why").first.click()
        page.wait_for_selector(".reasons table")
        sizes = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert sizes[0] <= sizes[1]
        found = axe.Axe().run(page).response["violations"]
        serious = [
            (each["id"], [node["html"][:120] for node in each["nodes"]][:3])
            for each in found
            if each["impact"] in ("serious", "critical")
        ]
        assert serious == []
