"""The page's decoder.js: the bytes of OpenCV and Pillow, and the predictions of each task's decode.py."""

import json
import shutil
import threading

import cv2
import numpy as np
import pytest
from PIL import Image

from cls import decode as cls_decode
from deploy.serve.http_server import SiteServer
from deploy.web.site_files import SITE, content_policy
from det.export import decode as det_decode
from seg import decode as seg_decode
from tests.browser.chromium import opened

pytestmark = pytest.mark.slow
BILINEAR = {"mode": "to_size", "interpolation": "bilinear", "when_smaller": "bilinear", "antialias": False}
PILLOW = {"antialias": True, "keep_aspect": True}
SIZES = [
    ((45, 183), (64, 128)),
    ((33, 47), (100, 90)),
    ((131, 77), (50, 61)),
    ((64, 64), (32, 32)),
    ((9, 7), (9, 7)),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page that can import decoder.js, and nothing else."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copy(SITE / "decoder.js", folder)
    (folder / "index.html").write_text("<!doctype html><title>blank</title><link rel=icon href='data:,'>")
    server = SiteServer(("127.0.0.1", 0), folder, policy=content_policy(None))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with opened(folder) as page:
        page.open(f"http://127.0.0.1:{server.server_address[1]}/")
        yield page
        assert page.console == []
    server.shutdown()
    server.server_close()


def prepared(page, image, about):
    """The network's input [3, h, w] that the page makes of an image [H, W, 3]."""
    height, width, channels = image.shape
    assert channels in (3, 4)
    script = f"""import('/decoder.js').then(({{ prepare }}) => {{
        const data = Uint8ClampedArray.from({image.ravel().tolist()});
        const {{ values, dims }} = prepare({{ data, width: {width}, height: {height} }}, {json.dumps(about)});
        return [Array.from(values), dims];
    }})"""
    values, dims = page.run(script)
    return np.array(values, np.float32).reshape(dims)


def about_size(resize, size, *, count=1, **preprocessing):
    return {
        "preprocessing": {"resize": resize, "in_graph": True, **preprocessing},
        "input": {"shape": [count, 3, *size], "dtype": "uint8"},
    }


def noise(size, channels=3):
    return np.random.default_rng(size[0]).integers(0, 256, (*size, channels), np.uint8)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_bilinear_resizing_gives_the_bytes_of_opencv(page, old, new):
    image = noise(old)
    expected = cv2.resize(image, new[::-1], interpolation=cv2.INTER_LINEAR)
    assert (prepared(page, image, about_size(BILINEAR, new))[0].transpose(1, 2, 0) == expected).all()


@pytest.mark.parametrize(("old", "new"), [SIZES[2], SIZES[3], ((90, 60), (30, 20)), ((45, 183), (44, 128))])
def test_averaging_gives_the_bytes_of_opencv(page, old, new):
    image = noise(old)
    expected = cv2.resize(image, new[::-1], interpolation=cv2.INTER_AREA)
    about = about_size({**BILINEAR, "when_smaller": "area"}, new)
    assert (prepared(page, image, about)[0].transpose(1, 2, 0) == expected).all()


def test_averaging_is_only_for_images_that_shrink_on_both_sides(page):
    image = noise((45, 183))
    expected = cv2.resize(image, (128, 64), interpolation=cv2.INTER_LINEAR)
    about = about_size({**BILINEAR, "when_smaller": "area"}, (64, 128))
    assert (prepared(page, image, about)[0].transpose(1, 2, 0) == expected).all()


@pytest.mark.parametrize("old", [(45, 183), (131, 77), (20, 31)])
def test_antialiasing_gives_the_bytes_of_pillow(page, old):
    image = noise(old)
    size = tuple(40 * side // min(old) for side in old)
    resized = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    top, left = (round((side - 32) / 2) for side in size)
    how = {"mode": "shorter_side", "side": 40, "center_crop": [32, 32], **PILLOW}
    expected = resized[top : top + 32, left : left + 32]
    assert (prepared(page, image, about_size(how, (None, None)))[0].transpose(1, 2, 0) == expected).all()


def test_a_scale_rounds_halves_to_even_and_alpha_is_dropped(page):
    image = noise((45, 75), channels=4)
    expected = cv2.resize(image[..., :3], (38, 22), interpolation=cv2.INTER_LINEAR)  # 37.5 and 22.5
    about = about_size({"mode": "scale", "factor": 0.5, "antialias": False}, (None, None))
    assert (prepared(page, image, about)[0].transpose(1, 2, 0) == expected).all()


def test_a_file_that_does_not_normalize_gets_normalized_images_and_a_batch_gets_copies(page):
    image = noise((9, 7))
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    about = about_size(BILINEAR, (9, 7), count=2, in_graph=False, mean=mean, std=std)
    about["input"]["dtype"] = "float32"
    expected = (image - np.float32(mean)) / np.float32(std)
    got = prepared(page, image, about)
    assert got.shape == (2, 3, 9, 7)
    np.testing.assert_array_equal(got[0].transpose(1, 2, 0), expected.astype(np.float32))
    np.testing.assert_array_equal(got[1], got[0])


def test_what_the_page_cannot_prepare_is_refused(page):
    for about, reason in (
        (about_size({"mode": "custom"}, (9, 7)), "a transform of its own"),
        ({**about_size({"mode": "none"}, (None, None)), "min_size": [16, 4]}, "at least 4x16 pixels"),
    ):
        script = f"""import('/decoder.js').then(({{ prepare }}) => {{
            try {{ prepare({{ data: new Uint8Array(189), width: 7, height: 9 }}, {json.dumps(about)}); }}
            catch (error) {{ return error.message; }}
        }})"""
        assert reason in page.run(script)


def decoded(page, outputs, about, size):
    """The page's prediction, as lists."""
    kinds = {"float32": "Float32Array", "uint8": "Uint8Array", "int64": "BigInt64Array"}
    texts = []
    for name, array in outputs.items():
        suffix = "n" if array.dtype == np.int64 else ""
        numbers = ",".join(f"{value!r}{suffix}" for value in array.ravel().tolist())
        kind = kinds[str(array.dtype)]
        texts.append(f"{name}: {{ data: {kind}.from([{numbers}]), dims: {list(array.shape)} }}")
    script = f"""import('/decoder.js').then(({{ decode }}) => {{
        const prediction = decode({{ {", ".join(texts)} }}, {json.dumps(about)}, {list(size)});
        return Object.fromEntries(Object.entries(prediction).map(([key, array]) => [key, Array.from(array)]));
    }})"""
    return page.run(script)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("output", ["logits", "argmax"])
def test_label_maps_are_those_of_the_python_decoder(page, aligned, output):
    about = {"task": "seg", "output": output, "decoding": {"align_corners": aligned}}
    logits = np.random.default_rng(0).normal(size=(1, 4, 6, 9)).astype(np.float32)
    outputs = {"logits": logits} if output == "logits" else {"labels": logits.argmax(1).astype(np.uint8)}
    for size in ((37, 52), (6, 9), (4, 5)):
        expected = seg_decode.decode(outputs, about, size)
        got = np.array(decoded(page, outputs, about, size)["labels"]).reshape(size)
        assert (got == expected).mean() >= 0.9995  # scores can tie in float32
        assert len(np.unique(expected)) == 4


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("limits", [{}, {"per_class": 2}, {"candidates": 5}, {"max_detections": 4}])
def test_raw_boxes_are_those_of_the_python_decoder(page, activation, limits):
    about = {
        "task": "det",
        "output": "raw",
        "decoding": {
            "activation": activation,
            "background_column": 0,
            "score_threshold": 0.3,
            "iou_threshold": 0.5,
            "per_class": None,
            "candidates": None,
            "max_detections": 100,
            **limits,
            "coder": {"scales": [10, 10, 5, 5], "max_log_ratio": 4.0},
            "anchors": {"maps": [{"rows": 3, "columns": 4, "shapes": [[0.4, 0.3], [0.2, 0.5]]}]},
        },
    }
    random = np.random.default_rng(1)
    outputs = {
        "deltas": random.normal(size=(1, 24, 4)).astype(np.float32),
        "scores": 2 * random.normal(size=(1, 24, 4)).astype(np.float32),
    }
    boxes, scores, labels = det_decode.decode(outputs, about, (60, 80))
    got = decoded(page, outputs, about, (60, 80))
    assert got["labels"] == labels.tolist()
    assert len(labels) > 3
    np.testing.assert_allclose(got["scores"], scores, rtol=1e-5)
    np.testing.assert_allclose(np.reshape(got["boxes"], (-1, 4)), boxes, atol=1e-3)


def test_finished_boxes_and_probabilities_are_those_of_the_python_decoders(page):
    about = {"task": "det", "output": "detections"}
    outputs = {
        "boxes": np.float32([[[0.1, 0.2, 0.5, 0.6], [0, 0, 1, 1], [0, 0, 0, 0]]]),
        "scores": np.float32([[0.9, 0.5, 0]]),
        "labels": np.int64([[2, 0, -1]]),
    }
    boxes, scores, labels = det_decode.decode(outputs, about, (60, 80))
    got = decoded(page, outputs, about, (60, 80))
    assert got["labels"] == labels.tolist() == [2, 0]
    np.testing.assert_allclose(got["scores"], scores)
    np.testing.assert_allclose(np.reshape(got["boxes"], (-1, 4)), boxes, rtol=1e-6)
    logits = {"logits": np.float32([[3, -1, 0.5, 700]])}
    got = decoded(page, logits, {"task": "cls", "output": "logits"}, (60, 80))
    np.testing.assert_allclose(got["probabilities"], cls_decode.decode(logits, {}, (60, 80)), atol=1e-7)
