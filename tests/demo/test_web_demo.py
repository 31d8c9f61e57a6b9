"""The page in a browser: Debian's Chromium, driven by Playwright."""

import shutil
from urllib.parse import urlsplit

import numpy as np
import pytest
from helpers.networks import write_networks
from PIL import Image

from mmhcgnet.cli import web

pytest.importorskip("gradio", reason="Gradio is not installed, which makes the page")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="Playwright is not installed, which drives the browser"
)
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("Chromium is not installed", allow_module_level=True)

DETECTOR, CLASSIFIER = "detector, detector.pth", "classifier, classifier.pth"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("web_demo")
    write_networks(folder)
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    (folder / "broken.png").write_bytes((folder / "noise.png").read_bytes()[:5000])
    (folder / "text.png").write_bytes(b"no image")
    with open(folder / "long.png", "wb") as file:
        file.truncate(web.MOST_BYTES + 1)
    (folder / "bad.onnx").write_bytes(b"bad")
    return folder


@pytest.fixture(scope="module")
def url(work):
    words = ["detector.py", "detector.pth", "classifier.py", "classifier.pth", "bad.onnx"]
    with web.serve(web.find_networks([str(work / word) for word in words])) as url:
        yield url


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, url):
    """The page, of which all that is asked for comes from its own address."""
    page = chromium.new_page(viewport=dict(width=1200, height=900))
    page.set_default_timeout(60_000)
    hosts = set()
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.goto(url)
    page.wait_for_selector("#image input[type=file]", state="attached")
    yield page
    assert hosts - {""} == {urlsplit(url).netloc}
    assert "Traceback" not in page.locator("body").inner_text()
    page.close()


def upload(page, path):
    page.set_input_files("#image input[type=file]", path)


def sentence(page, beginning):
    """Waits until the sentence has this in it, and returns it."""
    page.wait_for_function(
        "text => document.querySelector('#sentence textarea').value.includes(text)", arg=beginning
    )
    return page.locator("#sentence textarea").input_value()


def drawn(page):
    """The image that is shown as the result."""
    return page.locator("#result img").get_attribute("src")


def test_an_image_goes_up_and_a_result_comes_back(page, work, url):
    assert url.startswith("http://127.0.0.1:")
    assert page.locator("#result img").count() == 0
    upload(page, work / "noise.png")
    assert " objects: " in sentence(page, "For 80 × 60 pixels: PyTorch ")
    page.wait_for_function("document.querySelector('#result img')?.naturalWidth")
    size = page.locator("#result img").evaluate(
        "image => [image.naturalWidth, image.naturalHeight]"
    )
    assert size == [5 * 80, 5 * 60]  # enlarged, with labels that can be read
    before = drawn(page)
    number = page.locator("#threshold input[type=number]")
    number.fill("1")
    number.press("Enter")
    sentence(page, "No object has a score of 1.00 or more")
    page.wait_for_function("old => document.querySelector('#result img').src != old", arg=before)
    page.get_by_label("Show where the gates look").check()
    page.wait_for_selector("#figure img")


def test_another_network(page, work):
    upload(page, work / "noise.png")
    sentence(page, " objects: ")
    page.locator("#network input").click()
    page.get_by_role("option", name=CLASSIFIER).click()
    assert "object" not in sentence(page, "with a score of")


def test_an_exported_file_has_no_gates_and_a_broken_one_is_a_sentence(page, work):
    gates = page.get_by_label("Show where the gates look")
    assert gates.is_enabled()
    page.locator("#network input").click()
    page.get_by_role("option", name="bad.onnx").click()
    page.wait_for_function("() => document.querySelector('#gates input').disabled")
    assert "An exported file has no gate maps" in page.locator("#gates").inner_text()
    assert page.locator("#engine").get_by_text("PyTorch").count() == 0
    upload(page, work / "noise.png")
    assert "bad.onnx" in sentence(page, "cannot read")
    assert page.locator("#result img").count() == 0


def test_what_is_no_image_is_a_sentence(page, work):
    upload(page, work / "text.png")
    sentence(page, "text.png is not an image that can be read here")
    upload(page, work / "broken.png")
    sentence(page, "broken.png is damaged")
    assert page.locator("#result img").count() == 0
    upload(page, work / "noise.png")
    sentence(page, " objects: ")


def test_a_file_that_is_too_large_does_not_go_up(page, work):
    upload(page, work / "long.png")
    page.get_by_text("exceed the maximum allowed size of 20").first.wait_for()
    assert page.locator("#result img").count() == 0


def test_a_narrow_window(page, work):
    page.set_viewport_size(dict(width=360, height=740))
    upload(page, work / "noise.png")
    sentence(page, " objects: ")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for name in ("image", "network", "engine", "threshold", "gates", "result", "sentence"):
        box = page.locator(f"#{name}").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360, name
