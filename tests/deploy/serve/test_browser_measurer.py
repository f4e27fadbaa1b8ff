"""The latency table of a browser: a page in Python measures the layers of a device of known cost."""

import json
import threading
import urllib.error
import urllib.request

import pytest
import torch
from torch import nn

from deploy.latency_table import layer_graph
from deploy.latency_table.build import build_table
from deploy.latency_table.table import LatencyTable
from deploy.serve import browser_measurer
from deploy.serve.browser_measurer import BrowserMeasurer
from deploy.serve.http_server import SiteServer
from engine.errors import UserError
from tests.deploy.latency_table.test_latency_table import SIZE, TINY, MAdds

DEVICE = {
    "kind": "wasm",
    "threads": 4,
    "cores": 8,
    "browser": "Browser 1",
    "platform": "Phone\n2",
    "gpu": "",
    "isolated": True,
}


@pytest.fixture
def measure(monkeypatch, tmp_path):
    """A measurer behind a server, with graphs that are numbers of modules instead of ONNX files."""
    modules = []

    def graph(module, inputs):
        modules.append((module, inputs))
        return str(len(modules) - 1).encode()

    monkeypatch.setattr(layer_graph, "layer_graph", graph)
    monkeypatch.setattr(browser_measurer, "POLL_S", 0.2)
    measure = BrowserMeasurer(layer_s=0.1)
    measure.modules = modules
    server = SiteServer(("127.0.0.1", 0), tmp_path, policy="", calls=measure.calls)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    measure.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield measure
    server.shutdown()
    server.server_close()


def ask(measure, path, secret, content=None):
    """(status, answer) of a call; the answer is bytes if it is no JSON."""
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(measure.url + path, body, {"Authorization": f"Bearer {secret}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            content, job = answer.read(), answer.headers.get("X-Job")
            if job is not None:
                return answer.status, (json.loads(job), content)
            return answer.status, json.loads(content) if content else None
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["error"]


def page(measure, answer):
    """Measure jobs until the server is finished; `answer`: (module, inputs) -> what is sent."""
    _, admitted = ask(measure, "/api/device", measure.token, DEVICE)
    jobs = []
    while True:
        status, job = ask(measure, "/api/job", admitted["session"])
        if status == 204:
            continue
        if "finished" in job:
            return jobs, job["finished"]
        about, graph = job
        jobs.append(about)
        module, inputs = measure.modules[int(graph)]
        assert about["inputs"] == [list(tensor.shape) for tensor in inputs]
        result = {"number": about["number"], **answer(module, inputs)}
        ask(measure, "/api/result", admitted["session"], result)


def in_background(task):
    results = []
    thread = threading.Thread(target=lambda: results.append(task()), daemon=True)
    thread.start()
    return thread, results


def test_the_table_of_a_browser_is_that_of_its_device(measure, tmp_path):
    device = MAdds()
    thread, results = in_background(lambda: page(measure, lambda *job: {"ms": device(*job)}))
    measure.wait_for_page()
    table = build_table(TINY, size=SIZE, measure=measure, shares=(1, 0.5))
    measure.finish({"layers": len(table.entries)})
    thread.join(10)
    jobs, finished = results[0]
    expected = build_table(TINY, size=SIZE, measure=MAdds(), shares=(1, 0.5))
    assert table.entries == expected.entries
    assert len(jobs) == device.calls
    assert [job["number"] for job in jobs] == list(range(1, len(jobs) + 1))
    assert finished == {"layers": len(expected.entries)}
    table.save(tmp_path / "phone.json")
    about = LatencyTable.load(tmp_path / "phone.json").about
    assert (about["runtime"], about["threads"], about["cores"]) == ("onnxruntime-web", 4, 8)
    assert about["device"] == "wasm in Browser 1"
    assert about["platform"] == "Phone?2"
    assert about["size"] == list(SIZE)


def test_the_token_admits_one_page(measure):
    assert ask(measure, "/api/device", "wrong", DEVICE)[0] == 403
    assert ask(measure, "/api/job", measure.token)[0] == 403
    assert ask(measure, "/api/result", "", {"number": 1, "ms": 1})[0] == 403
    status, admitted = ask(measure, "/api/device", measure.token, DEVICE)
    assert status == 200
    status, reason = ask(measure, "/api/device", measure.token, DEVICE)
    assert (status, "admits one page" in reason) == (403, True)
    assert ask(measure, "/api/job", measure.token)[0] == 403
    assert ask(measure, "/api/job", admitted["session"]) == (204, None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": "webnn"}, "kind must be wasm or webgpu"),
        ({"threads": 0}, "threads must be 1 to 4096"),
        ({"threads": True}, "threads must be a number"),
        ({"cores": "8"}, "cores must be a number"),
        ({"browser": None}, "browser must be a string"),
    ],
)
def test_a_device_must_be_described(measure, change, reason):
    status, answer = ask(measure, "/api/device", measure.token, {**DEVICE, **change})
    assert (status, reason in answer) == (400, True)
    assert ask(measure, "/api/device", measure.token, DEVICE)[0] == 200  # the token is not used up


def test_only_the_result_that_is_waited_for_is_taken(measure):
    session = ask(measure, "/api/device", measure.token, DEVICE)[1]["session"]
    thread, results = in_background(lambda: measure(nn.Identity(), [torch.zeros(1, 2)]))
    about, _ = ask(measure, "/api/job", session)[1]
    assert ask(measure, "/api/job", session)[1][0] == about  # a page that was reloaded gets it again
    for wrong in (float("nan"), -1, "1", 1e9, None):
        assert ask(measure, "/api/result", session, {"number": about["number"], "ms": wrong})[0] == 400
    assert ask(measure, "/api/result", session, {"number": about["number"] + 1, "ms": 1})[0] == 409
    assert ask(measure, "/api/result", session, {"number": about["number"], "ms": 1.5})[0] == 204
    thread.join(10)
    assert results == [1.5]
    assert ask(measure, "/api/result", session, {"number": about["number"], "ms": 2})[0] == 409


def test_a_layer_that_the_browser_cannot_run_ends_the_measurement(measure):
    session = ask(measure, "/api/device", measure.token, DEVICE)[1]["session"]

    def attempt():
        with pytest.raises(UserError, match=r"cannot run a layer \(out of memory\); nothing was written"):
            measure(nn.Identity(), [torch.zeros(1, 2)])

    thread, results = in_background(attempt)
    about, _ = ask(measure, "/api/job", session)[1]
    ask(measure, "/api/result", session, {"number": about["number"], "error": "out of memory"})
    thread.join(10)
    assert results == [None]
