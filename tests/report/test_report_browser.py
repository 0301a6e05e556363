"""A browser opens the report, clicks the map, follows a class, and asks the network for nothing."""

from pathlib import Path

import pytest

from nearfar.report import write_report

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no chromium on this machine"),
]


@pytest.fixture(scope="module")
def address(material, tmp_path_factory):
    return write_report(material, tmp_path_factory.mktemp("browser")).as_uri()


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def tab(browser, address):
    """The page at desktop width; at the end nothing may have failed and nothing may have been fetched."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: faults.append(request.url) if request.url.startswith("http") else None)
    page.goto(address)
    yield page
    page.close()
    assert faults == []


def point_on_screen(page, point: int) -> tuple[float, float]:
    """Where a point of the map is drawn when the whole map is shown."""
    return tuple(
        page.evaluate(
            """point => {
              const data = JSON.parse(document.getElementById("points").textContent);
              const box = document.getElementById("canvas").getBoundingClientRect();
              const canvas = document.getElementById("canvas");
              const unit = Math.min(canvas.clientWidth, canvas.clientHeight) * 0.92;
              return [box.left + 1 + (data.x[point] - 0.5) * unit + canvas.clientWidth / 2,
                      box.top + 1 + (data.y[point] - 0.5) * unit + canvas.clientHeight / 2];
            }""",
            point,
        )
    )


def test_a_click_pins_a_picture_with_its_neighbours(tab, material):
    tab.locator("#canvas").scroll_into_view_if_needed()
    x, y = point_on_screen(tab, 5)
    tab.mouse.move(x, y)
    assert tab.locator("#hover").is_visible()
    tab.mouse.click(x, y)
    assert tab.locator("#pinned h3").inner_text() == material.test.classes[material.test.label[5]]
    picks = tab.locator("#pinned .pick")
    assert picks.count() == 5
    first = picks.first.get_attribute("aria-label")
    picks.first.click()
    assert tab.locator("#pinned h3").inner_text() == first.split(",")[0]
    assert tab.evaluate("document.activeElement.id") == "pinned"


def test_the_map_with_the_keyboard(tab):
    tab.focus("#canvas")
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#hover").is_visible()
    tab.keyboard.press("Enter")
    assert tab.locator("#pinned .pick").count() == 5
    assert tab.evaluate("document.activeElement.id") == "pinned"
    tab.focus("#canvas")
    for key in ("+", "+", "-", "ArrowUp", "ArrowDown", "ArrowLeft"):
        tab.keyboard.press(key)
    tab.keyboard.press("Escape")
    assert tab.locator("#pinned .pick").count() == 0


def test_zoom_drag_and_colours_change_the_picture(tab):
    canvas = tab.locator("#canvas")
    canvas.scroll_into_view_if_needed()
    seen = [canvas.screenshot()]
    tab.get_by_role("button", name="class", exact=True).click()
    seen.append(canvas.screenshot())
    for _ in range(4):
        tab.get_by_role("button", name="Zoom in").click()
    seen.append(canvas.screenshot())
    box = canvas.bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.mouse.move(*middle)
    tab.mouse.down()
    tab.mouse.move(middle[0] + 80, middle[1] + 40, steps=4)
    tab.mouse.up()
    seen.append(canvas.screenshot())
    assert len(set(seen)) == 4
    assert tab.locator("#pinned .pick").count() == 0, "a drag is not a click"


def test_a_class_leads_to_its_queries(tab, material):
    tab.locator("#classes .table tbody a").nth(1).click()
    name = tab.locator("#classes .table tbody a").nth(1).inner_text()
    assert tab.locator("#class-panel h3").inner_text() == name
    assert tab.locator("#class-panel .picks").count() == 6
    tab.locator("#figure-classes .wide a").first.click()
    assert tab.locator("#class-panel h3").inner_text() in material.test.classes


@pytest.mark.parametrize("width", [380, 768, 1280])
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_nothing_stands_out_of_the_page(browser, address, width, colours):
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=colours)
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    narrow = page.locator("#figure-recall .phone").is_visible()
    assert narrow == (width == 380)
    wide = page.locator("#figure-recall .wide").is_visible()
    assert wide != narrow
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if colours == "light" else "rgb(16, 18, 23)")
    page.close()


@pytest.mark.parametrize("width", [360, 400, 700, 1000, 1200, 1400])
def test_ten_neighbours_break_in_the_middle_or_not_at_all(browser, address, width):
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(address)
    lines = page.evaluate(
        """() => [...document.querySelectorAll(".row")].map(row => {
          const tops = [...row.querySelectorAll(".near li")].map(li => Math.round(li.getBoundingClientRect().top));
          return [...new Set(tops)].map(top => tops.filter(other => other === top).length);
        })"""
    )
    assert lines
    assert all(line in ([10], [5, 5]) for line in lines)
    page.close()
