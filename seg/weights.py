"""Published weights under our names: torchvision's LR-ASPP decoder."""

from backbones.weights.state_dict import StateDict


def torchvision_head(state: StateDict) -> StateDict:
    """The decoder of torchvision's `lraspp_mobilenet_v3_large` under our names; float16 becomes float32.

    Raises:
        ValueError: if a key is not of that decoder.
    """
    names = {
        "classifier.cbr.0": "head.branch.conv",
        "classifier.cbr.1": "head.branch.bn",
        "classifier.scale.1": "head.gate",
        "classifier.low_classifier": "head.low",
        "classifier.high_classifier": "head.high",
    }
    head: StateDict = {}
    for key, tensor in state.items():
        if key.startswith(("backbone.", "aux_classifier.")):
            continue
        layer, _, part = key.rpartition(".")
        if layer not in names:
            raise ValueError(f"{key!r} is not part of torchvision's LR-ASPP decoder")
        head[f"{names[layer]}.{part}"] = tensor.float() if tensor.is_floating_point() else tensor
    return head
