"""The kit's C++ decoder finds the boxes that decode.py finds, for anchors with deltas and with distances.

Needs g++ and nlohmann-json3-dev, but neither OpenCV nor ONNX Runtime: their parts are replaced.
"""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from deploy.device import runtimes
from det.export.decode import decode

CPP = Path(runtimes.__path__[0]).parent / "cpp"
SIZE = (120, 200)
LIMITS = {
    "score_threshold": 0.3,
    "iou_threshold": 0.5,
    "per_class": 6,
    "candidates": 40,
    "max_detections": 15,
}
MAPS = [
    {"rows": 6, "columns": 8, "shapes": [[0.2, 0.3], [0.4, 0.1]]},
    {"rows": 3, "columns": 4, "shapes": [[0.5, 0.5], [0.3, 0.6]]},
]
ANCHORS = 2 * (6 * 8 + 3 * 4)
DELTAS = {"scales": [10, 10, 5, 5], "max_log_ratio": 4.135}
MAIN = """
#include <fstream>
#include <iostream>
#include "decode.h"
Floats resize_plane(const float*, Size, Size, How) { return {}; }
int nearest(int, int, int, bool) { return 0; }
int main(int, char** arguments) {
    const Json all = Json::parse(std::ifstream(arguments[1]));
    std::vector<Output> outputs;
    for (const Json& output : all["outputs"]) outputs.push_back({output["shape"], output["values"]});
    Json found = Json::array();
    for (const Detection& one : detections(outputs, all["about"], {all["size"][0], all["size"][1]}))
        found.push_back({one.box, one.score, one.label});
    std::cout << found;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    (folder / "opencv2").mkdir()
    (folder / "opencv2/core.hpp").write_text("namespace cv { class Mat; }")
    (folder / "main.cpp").write_text(MAIN)
    command = ["g++", "-std=c++17", "-O1", f"-I{folder}", f"-I{CPP}", folder / "main.cpp", CPP / "decode.cpp"]
    done = subprocess.run([*command, "-o", folder / "decode"], capture_output=True, text=True)
    if "nlohmann/json.hpp: No such file" in done.stderr:
        pytest.skip("needs nlohmann-json3-dev")
    assert done.returncode == 0, done.stderr
    return folder / "decode"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("coder", "numbers", "activation", "background"),
    [
        (DELTAS, 4, "sigmoid", 0),
        (DELTAS, 4, "softmax", 0),
        ({"kind": "distances"}, 4 * 5, "sigmoid", None),
    ],
)
def test_the_boxes_are_those_of_decode_py(program, coder, numbers, activation, background):
    random = np.random.default_rng(0)
    deltas = random.normal(0, 2, (1, ANCHORS, numbers)).astype(np.float32)
    scores = random.normal(-1, 2, (1, ANCHORS, 4)).astype(np.float32)
    decoding = {"anchors": {"maps": MAPS}, "coder": coder, "activation": activation, **LIMITS}
    about = {"output": "raw", "decoding": {**decoding, "background_column": background}}
    boxes, confidences, labels = decode({"deltas": deltas, "scores": scores}, about, SIZE)
    assert len(boxes) > 3
    outputs = [{"shape": array.shape, "values": array.ravel().tolist()} for array in (deltas, scores)]
    case = program.parent / "case.json"
    case.write_text(json.dumps({"about": about, "outputs": outputs, "size": SIZE}))
    found = json.loads(subprocess.run([program, case], capture_output=True, check=True, text=True).stdout)
    assert [label for _, _, label in found] == labels.tolist()
    np.testing.assert_allclose([box for box, _, _ in found], boxes, atol=1e-3)
    np.testing.assert_allclose([score for _, score, _ in found], confidences, atol=1e-6)
