"""What every task must do, as tests that a task's own test class inherits.

For a task of your own, write a test module like this one and run it with pytest:

    from tests.contract import TaskContract

    class TestMyTask(TaskContract):
        info = my_task.TASK

        def source(self, folder): ...           # data with the labeled splits train and val
        def train_transform(self): ...
        def task(self, classes): ...            # a task with a small network

Each test builds what it needs from these three. Keep them small: everything runs on the CPU.
"""

import copy
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from backbones.count import count
from deploy.artifact import Artifact
from deploy.eager import eager_session
from deploy.metadata import describe
from engine.contracts import DataSource, Evaluator, ExportedTask, Reporter, Task, TaskInfo
from engine.data.class_map import ClassMap
from engine.data.images import read_image
from engine.data.loader import EvaluationSampler, SampleKey, collate
from engine.errors import UserError
from engine.html.page import Page
from engine.train.distillation import Distillation

ZEBRA = ClassMap(names=("zebra", "yeti"))


class TaskContract:
    info: TaskInfo
    augments = True
    """Whether training samples are augmented at random."""
    per_class = True
    """Whether evaluations list every class."""

    def source(self, folder: Path) -> DataSource:
        """A data source with at least three labeled samples in each of `train` and `val`.

        If it has a split `test`, that one is without labels.
        """
        raise NotImplementedError

    def train_transform(self):
        """The transform of training samples."""
        raise NotImplementedError

    def task(self, classes: ClassMap) -> Task:
        """A task with a small network, whose losses are means over what `weight` counts."""
        raise NotImplementedError

    def another_output(self, outputs):
        """Arrays that disagree with an exported network's `outputs`."""
        return [~output if output.dtype == bool else -output for output in outputs]

    # ------------------------------------------------------------------ helpers

    @pytest.fixture
    def data(self, tmp_path):
        return self.source(tmp_path / "data")

    @pytest.fixture
    def built(self, data):
        torch.manual_seed(0)
        return self.task(data.classes)

    def val(self, data, task):
        return data.dataset("val", task.eval_transform)

    def train(self, data, seed=0):
        return data.dataset("train", self.train_transform(), seed=seed)

    def evaluated(self, task, dataset, *, rank=0, world_size=1) -> Evaluator:
        task.eval()
        evaluator = task.evaluator(dataset)
        sampler = EvaluationSampler(num_samples=len(dataset), rank=rank, world_size=world_size)
        for keys in sampler:
            batch = collate([dataset[key] for key in keys])
            with torch.inference_mode():
                evaluator.update(task.predict(batch), batch)
        return evaluator

    def exported(self, task, **options) -> ExportedTask:
        return self.info.export(task=task.eval(), **options).eval()

    def artifact(self, exported, folder, *, task=None) -> Artifact:
        """An exported file's stand-in: the same metadata, run by PyTorch."""
        metadata = describe(exported, task=task or self.info.name, facts={})
        session = dataclasses.replace(eager_session(exported), metadata=metadata)
        return Artifact(session, folder / "model.onnx")

    # --------------------------------------------------------------------- info

    def test_info_says_what_the_package_is(self, built, data):
        assert type(built).__module__.split(".")[0] == self.info.name
        assert self.info.title.strip()
        assert self.info.metric == self.evaluated(built, self.val(data, built)).main_metric
        assert self.info.size_key.startswith("data.")
        assert self.info.paper_classes >= 0

    def test_totals_are_parameters_and_multiply_adds(self, built, data):
        image = self.val(data, built)[SampleKey(0, 0)]["image"]
        counted = count(built.model, tuple(image.shape[-2:]))
        params, madds = self.info.totals(counted, len(built.classes))
        assert 0 < params <= counted.params
        assert madds >= counted.madds > 0

    # --------------------------------------------------------------------- data

    def test_a_source_has_classes_splits_and_one_line_about_itself(self, data):
        assert isinstance(data.classes, ClassMap)
        assert list(data.splits)[:2] == ["train", "val"]
        assert data.description.strip()
        assert "\n" not in data.description
        assert all(isinstance(line, str) and "\n" not in line for line in data.warnings)
        with pytest.raises(UserError, match="nowhere"):
            data.dataset("nowhere", self.train_transform())

    def test_without_removes_samples_and_keeps_the_order(self, data, built):
        names = [self.val(data, built).name(index) for index in range(len(data.splits["val"]))]
        smaller = copy.copy(data)
        smaller.splits = {**data.splits, "val": data.splits["val"].without([1])}
        dataset = self.val(smaller, built)
        assert [dataset.name(index) for index in range(len(dataset))] == [names[0], *names[2:]]
        assert len(data.splits["val"]) == len(names)

    def test_samples_have_names_and_files(self, data, built):
        dataset = self.val(data, built)
        names = [dataset.name(index) for index in range(len(dataset))]
        assert len(set(names)) == len(names)
        assert all(Path(dataset.image_path(index)).is_file() for index in range(len(dataset)))
        assert dataset.has_labels
        assert dataset[SampleKey(1, 0)]["index"] == 1
        dataset.read(0)

    def test_a_sample_depends_on_nothing_but_seed_epoch_and_index(self, data):
        first, again = self.train(data, seed=1), self.train(data, seed=1)
        for index in (2, 0):
            again[SampleKey(index, 5)]
        assert equal(first[SampleKey(1, 3)], again[SampleKey(1, 3)])
        if not self.augments:
            return
        epochs = [first[SampleKey(1, epoch)] for epoch in range(6)]
        seeds = [self.train(data, seed=seed)[SampleKey(1, 0)] for seed in range(6)]
        for samples in (epochs, seeds):
            assert not all(equal(samples[0], sample) for sample in samples[1:])

    def test_evaluation_samples_are_the_same_in_every_epoch(self, data, built):
        dataset = self.val(data, built)
        assert equal(dataset[SampleKey(0, 0)], dataset[SampleKey(0, 7)])

    # ----------------------------------------------------------------- training

    def test_it_is_a_task(self, built):
        assert isinstance(built, nn.Module)
        assert isinstance(built, Task)
        assert str(built.eval_transform).strip()
        assert all(name.startswith("model.") for name in built.state_dict())

    def test_losses_have_the_same_names_every_time_and_are_finite(self, data, built):
        dataset = self.train(data)
        batches = [collate([dataset[SampleKey(i, epoch)] for i in range(3)]) for epoch in (0, 1)]
        losses = [built.train()(batch) for batch in batches]
        assert losses[0].keys() == losses[1].keys()
        for value in losses[0].values():
            assert value.shape == ()
            assert value.isfinite()
        sum(losses[0].values()).backward()
        assert any(parameter.grad is not None for parameter in built.parameters())

    def test_micro_batches_by_their_weights_make_the_whole_batch(self, data, built):
        dataset = self.train(data)

        def loss(*indices):
            batch = collate([dataset[SampleKey(index, 0)] for index in indices])
            with torch.no_grad():
                return built.eval()(batch), built.weight(batch)

        whole, total = loss(0, 1, 2)
        parts = [loss(0), loss(1, 2)]
        assert total.shape == ()
        torch.testing.assert_close(sum(weight for _, weight in parts), total)
        for name, value in whole.items():
            mean = sum(losses[name] * weight for losses, weight in parts) / total
            torch.testing.assert_close(mean, value, rtol=1e-4, atol=1e-5)

    def test_notes_are_lines(self, data, built):
        assert all(isinstance(line, str) for line in built.notes(self.train(data)))

    def test_a_teacher_adds_a_loss_if_the_task_distills(self, data, built):
        assert built.distillation is None
        if not self.info.distills:
            return
        dataset = self.train(data)
        batch = collate([dataset[SampleKey(index, 0)] for index in range(3)])
        before = built.train()(batch).keys()
        built.distillation = Distillation(teacher=copy.deepcopy(built.model).eval())
        losses = built(batch)
        assert losses.keys() - before == {"distillation"}
        assert losses["distillation"].isfinite()

    # --------------------------------------------------------------- evaluation

    def test_an_evaluation_gives_numbers_and_a_table(self, data, built):
        evaluator = self.evaluated(built, self.val(data, built))
        results = evaluator.compute()
        assert isinstance(results[evaluator.main_metric], float)
        assert all(isinstance(name, str) for name in results)
        assert all(isinstance(value, int | float | str) for value in results.values())
        table = evaluator.table()
        assert table.strip()
        assert not self.per_class or all(name in table for name in data.classes.names)

    def test_shards_merge_to_one_pass(self, data, built):
        dataset = self.val(data, built)
        whole = self.evaluated(built, dataset)
        shards = [self.evaluated(built, dataset, rank=rank, world_size=2) for rank in (0, 1)]
        merged = built.evaluator(dataset)
        merged.merge([shard.state() for shard in shards])
        assert equal(merged.compute(), whole.compute())
        assert merged.table() == whole.table()

    def test_reset_forgets_everything(self, data, built):
        dataset = self.val(data, built)
        evaluator = self.evaluated(built, dataset)
        evaluator.reset()
        assert equal(evaluator.state(), built.evaluator(dataset).state())

    def test_other_classes_are_refused_by_name(self, built):
        built.check_classes(built.classes)
        with pytest.raises(UserError, match="zebra"):
            built.check_classes(ZEBRA)

    def test_a_split_without_labels_cannot_be_evaluated(self, data, built):
        if "test" not in data.splits:
            pytest.skip("the data source has no split without labels")
        dataset = data.dataset("test", built.eval_transform)
        assert not dataset.has_labels
        with pytest.raises(UserError, match=r"evaluate against.*data\.split"):
            built.evaluator(dataset)

    # ------------------------------------------------------------------ reports

    def test_predictions_are_drawn_at_the_size_of_the_image(self, data, built):
        reporter: Reporter = self.info.reporter(built.eval())
        image = read_image(self.val(data, built).image_path(0))
        prediction, untouched = built.predict_image(image), image.copy()
        plain = reporter.draw(image, prediction, legend=False)
        assert plain.dtype == np.uint8
        assert plain.shape == image.shape
        assert (image == untouched).all()
        drawn = reporter.draw(image, prediction)
        assert drawn.shape[2] == 3
        assert drawn.shape[0] >= image.shape[0]

    def test_drawings_of_a_video_all_have_one_size(self, data, built):
        reporter = self.info.reporter(built.eval())
        image = read_image(self.val(data, built).image_path(0))
        frames = [image, image[:, ::-1].copy(), np.zeros_like(image)]
        sizes = {reporter.draw(f, built.predict_image(f), all_classes=True).shape for f in frames}
        assert len(sizes) == 1

    def test_a_saved_prediction_is_json(self, data, built, tmp_path):
        image = read_image(self.val(data, built).image_path(0))
        record = self.info.reporter(built.eval()).save_prediction(
            built.predict_image(image), tmp_path, "folder/name"
        )
        assert json.loads(json.dumps(record)) == record

    def test_outputs_of_a_batch_are_predictions_of_its_images(self, data, built):
        """Transforms keep the images' order; a batch of one is what `predict_image` gives."""
        dataset, reporter = self.val(data, built.eval()), self.info.reporter(built)
        images = [read_image(dataset.image_path(index)) for index in (0, 1)]
        with torch.inference_mode():
            batches = [collate([dataset[SampleKey(index, 0)]]) for index in (0, 1)]
            single = [reporter.per_image(built.predict(batch)) for batch in batches]
        assert [len(predictions) for predictions in single] == [1, 1]
        assert close([predictions[0] for predictions in single], [built.predict_image(i) for i in images])

    def test_samples_and_evaluations_are_saved(self, data, built, tmp_path):
        dataset, reporter = self.val(data, built), self.info.reporter(built)
        reporter.save_samples(dataset, tmp_path / "none", count=0)
        assert not (tmp_path / "none").exists()
        reporter.save_samples(dataset, tmp_path / "samples", count=2)
        assert len(list((tmp_path / "samples").glob("*.png"))) == 2
        out = tmp_path / "eval"
        out.mkdir()
        reporter.save_evaluation(self.evaluated(built, dataset), dataset, out, worst=1)
        assert list(out.iterdir())
        assert len(list(out.glob("worst/*.png"))) <= 1
        if self.per_class:
            text = (out / "per_class.txt").read_text(encoding="utf-8")
            assert all(name in text for name in data.classes.names)

    def test_the_report_has_the_tasks_own_sections(self, data, built):
        dataset, reporter = self.val(data, built), self.info.reporter(built.eval())
        if not hasattr(reporter, "report"):
            pytest.skip("the task adds nothing to the report")
        page = Page("report")
        reporter.report(self.evaluated(built, dataset), dataset, page)
        html = page.html()
        assert page.sections
        assert 'class="chart"' in html
        if self.per_class:
            assert all(name in html for name in data.classes.names)

    def test_suspicious_labels_are_ranked_samples_of_the_split(self, data, built):
        dataset, reporter = self.val(data, built), self.info.reporter(built.eval())
        if not hasattr(reporter, "suspicious"):
            pytest.skip("the task does not look for suspicious labels")
        found = reporter.suspicious(self.evaluated(built, dataset), dataset, 2)
        assert len(found) <= 2
        scores = [each.score for each in found]
        assert scores == sorted(scores, reverse=True)
        for each in found:
            assert each.name == dataset.name(each.index)
            assert each.places
            assert each.draw().shape[2] == 3

    # ------------------------------------------------------------------- export

    def test_an_exported_task_has_what_export_asks_for(self, data, built):
        exported = self.exported(built)
        images = self.images(data, exported)
        assert images.shape[1] == 3
        assert str(images.dtype) == exported.dtype == "uint8"
        assert exported.normalized
        assert set(exported.compared) <= set(exported.names)
        assert exported.output
        assert exported.classes is built.classes
        assert exported.model is built.model
        outputs = eager_session(exported)(images)
        assert len(outputs) == len(exported.names)
        assert exported.agreement(outputs, outputs) == 1
        assert 0 <= exported.agreement(outputs, self.another_output(outputs)) < 1

    def test_a_graph_without_normalization_takes_normalized_images(self, data, built):
        exported, bare = self.exported(built), self.exported(built, normalize=False)
        images = self.images(data, exported)
        assert bare.dtype == "float32"
        assert not bare.normalized
        normalized = bare.normalize(torch.from_numpy(images)).numpy()
        assert equal(eager_session(exported)(images), eager_session(bare)(normalized))

    def test_unknown_outputs_are_refused(self, built):
        with pytest.raises(ValueError, match="output must be"):
            self.exported(built, output="poetry")

    @pytest.mark.parametrize("normalize", [True, False])
    def test_a_task_with_an_exported_file_predicts_like_its_model(self, data, built, tmp_path, normalize):
        dataset, model = self.val(data, built), built.model
        batch = collate([dataset[SampleKey(0, 0)]])
        image = read_image(dataset.image_path(1))
        with torch.inference_mode():
            expected = built.eval().predict(batch), built.predict_image(image)
        artifact = self.artifact(self.exported(built, normalize=normalize), tmp_path)
        with_file = self.info.with_file(task=built, artifact=artifact)
        with torch.inference_mode():
            results = with_file.predict(batch), with_file.predict_image(image)
        assert close(results, expected)
        assert built.model is model  # the trained task is left as it is
        assert isinstance(with_file, Task)
        evaluation = self.evaluated(with_file, dataset).compute()
        assert math.isfinite(evaluation[self.info.metric])

    def test_files_of_another_task_or_of_other_classes_are_refused(self, data, built, tmp_path):
        exported = self.exported(built)
        with pytest.raises(UserError, match=r"model\.onnx"):
            self.info.with_file(task=built, artifact=self.artifact(exported, tmp_path, task="music"))
        exported.classes = ZEBRA
        with pytest.raises(UserError, match=r"model\.onnx.*zebra"):
            self.info.with_file(task=built, artifact=self.artifact(exported, tmp_path))

    def images(self, data, exported):
        """Two images of `val` as the exported network takes them, [2, 3, h, w]."""
        dataset = data.dataset("val", exported.eval_transform)
        pixels = [exported.transform(read_image(dataset.image_path(index))) for index in (0, 1)]
        return np.stack([image.transpose(2, 0, 1) for image in pixels])


def flat(value):
    """Dicts, sequences and tensors as one list of arrays, numbers and strings."""
    if isinstance(value, dict):
        return [part for key in value for part in (key, *flat(value[key]))]
    if isinstance(value, tuple | list):
        return [part for item in value for part in flat(item)]
    return [value.numpy() if isinstance(value, Tensor) else value]


def equal(ours, theirs):
    """Equal to the bit, NaN equal to NaN."""
    return matches(ours, theirs, np.array_equal)


def close(ours, theirs):
    return matches(ours, theirs, lambda a, b, **nan: np.allclose(a, b, rtol=1e-4, atol=1e-4, **nan))


def matches(ours, theirs, compare):
    first, second = flat(ours), flat(theirs)
    return len(first) == len(second) and all(
        a == b if isinstance(a, str) else np.shape(a) == np.shape(b) and compare(a, b, equal_nan=True)
        for a, b in zip(first, second, strict=True)
    )
