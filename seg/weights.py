"""Published weights of segmentation networks under the names of `seg.model.Segmenter`."""

from backbones.spec import NetSpec
from backbones.weights.state_dict import StateDict, detect_format, from_torchvision
from backbones.weights.tensorflow import Layers, root_of

_LRASPP_NAMES = {
    "classifier.cbr.0": "head.branch.conv",
    "classifier.cbr.1": "head.branch.bn",
    "classifier.scale.1": "head.gate",
    "classifier.low_classifier": "head.low",
    "classifier.high_classifier": "head.high",
}
"""torchvision's `lraspp_mobilenet_v3_large` -> ours."""


def segmenter_state(state: StateDict, spec: NetSpec, *, hard_gate: bool = True) -> StateDict:
    """Translate a state dict of torchvision's LR-ASPP or of the authors' DeepLab to our names, float32; ours
    is returned unchanged.

    hard_gate: whether the head's gate is a hard sigmoid, as in the authors' graphs.

    Raises:
        ValueError: if the names are unknown or belong to another network than `spec`.
    """
    state_format = detect_format(state)
    if state_format == "torchvision":
        raise ValueError(
            "these are the weights of a classifier, without a segmentation head; use them as weights= instead"
        )
    if state_format == "ours":
        return state
    if state_format == "tensorflow":
        return _from_deeplab(state, spec, hard_gate=hard_gate)
    return from_torchvision(state, spec) | _torchvision_head(state)


def _from_deeplab(constants: StateDict, spec: NetSpec, *, hard_gate: bool) -> StateDict:
    if "aspp0/weights" not in constants:
        raise ValueError(
            "these are not the weights of a segmentation network; use them as weights= instead, for the "
            "backbone"
        )
    root, layers = root_of(constants), Layers()
    assert root is not None
    layers.backbone(spec, root, last=f"{root}/Conv_1/weights" in constants)
    layers.conv("head.branch", "aspp0")
    if "concat_projection/weights" in constants:  # R-ASPP
        layers.pairs["head.image.weight"] = "image_pooling/weights"
        layers.norm("head.image_norm", "image_pooling")
        layers.conv("head.project", "concat_projection")
        layers.biased("head.classify", "logits/semantic")
    else:
        if not hard_gate:
            raise ValueError("the authors' LR-ASPP needs their gate; set model.head.gate=hard_sigmoid")
        layers.biased("head.gate", "image_pooling")
        layers.biased("head.high", "decoder/decoder_conv0")
        layers.biased("head.low", "decoder/feature_projection0")
        layers.gated.add("head.high.weight")
    return layers.state(constants, spec)


def _torchvision_head(state: StateDict) -> StateDict:
    head: StateDict = {}
    for key, tensor in state.items():
        if key.startswith(("backbone.", "aux_classifier.")):
            continue
        layer, _, part = key.rpartition(".")
        if layer not in _LRASPP_NAMES:
            raise ValueError(f"{key!r} is not part of torchvision's LR-ASPP head")
        head[f"{_LRASPP_NAMES[layer]}.{part}"] = tensor.float() if tensor.is_floating_point() else tensor
    return head
