"""The page of compare.py, opened in headless Chromium: `scripts/test.sh --slow` runs it."""

import base64
import io
import json
import re
import shutil

import imageio.v3 as iio
import numpy as np
import pytest

from compare_helpers import data_of, page_data
from data.image import read_image
from helpers import write_set

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
MAX_PAGE_BYTES = 300_000  # beside the images
DESKTOP, PHONE = (1280, 900), (390, 844)
BICUBIC = "--model Bicubic --test_only --save_results --save_gt --cpu --scale 2".split()


@pytest.fixture
def page(sr, run, tmp_path):
    """Write the page of two experiments; return its path."""
    sr("--data_test", "Set5", "--save", "bicubic", *BICUBIC)
    sr.train("--save", "net", "--epochs", 1, "--save_results", "--save_gt")
    files = "--html", tmp_path / "page.html", "--csv", tmp_path / "t.csv"
    assert run("bicubic", "net", "--diff", *files)[0] == 0 and files[3].stat().st_size > 100
    return tmp_path / "page.html"


def pictures_of(text):
    """Return the images that a page holds as data URIs, and the text without them."""
    pattern = r'<script type="text/plain" id="picture-\d+">data:image/\w+;base64,(.*?)</script>\n'
    found = [iio.imread(io.BytesIO(base64.b64decode(b))) for b in re.findall(pattern, text)]
    return found, re.sub(pattern, "", text)


def test_a_page_holds_all_images_without_loss_and_names_no_host(page, sr):
    pictures, rest = pictures_of(page.read_text(encoding="utf-8"))
    assert len(rest.encode()) <= MAX_PAGE_BYTES
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", rest)
    data = data_of(rest)
    assert data["methods"] == ["bicubic", "net"]
    for entry in data["images"]:
        for version, kind in zip(entry["versions"], ("SR", "SR", "HR"), strict=True):
            run = "bicubic" if version["label"] == "bicubic" else "net"
            path = sr.folder(run) / f"results-Set5/{entry['name']}_x2_{kind}.png"
            assert np.array_equal(pictures[version["source"]], read_image(path))
    scores, gains = data["tables"]
    means = [line["psnr"] for line in (sr.metrics("bicubic")[0], sr.metrics("net")[-1])]
    assert [row[2]["value"] for row in scores["rows"]] == means
    ranks = ["best" if mean == max(means) else "" for mean in means]
    assert [row[2]["rank"] for row in scores["rows"]] == ranks
    assert "over images only" in gains["title"]


def test_a_page_of_pictures_without_ground_truth(sr, run, coffee, tmp_path):
    write_set(tmp_path / "in", {"coffee": coffee})
    demo = ["--data_test", "Demo", "--dir_demo", tmp_path / "in", "--dir_out", tmp_path / "out"]
    assert sr("--model", "Bicubic", "--test_only", "--cpu", "--scale", 2, *demo)[0] == 0
    where = ["--images", f"mine={tmp_path / 'out'}", "--dir_demo", tmp_path / "in"]
    data = page_data(run, tmp_path, *where)
    pictures, _ = pictures_of((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert [v["label"] for v in data["images"][0]["versions"]] == ["bicubic", "mine"]
    assert np.array_equal(*pictures) and data["tables"] == []
    figure = tmp_path / "figure.png"
    assert run(*where, "--figure", figure, "--image", "coffee", "--dpi", "50")[0] == 0
    assert figure.stat().st_size > 5000
    _, _, err = run(*where, "--html", figure, "--image", "cofee")
    assert "--image cofee" in err and "coffee" in err


# ---------------------------------------------------------------- in Chromium


class Browser:
    """A page in headless Chromium."""

    def __init__(self, path, size):
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
            options.add_argument(flag)
        options.add_argument("--force-color-profile=srgb")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get(path.as_uri())
        self.run("return Promise.all([...document.images].map((image) => image.decode()))")

    def run(self, script, *arguments):
        """Run JavaScript; return its result."""
        return self.driver.execute_script(script, *arguments)

    def drag_handle(self, fraction):
        """Drag the slider's handle to a fraction of its width."""
        from selenium.webdriver import ActionChains

        find = self.driver.find_element
        slider, handle = find("css selector", "#slider"), find("css selector", ".handle")
        start = handle.rect["x"] + handle.rect["width"] / 2 - slider.rect["x"]
        self.run("arguments[0].scrollIntoView({block: 'center'})", slider)
        drag = ActionChains(self.driver).click_and_hold(handle)
        drag.move_by_offset(round(fraction * slider.size["width"] - start), 0).release().perform()

    def pixels(self, selector, shape):
        """Return what is drawn in an element at the centers of (H, W) cells."""
        node = self.driver.find_element("css selector", selector)
        image = iio.imread(io.BytesIO(node.screenshot_as_png))[..., :3]
        rows, columns = (
            ((np.arange(n) + 0.5) * size / n).astype(int)
            for n, size in zip(shape, image.shape[:2], strict=True)
        )
        return image[rows][:, columns].astype(int)

    def requests(self):
        """Return the URLs that the page has asked for."""
        entries = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        sent = [e for e in entries if e["method"] == "Network.requestWillBeSent"]
        return [entry["params"]["request"]["url"] for entry in sent]


@pytest.fixture
def browse():
    """Open pages; close the browsers in the end."""
    pytest.importorskip("selenium", reason="pip install selenium")
    if not (CHROMIUM and DRIVER):
        pytest.skip("no Chromium: apt-get install chromium chromium-driver")
    opened = []

    def call(path, size):
        opened.append(Browser(path, size))
        return opened[-1]

    yield call
    for browser in opened:
        browser.driver.quit()


@pytest.mark.slow
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_slider_zoom_difference_and_sorting(page, browse, sr, size):
    folders = [sr.folder(name) / "results-Set5" for name in ("bicubic", "net")]
    left, right = (read_image(f / "chelsea_x2_SR.png").astype(int) for f in folders)
    hw = left.shape[:2]
    browser = browse(page, size)

    def columns(low, high):
        return slice(int(low * hw[1]), int(high * hw[1]))

    assert browser.run("return document.documentElement.scrollWidth") <= size[0]
    assert browser.run("return getComputedStyle(document.body).fontSize") == "16px"
    before = browser.pixels("#slider", hw)
    for image, part in ((left, columns(0, 0.4)), (right, columns(0.6, 0.75))):
        assert np.abs(before[:, part] - image[:, part]).mean() < 2
    browser.drag_handle(0.9)
    after = browser.pixels("#slider", hw)
    part = columns(0.6, 0.75)
    assert np.abs(after[:, part] - left[:, part]).mean() < 2, "the slider shows the left image"
    assert np.abs(after[:, part] - before[:, part]).mean() > 2 * np.abs(left - right).mean() / 3

    browser.run("document.getElementById('zoom-in').click()")
    middles = browser.run(
        "return [...document.querySelectorAll('.pane')].filter((p) => p.clientWidth).map((p) => {"
        "const box = p.getBoundingClientRect(), image = p.firstElementChild.getBoundingClientRect();"
        "return [image.width / box.width, (box.left - image.left) / image.width]})"
    )
    assert len(middles) == 5  # two sides of the slider, three small views
    assert np.allclose(middles, [[1.5, 1 / 6]], atol=1e-3)

    browser.run("document.getElementById('zoom-fit').click()")
    browser.run("document.getElementById('difference').click()")
    browser.run("return Promise.all([...document.images].map((image) => image.decode()))")
    drawn = browser.pixels("#pane-difference", hw)
    assert np.abs(drawn - np.minimum(5 * np.abs(left - right), 255)).mean() < 2

    names = "return [...document.querySelectorAll('tbody')][0].innerText.match(/bicubic|net/g)"
    psnr = {"bicubic": sr.metrics("bicubic")[0]["psnr"], "net": sr.metrics("net")[-1]["psnr"]}
    head = "document.querySelectorAll('thead th')[2].click()"
    browser.run(head)
    assert browser.run(names) == sorted(psnr, key=psnr.get, reverse=True)
    browser.run(head)
    assert browser.run(names) == sorted(psnr, key=psnr.get)

    assert browser.run("return document.querySelectorAll('#plot circle').length") == 2
    assert all(url.startswith(("file:", "data:")) for url in browser.requests())
    errors = [entry for entry in browser.driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors
