"""format=web and tools/serve.py in a browser: what predict.py predicts, and a table for search.py."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from PIL import Image

from deploy.latency_table.table import LatencyTable
from tests.browser.chromium import browser, opened
from tests.browser.onnxruntime_web import npm_registry
from tests.deploy.latency_table.steady import steady
from tests.docs.exported_cases import ALIKE, CASES, trained
from tests.tools.commands import ROOT, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
INT8 = ["precision=int8", "calibration.images=4", "calibration.probes=1", "calibration.timing_s=0"]
PAGES = {**CASES, "seg_int8": (*CASES["seg"][:2], [*CASES["seg"][2], *INT8, "budget.miou=100"])}
SIZE = (131, 517)
"""Height and width of the photo, which no network takes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library)
    browser()
    folder = tmp_path_factory.mktemp("work")
    coarse = np.random.default_rng(0).integers(0, 256, (45, 183, 3), np.uint8)
    cv2.imwrite(str(folder / "photo.png"), cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC))
    return folder


@pytest.fixture(scope="module")
def npm(pytestconfig):
    return npm_registry(pytestconfig.cache)


@contextlib.contextmanager
def served(folder, *arguments):
    """A running tools/serve.py: (its address, its process)."""
    command = [sys.executable, str(ROOT / "tools/serve.py"), "port=0", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with open(folder / "served.txt", "w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        end = time.monotonic() + 120
        while not (found := re.search(r"^open: (\S+)$", (folder / "served.txt").read_text(), re.MULTILINE)):
            assert process.poll() is None, (folder / "served.txt").read_text()
            assert time.monotonic() < end
            time.sleep(0.1)
        yield found[1], process
    finally:
        process.kill()
        process.wait()


def exported(folder, case, npm):
    """(folder of the page, the photo's entry in summary.json), both of the case's run."""
    out, name = folder / f"page_{case}", trained(folder, case.removesuffix("_int8"))
    options = PAGES[case][2]
    if not out.exists():
        budget = [] if case.endswith("int8") else ["budget.max_difference=1"]
        page = ["format=web", f"web.npm={npm}", f"out={out}", "images=1", *budget]
        run("export", f"run={name}", *options, *page, cwd=folder)
        same = [option for option in options if option.startswith("data.")]
        lowest = ["task.draw_threshold=0"] if PAGES[case][0] == "det" else []
        place = [f"artifact={out}/model.web.onnx", f"out=predicted_{case}", "input=photo.png", "device=cpu"]
        run("predict", f"run={name}", *place, *same, *lowest, cwd=folder)
    (summary,) = json.loads((folder / f"predicted_{case}/summary.json").read_text())["files"]
    return out / "site", summary


def ready(page):
    status = "document.querySelector('#status')"
    page.wait_for(f"{status}.matches('.error') || /^Ready/.test({status}.textContent)")
    assert page.text("#status").startswith("Ready"), page.text("#status")


def prediction(page, url, photo):
    """What the page predicts for an image, as lists, and its times."""
    page.open(url)
    ready(page)
    page.choose_file("#file", photo)
    page.wait_for("import('/app/app.js').then((app) => app.current() !== null)")
    text = page.run("""import('/app/app.js').then((app) => JSON.stringify(app.current(), (key, value) =>
        ArrayBuffer.isView(value) ? Array.from(value) : value))""")
    return json.loads(text)


@pytest.mark.parametrize(
    "case",
    [
        c if c in ("seg", "det", "cls") else pytest.param(c, marks=pytest.mark.weekly)
        for c in [*ALIKE, "det_raw", "seg_int8"]
    ],
)
def test_the_page_predicts_what_predict_does(folder, npm, case, tmp_path):
    site, summary = exported(folder, case, npm)
    assert not list(site.rglob("golden.npz"))  # the page does not publish images of the data
    with served(folder, f"site={site}", "host=127.0.0.1") as (url, process), opened(tmp_path) as page:
        assert url.startswith("http://127.0.0.1:")
        result = prediction(page, url, folder / "photo.png")
        assert page.run("self.crossOriginIsolated")  # so threads can be used
        assert page.console == []
        assert {request.startswith((url, "blob:", "data:")) for request in page.requests} == {True}
        compare(case, folder, result, summary)
        page.wait_for("document.querySelector('#network').textContent.endsWith(' ms')")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert (folder / "served.txt").read_text().splitlines()[-1] == "stopped"


def compare(case, folder, result, summary):
    assert (result["height"], result["width"]) == SIZE
    assert set(result["times"]) == {"prepareMs", "networkMs", "decodeMs", "allMs"}
    found = result["prediction"]
    classes = json.loads((folder / f"page_{case}/preprocess.json").read_text())["classes"]["classes"]
    if PAGES[case][0] == "seg":
        mask = np.asarray(Image.open(folder / f"predicted_{case}" / summary["mask"]))
        ids = np.array([entry["id"] for entry in classes])
        same = (ids[np.array(found["labels"])].reshape(SIZE) == mask).mean()
        assert same >= (0.99 if case.endswith("int8") else 0.9995)  # a sum may round to the next step
        assert len(np.unique(mask)) > 3
    elif PAGES[case][0] == "det":
        expected = summary["detections"]
        assert len(found["labels"]) == len(expected) > 3
        boxes = np.reshape(found["boxes"], (-1, 4))
        for label, score, box in zip(found["labels"], found["scores"], boxes, strict=True):
            assert any(  # neighbors with nearly the same score may change places
                classes[label]["name"] == entry["class"]
                and score == pytest.approx(entry["score"], abs=1e-3)
                and box == pytest.approx(np.array(entry["box_xyxy"]), abs=0.05)
                for entry in expected
            )
    else:
        best = np.argsort(found["probabilities"])[::-1][:5]
        expected = {entry["name"]: entry["probability"] for entry in summary["classes"]}
        got = {classes[index]["name"]: found["probabilities"][index] for index in best}
        assert got == pytest.approx(expected, abs=1e-4)


def test_the_page_says_what_it_cannot_show(folder, npm, tmp_path):
    site, _ = exported(folder, "seg", npm)
    (tmp_path / "text.png").write_text("not an image")
    half = cv2.imread(str(folder / "photo.png"))
    cv2.imwrite(str(tmp_path / "half.png"), np.dstack([half, np.full(half.shape[:2], 128, np.uint8)]))
    status = "document.querySelector('#status')"
    with served(folder, f"site={site}", "host=127.0.0.1") as (url, _), opened(tmp_path) as page:
        prediction(page, url, folder / "photo.png")
        page.choose_file("#file", tmp_path / "text.png")
        page.wait_for(f"{status}.matches('.error')")
        assert page.text("#status") == "text.png: not an image that this browser reads"
        page.choose_file("#file", tmp_path / "half.png")
        page.wait_for(f"{status}.textContent.startsWith('This image has transparent pixels')")
        assert not page.run(f"{status}.matches('.error')")
        page.choose_file("#file", folder / "photo.png")
        page.wait_for(f"{status}.textContent === 'Ready.'")


def test_a_page_that_was_not_exported_is_refused(folder):
    name = trained(folder, "cls")
    printed = run("serve", f"run={name}", cwd=folder, status=1)
    assert f"no page here; run python tools/export.py run={name} format=web" in printed
    assert "set run=" in run("serve", cwd=folder, status=1)
    assert "needs out=" in run("serve", "table=latency", f"run={name}", cwd=folder, status=1)


@pytest.mark.weekly
def test_a_search_runs_on_the_table_that_a_browser_sends(folder, npm, tmp_path):
    """A network of three blocks. The times of a busy machine prove nothing, so their error is not checked."""
    (folder / "tiny.yaml").write_text(TINY)
    small = ["data.size=48", "data.workers=0", "trainer.batch=2", "trainer.tensorboard=false", "samples=0"]
    scenes = ["data.source.num_train=8", "data.source.num_val=2", "data.source.num_test=1", "trainer.steps=2"]
    run(
        "train",
        "task=cls",
        "backbone=tiny.yaml",
        *small,
        *scenes,
        "trainer.device=cpu",
        "run=tiny",
        cwd=folder,
    )
    table = ["table=latency", "out=phone.json", "shares=[1,0.5]", "layer_s=0.05", "host=127.0.0.1"]
    with served(folder, "run=tiny", *table, f"web.npm={npm}") as (url, process), opened(tmp_path) as page:
        address, _, token = url.partition("#")
        page.open(url)
        page.wait_for(
            "document.querySelector('#runtime').options.length && !document.querySelector('main').hidden"
        )
        assert page.run("location.href") == address  # the token is no longer shown
        assert token
        page.run("document.querySelector('#runtime').value = 'wasm-1'")
        page.run("document.querySelector('#start').click()")
        page.wait_for("/^Done/.test(document.querySelector('#status').textContent)", timeout_s=600)
        assert page.console == []
        assert process.wait(60) == 0
        shown = [float(page.text(selector).partition(" ")[0]) for selector in ("#sum", "#whole")]
    printed = (folder / "served.txt").read_text()
    measured = LatencyTable.load(folder / "phone.json")
    assert measured.about["runtime"] == "onnxruntime-web"
    assert shown[0] == pytest.approx(measured.about["sum_ms"], abs=0.06)
    assert min(shown) > 0
    assert re.search(r"whole network in the same browser: \S+ ms \([+-][\d.]+%\)", printed)
    options = [
        "budget=0.95",
        "method.steps=1",
        "method.delta=0.05",
        "method.widths=0",
        "out=adapted",
        "device=cpu",
    ]
    steady(measured).save(folder / "steady.json")  # the times of a busy machine may not lead to the budget
    run("search", "run=tiny", "latency=steady.json", *options, cwd=folder)
    rows = [json.loads(line) for line in (folder / "adapted/history.jsonl").read_text().splitlines()]
    latencies = [row["latency_ms"] for row in rows if row["kind"] in ("seed", "step")]
    assert latencies[-1] <= 0.95 * latencies[0]


TINY = """
name: tiny
stem: 16
blocks:
- {kernel: 3, exp: 48, out: 24, stride: 2}
- {kernel: 3, exp: 96, out: 40, stride: 2}
- {kernel: 3, exp: 160, out: 80, stride: 2}
last: 128
hidden: 64
"""


def test_ctrl_c_ends_a_measurement(folder, npm):
    table = ["table=latency", "out=none.json", "spec=seg/lraspp_v3_small", "size=[64,128]", "host=127.0.0.1"]
    with served(folder, *table, f"web.npm={npm}") as (_, process):
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert (folder / "served.txt").read_text().splitlines()[-1] == "interrupted"
    assert not (folder / "none.json").exists()
