"""Published weights of segmentation networks under the names of `seg.model.Segmenter`."""

from backbones.spec import NetSpec
from backbones.weights.state_dict import StateDict, detect_format, from_torchvision

_LRASPP_NAMES = {
    "classifier.cbr.0": "head.branch.conv",
    "classifier.cbr.1": "head.branch.bn",
    "classifier.scale.1": "head.gate",
    "classifier.low_classifier": "head.low",
    "classifier.high_classifier": "head.high",
}
"""torchvision's `lraspp_mobilenet_v3_large` -> ours."""


def segmenter_state(state: StateDict, spec: NetSpec) -> StateDict:
    """Translate a state dict of torchvision's LR-ASPP to our names, float32; ours is returned unchanged.

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
    return from_torchvision(state, spec) | _torchvision_head(state)


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
