"""Which tests cover which modules; these are the modules in which a bug silently gives wrong numbers."""

TARGETS: dict[str, tuple[str, ...]] = {
    "seg/losses.py": ("tests/seg/test_losses.py", "tests/seg/test_task.py"),
    "det/losses.py": ("tests/det/test_losses.py",),
    "cls/augment/mix.py": ("tests/cls/test_task.py", "tests/cls/test_transforms.py"),
    "seg/eval/evaluator.py": ("tests/seg/eval", "tests/seg/test_task.py"),
    "det/eval/evaluator.py": ("tests/det/eval", "tests/det/test_report.py"),
    "det/eval/average_precision.py": ("tests/det/eval",),
    "det/eval/true_positives.py": ("tests/det/eval",),
    "det/eval/object_limits.py": ("tests/det/eval", "tests/det/test_report.py"),
    "cls/eval/evaluator.py": ("tests/cls/eval",),
    "det/anchors/matcher.py": ("tests/det/anchors", "tests/det/test_losses.py"),
    "det/anchors/generators.py": ("tests/det/anchors",),
    "det/anchors/coverage.py": ("tests/det/anchors",),
    "det/panlite/assignment.py": ("tests/det/panlite",),
    "det/panlite/losses.py": ("tests/det/panlite",),
    "det/boxes.py": ("tests/det/test_boxes.py", "tests/det/test_postprocess.py", "tests/det/anchors"),
    "det/postprocess.py": ("tests/det/test_postprocess.py", "tests/det/export/test_export.py"),
    "nas/netadapt/pruning.py": ("tests/nas/netadapt/test_pruning.py", "tests/nas/netadapt/test_proposals.py"),
    "nas/mnas/reward.py": ("tests/nas/mnas/test_reward.py",),
    "deploy/quantize/within_budget.py": ("tests/deploy/quantize",),
    "deploy/quantize/fallback.py": ("tests/deploy/quantize",),
    "deploy/quantize/sensitivity.py": ("tests/deploy/quantize",),
    "deploy/quantize/quantizer.py": ("tests/deploy/quantize",),
    "deploy/quantize/report_card.py": ("tests/deploy/quantize",),
    "deploy/export/comparison.py": ("tests/deploy/export",),
    "seg/export.py": ("tests/seg/test_export.py",),
    "det/export/agreement.py": ("tests/det/export/test_export.py",),
    "det/export/suppression.py": ("tests/det/export/test_export.py",),
    "det/export/decode.py": ("tests/det/export/test_decode.py",),
    "cls/export.py": ("tests/cls/test_export.py",),
    "engine/train/optimization.py": (
        "tests/engine/train/test_schedules.py",
        "tests/engine/train/test_optimizers.py",
    ),
    "engine/train/learner.py": ("tests/engine/train",),
    "engine/train/distillation/__init__.py": (
        "tests/engine/train",
        "tests/cls/test_task.py",
        "tests/seg/test_task.py",
    ),
    "seg/weights.py": ("tests/seg/test_model.py",),
    "det/weights.py": ("tests/det/test_weights.py", "tests/det/test_model.py"),
    "cls/weights.py": ("tests/cls/test_model.py", "tests/backbones/weights/test_weights.py"),
    "backbones/weights/state_dict.py": (
        "tests/backbones/weights/test_weights.py",
        "tests/backbones/weights/test_timm_weights.py",
    ),
    "backbones/weights/torchvision.py": ("tests/backbones/weights/test_weights.py",),
    "backbones/weights/timm.py": (
        "tests/backbones/weights/test_weights.py",
        "tests/backbones/weights/test_timm_weights.py",
    ),
    "backbones/weights/layer_keys.py": (
        "tests/backbones/weights/test_weights.py",
        "tests/backbones/weights/test_timm_weights.py",
    ),
    "seg/task.py": ("tests/seg/test_task.py", "tests/seg/test_inference.py", "tests/seg/test_contract.py"),
    "det/task.py": ("tests/det/test_task.py", "tests/det/test_contract.py"),
    "cls/task.py": ("tests/cls/test_task.py", "tests/cls/test_contract.py"),
    "cls/model.py": ("tests/cls/test_model.py", "tests/cls/test_task.py"),
    "nas/netadapt/proposals.py": ("tests/nas/netadapt",),
    "nas/netadapt/search.py": ("tests/nas/netadapt",),
}
"""module -> the test files and folders that cover it."""

NAME_MAPS = tuple(name for name in TARGETS if "weights" in name)
"""Modules in which strings are also mutated."""
