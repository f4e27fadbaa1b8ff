"""Models of `transformers` as teachers, with tiny random networks."""

import json

import pytest
import torch
from torch.nn import functional as F

from engine.data.class_map import ClassMap
from engine.errors import UserError
from engine.train.distillation import Distillation
from engine.train.distillation.hugging_face import is_model_folder
from engine.train.distillation.teachers import load_teacher

CLASSES = ClassMap(names=("road", "sky"))
LABELS = {0: "sky", 1: "tree", 2: "road"}


def saved(folder, *, fixed_size=False):
    """A tiny random model with its image processor; returns the model."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    labels = {"id2label": LABELS, "label2id": {name: number for number, name in LABELS.items()}}
    if fixed_size:
        config = transformers.EomtConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
            num_blocks=1,
            num_queries=5,
            **labels,
        )
        model = transformers.EomtForUniversalSegmentation(config)
        processor = transformers.EomtImageProcessor(size={"height": 32, "width": 32})
    else:
        config = transformers.SegformerConfig(
            hidden_sizes=[8, 8, 16, 16],
            depths=[1, 1, 1, 1],
            num_attention_heads=[1, 1, 2, 2],
            decoder_hidden_size=8,
            image_size=224,  # published configurations still have it; it has no effect
            **labels,
        )
        model = transformers.SegformerForSemanticSegmentation(config)
        processor = transformers.SegformerImageProcessor()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model.eval()


def pixels(height, width):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1)) * 255


def normalized(images):
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    return (images / 255 - mean) / deviation


def test_segformer_gives_its_scores_in_the_order_of_the_classes(tmp_path):
    model = saved(tmp_path)
    images = pixels(64, 96)
    teacher = load_teacher(str(tmp_path), CLASSES, load_run=None).eval()
    with torch.inference_mode():
        expected = model(pixel_values=normalized(images)).logits[:, [2, 0]]
        torch.testing.assert_close(teacher(images), expected, rtol=1e-4, atol=1e-5)
    assert expected.shape == (2, 2, 16, 24)


def test_eomt_gives_the_logarithm_of_each_class_s_share_at_its_own_input_size(tmp_path):
    model = saved(tmp_path, fixed_size=True)
    images = pixels(48, 64)
    teacher = load_teacher(str(tmp_path), CLASSES, load_run=None).eval()
    with torch.inference_mode():
        resized = F.interpolate(normalized(images), (32, 32), mode="bilinear", antialias=True)
        outputs = model(pixel_values=resized)
        classes, masks = outputs.class_queries_logits.softmax(-1), outputs.masks_queries_logits.sigmoid()
        shares = sum(classes[:, q, :3, None, None] * masks[:, q, None] for q in range(5))
        torch.testing.assert_close(teacher(images).exp(), shares[:, [2, 0]], rtol=1e-3, atol=1e-5)


def test_a_teacher_without_one_of_the_classes_is_refused_by_name(tmp_path):
    saved(tmp_path)
    with pytest.raises(UserError, match=r"has no class car \(it has 3: sky, tree, road\)"):
        load_teacher(str(tmp_path), ClassMap(names=("road", "car")), load_run=None)


def test_a_folder_without_weights_is_refused_in_one_line(tmp_path):
    saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="transformers cannot load it") as caught:
        load_teacher(str(tmp_path), CLASSES, load_run=None)
    assert "\n" not in str(caught.value)


def test_only_folders_of_transformers_count_as_such(tmp_path):
    assert not is_model_folder(tmp_path)
    (tmp_path / "config.json").write_text("[")
    assert not is_model_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "segformer"}))
    assert is_model_folder(tmp_path)


def test_segformer_gives_its_last_features_too(tmp_path):
    model = saved(tmp_path)
    images = pixels(64, 96)
    teacher = load_teacher(str(tmp_path), CLASSES, load_run=None).eval()
    distillation = Distillation(teacher=teacher, method=["pixels", "features"])
    with torch.inference_mode():
        outputs = model(pixel_values=normalized(images), output_hidden_states=True)
        scores, features = distillation.scores_and_features(images)
    torch.testing.assert_close(features[0], outputs.hidden_states[-1], rtol=1e-4, atol=1e-5)
    assert features[0].shape == (2, 16, 2, 3)
    torch.testing.assert_close(scores, outputs.logits[:, [2, 0]], rtol=1e-4, atol=1e-5)


def test_a_teacher_without_feature_maps_is_refused(tmp_path):
    saved(tmp_path, fixed_size=True)
    teacher = load_teacher(str(tmp_path), CLASSES, load_run=None)
    with pytest.raises(UserError, match=r"^distill\.method=features: the (backbone of the )?teacher"):
        Distillation(teacher=teacher, method="features").scores_and_features(pixels(32, 32))
