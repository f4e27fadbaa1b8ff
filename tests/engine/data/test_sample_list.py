"""A resumed run keeps the order of its samples when some of them are gone."""

import json

import numpy as np
import pytest

from cls.data.dataset import ClassificationSource, ClassificationSplit
from engine.data.class_map import ClassMap
from engine.data.loader import BatchLoader, SampleKey, without_gaps
from engine.data.sample_list import changed, in_places, read
from engine.errors import UserError
from engine.io.files import pack_paths


class Source(ClassificationSource):
    def __init__(self, *names):
        labels = np.arange(1, len(names) + 1, dtype=np.int32)
        split = ClassificationSplit(root="root", files=pack_paths([f"{n}.jpg" for n in names]), labels=labels)
        super().__init__(classes=ClassMap(names=("a", "b")), splits={"train": split}, description="here")

    @property
    def samples(self):
        split = self.splits["train"]
        return list(zip(split.files.tolist(), split.labels.tolist(), strict=True))


def test_all_samples_in_their_order_need_no_change():
    source = Source("x", "y")
    assert in_places(source, ["x", "y"], ["x", "y"]) == (source, [])


def test_lost_samples_leave_their_places_empty():
    source = Source("b", "d", "e")
    arranged, lines = in_places(source, ["a", "b", "c", "d", "e"], ["b", "d", "e"])
    assert arranged.samples == [(b"", 0), (b"b.jpg", 1), (b"", 0), (b"d.jpg", 2), (b"e.jpg", 3)]
    assert arranged.dataset("train", None).gaps == {0, 2}
    assert lines == [
        "2 of the run's 5 training samples are gone (a, c); their positions in the order stay "
        "empty, and all others are used as before"
    ]
    assert len(source.splits["train"]) == 3
    assert source.gaps == {}


def test_samples_that_are_listed_in_another_order_are_used_in_the_old_one():
    arranged, lines = in_places(Source("b", "a"), ["a", "b"], ["b", "a"])
    assert arranged.samples == [(b"a.jpg", 2), (b"b.jpg", 1)]
    assert lines == []


def test_equal_names_are_told_apart_by_their_order():
    arranged, _ = in_places(Source("a", "a", "b"), ["a", "b", "a"], ["a", "a", "b"])
    assert arranged.samples == [(b"a.jpg", 1), (b"b.jpg", 3), (b"a.jpg", 2)]


def test_new_samples_are_refused_unless_the_run_used_only_a_part():
    source, names = Source("a", "b", "c"), ["a", "c"]
    with pytest.raises(UserError, match=r"^training samples added since the run began: 1 \(b\); remove"):
        in_places(source, names, ["a", "b", "c"])
    arranged, lines = in_places(source, names, ["a", "b", "c"], partial=True)
    assert arranged.samples == [(b"a.jpg", 1), (b"c.jpg", 3)]
    assert lines == []


def test_other_data_are_refused():
    with pytest.raises(
        UserError, match=r"^2 of the run's 3 training samples are gone \(a, b\); set data.root"
    ):
        in_places(Source("c"), ["a", "b", "c"], ["c"])


def test_a_split_that_cannot_be_arranged_is_left_alone():
    class Other:
        splits = {"train": [1, 2]}  # noqa: RUF012

    source = Other()
    assert in_places(source, ["a", "b"], ["a"]) == (source, [])


@pytest.mark.parametrize("content", ["{", "[]", '{"train": []}', '{"train": [1]}', '{"val": ["a"]}'])
def test_a_damaged_list_is_refused(tmp_path, content):
    path = tmp_path / "train_names.json"
    assert read(path) is None
    path.write_text(content)
    with pytest.raises(UserError, match=r"train_names\.json: damaged"):
        read(path)


def test_the_names_of_another_split_are_unknown(tmp_path):
    path = tmp_path / "train_names.json"
    path.write_text('{"train": ["a"], "val": ["b", "c"]}')
    assert read(path, "val") == ["b", "c"]
    assert read(path, "test") is None


def test_changes_of_the_evaluated_split_are_counted_and_named():
    end = "; scores are not comparable with the earlier ones of this run"
    assert changed("val", ["a", "b", "b"], ["b", "a", "b"]) == []
    assert changed("val", ["a", "b", "b"], ["b"]) == [f"2 of the run's 3 val samples are gone (a, b){end}"]
    assert changed("val", ["a", "b"], ["b", "c", "d"]) == [
        f"1 of the run's 2 val samples is gone (a){end}",
        f"val samples added since the run began: 2 (c, d){end}",
    ]


def test_a_name_in_any_encoding_is_read_as_written(tmp_path):
    path = tmp_path / "train_names.json"
    path.write_text(json.dumps({"train": ["caf\udce9", "ü\n"]}))
    assert read(path) == ["caf\udce9", "ü\n"]


class Numbers:
    """A dataset whose samples are their keys."""

    def __init__(self, size, gaps):
        self.size, self.gaps = size, frozenset(gaps)

    def __len__(self):
        return self.size

    def __getitem__(self, key):
        assert key.index not in self.gaps
        return {"index": key.index, "epoch": key.epoch}


def test_a_batch_leaves_out_empty_places_and_has_at_least_one_sample():
    keys = [[SampleKey(n, 1) for n in range(start, start + 2)] for start in (0, 2, 4)]
    batches = list(BatchLoader(Numbers(6, {1, 4, 5, 0}), keys))
    # 0 and 1 are gone, and so are 4 and 5: the next samples that exist are 2 and, around the end, 2
    assert [batch["index"].tolist() for batch in batches] == [[2], [2, 3], [2]]
    assert {batch["epoch"][0].item() for batch in batches} == {1}
    assert without_gaps(Numbers(6, ()), keys[0]) is keys[0]
