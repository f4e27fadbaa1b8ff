"""The authors' archives with made-up weights, below a folder that serves as a mirror of their hosts."""

import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import torch

from backbones.weights import catalog
from backbones.weights.tensorflow import LOGITS, Layers
from engine.config.compose import compose_config
from engine.config.instantiate import build
from tests.backbones.weights.tensorflow_graphs import arrays_of, write_released


@contextmanager
def serving(folder):
    """Serve a folder over HTTP; yields (address, paths requested so far)."""
    requests = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            requests.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=partial(server.serve_forever, poll_interval=0.02), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", requests
    finally:
        server.shutdown()
        server.server_close()


def no_proxy(monkeypatch):
    """Local addresses are not asked of a proxy."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def made_up_release(name, mirror):
    """Write the archive of one of the authors' networks below `mirror`; returns its arrays by name."""
    network = catalog.find(name)
    config = compose_config("train", list(network.overrides))
    background = network.task == "cls"
    with torch.device("meta"):
        model = build(config.model, key="model", num_classes=network.num_classes + background)
    arrays = arrays_of(_layers(network), model.state_dict())
    path = mirror / network.url.partition("://")[2]
    path.parent.mkdir(parents=True, exist_ok=True)
    graph = "frozen_inference_graph.pb" if network.task != "cls" else f"{path.stem}.pb"
    write_released(path, arrays, graph=f"{path.name.partition('.')[0]}/{graph}")
    return arrays


def _layers(network):
    layers = Layers()
    if network.task == "seg":
        layers.backbone(network.spec, "MobilenetV3")
        layers.conv("head.branch", "aspp0")
        layers.biased("head.gate", "image_pooling")
        layers.biased("head.high", "decoder/decoder_conv0")
        layers.biased("head.low", "decoder/feature_projection0")
    elif network.task == "cls":
        layers.backbone(network.spec, "MobilenetV3")
        layers.biased("hidden", "MobilenetV3/Conv_2")
        layers.biased("classifier", f"MobilenetV3/{LOGITS}")
    else:
        root = "FeatureExtractor/MobilenetV3"
        layers.backbone(network.spec, root)
        for i, full in enumerate((512, 256, 256, 128)):
            theirs = f"{root}/layer_{len(network.spec.blocks) + 2}"
            layers.conv(f"head.extras.{i}.reduce", f"{theirs}_1_Conv2d_{i + 2}_1x1_{full // 2}")
            layers.depthwise(
                f"head.extras.{i}.depthwise", f"{theirs}_2_Conv2d_{i + 2}_3x3_s2_{full}_depthwise"
            )
            layers.conv(f"head.extras.{i}.expand", f"{theirs}_2_Conv2d_{i + 2}_3x3_s2_{full}")
        for i in range(6):
            for ours, name in (("boxes", "BoxEncodingPredictor"), ("scores", "ClassPredictor")):
                layers.depthwise(f"head.{ours}.{i}.depthwise", f"BoxPredictor_{i}/{name}_depthwise")
                layers.biased(f"head.{ours}.{i}.predict", f"BoxPredictor_{i}/{name}")
    return layers
