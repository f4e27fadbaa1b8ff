"""Published weights of classifiers under the names of `cls.model.Classifier`."""

from backbones.spec import NetSpec
from backbones.weights.state_dict import StateDict, classifier_state, detect_format, without_background

IMAGENET_CLASSES = 1000


def own_classes_state(state: StateDict, spec: NetSpec, *, num_classes: int) -> StateDict:
    """The state dict of a classifier in any known format -> under our names.

    For a model of 1000 classes, the first of TensorFlow's 1001 ImageNet classes, background, is dropped.

    Raises:
        ValueError: if the names are unknown, belong to another network than `spec`, or lack a classifier.
    """
    ours = classifier_state(state, spec)
    if num_classes == IMAGENET_CLASSES and detect_format(state) != "ours":
        surplus = len(ours["classifier.bias"]) - num_classes
        return without_background(ours, num_classes) if surplus == 1 else ours
    return ours
