"""Damaged files of a dataset are named before the first step, without decoding those that are intact."""

import re

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from engine.data import preprocessing
from engine.data.images import check_complete, read_image
from engine.data.preprocessing import refuse_incomplete
from engine.errors import UserError
from engine.io import files
from engine.io.files import check_files
from engine.runtime import Runtime
from tests.engine.data.images.tiff_files import write_tiff
from tests.engine.processes import in_processes

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
ALONE = Runtime(torch.device("cpu"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(path, **options):
    Image.fromarray(PIXELS).save(path, **options)
    return path


FORMATS = ["a.jpg", "a.png", "a.tif", "a.webp", "a.bmp", "a.avif"]


@pytest.mark.parametrize("name", FORMATS)
def test_whole_files_pass_and_cut_ones_do_not(tmp_path, name):
    path = write(tmp_path / name)
    check_complete(path)
    data = path.read_bytes()
    for length in (0, 20, len(data) // 2, len(data) - 20):
        path.write_bytes(data[:length])
        with pytest.raises(
            UserError, match=re.escape(f"{path}: truncated, corrupt or not an image")
        ) as error:
            check_complete(path)
        assert "restore or remove the file (in a dataset, data.on_error=skip leaves out such files" in str(
            error.value
        )


def test_a_progressive_jpeg_passes_and_one_with_data_after_its_end(tmp_path):
    path = write(tmp_path / "a.jpg", progressive=True, quality=95)
    path.write_bytes(path.read_bytes() + b"made by a camera" * 10)
    check_complete(path)
    path.write_bytes(path.read_bytes() + bytes(512))
    check_complete(path)
    assert read_image(path).shape == (64, 80, 3)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_jpeg_whose_end_is_zeros_is_damaged(tmp_path, share):
    """An interrupted copy leaves a file of the right size; decoders take zeros for gray."""
    smooth = cv2.GaussianBlur(PIXELS, (0, 0), 9)
    path = tmp_path / "a.jpg"
    Image.fromarray(smooth).resize((640, 480)).save(path, quality=95)
    data = path.read_bytes()
    kept = int(len(data) * share)
    path.write_bytes(data[:kept] + bytes(len(data) - kept))
    for read in (check_complete, read_image):
        with pytest.raises(UserError, match="truncated, corrupt or not an image"):
            read(path)


def test_jpeg_and_png_are_checked_without_decoding(tmp_path, monkeypatch):
    paths = [write(tmp_path / name) for name in ("a.jpg", "a.png", "a.tif")]
    monkeypatch.setattr("engine.data.images.completeness.read_image", None)
    for path in paths:
        check_complete(path)


def test_a_changed_byte_in_the_middle_of_a_png(tmp_path):
    path = write(tmp_path / "a.png")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        UserError, match=r"a\.png: truncated, corrupt or not an image \(a checksum is wrong\)"
    ):
        check_complete(path)


@pytest.mark.parametrize("options", [{"tile": 16}, {"separate": True}])
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_whole_tiffs_of_all_layouts_pass(tmp_path, options, bands):
    path = write_tiff(tmp_path / "a.tif", np.zeros((30, 40, bands), np.uint16), **options)
    check_complete(path)
    path.write_bytes(path.read_bytes()[: 30 * 20 * bands])
    with pytest.raises(UserError, match=r"a\.tif: truncated"):
        check_complete(path)


# ------------------------------------------------------------------ many files


def test_files_that_passed_are_not_checked_again_until_they_change(tmp_path):
    paths = [str(write(tmp_path / f"{number}.png")) for number in range(40)]
    seen = []

    def check(path):
        seen.append(path)
        if path == paths[7]:
            raise UserError("broken")

    assert check_files(paths, check) == {paths[7]: "broken"}
    assert sorted(seen) == sorted(paths)
    seen.clear()
    (tmp_path / "3.png").write_bytes(b"other")
    assert check_files(paths, check) == {paths[7]: "broken"}
    assert sorted(seen) == [paths[3], paths[7]]


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(write(tmp_path / "a.png")))
    assert check_files([str(tmp_path / "a.png")], check_complete) == {}
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # no home, unknown user
    assert check_files([str(tmp_path / "a.png")], check_complete) == {}


def test_a_long_check_shows_its_progress(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "_SILENT_SECONDS", 0)
    check_files([str(write(tmp_path / f"{number}.png")) for number in range(40)], check_complete)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("file checked 16/40  ETA 0:00:")
    assert lines[-1].startswith("file checked 40/40")


class Images:
    """A dataset of image files."""

    read_pixels = staticmethod(read_image)

    def __init__(self, paths):
        self.paths = [str(path) for path in paths]

    def __len__(self):
        return len(self.paths)

    def image_path(self, index):
        return self.paths[index]


def test_the_error_names_all_damaged_files_and_both_remedies(tmp_path):
    paths = [write(tmp_path / f"{number}.jpg") for number in range(8)]
    refuse_incomplete([Images(paths)], runtime=ALONE, budget=0.01)
    for number in (2, 5, 6):
        data = paths[number].read_bytes()
        paths[number].write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError) as error:
        refuse_incomplete([Images(paths[:6]), Images(paths[6:])], runtime=ALONE, budget=0.01)
    message = str(error.value)
    assert message.startswith(f"{paths[2]}: truncated, corrupt or not an image (")
    assert "restore or remove the file (in a dataset, data.on_error=skip leaves out such files); " in message
    # 2 of 6 and 1 of 2 files: half of a split
    assert message.endswith(
        f"3 of 8 files are damaged, including {paths[5]}, {paths[6]}; "
        "data.on_error=skip also needs data.error_budget=0.5"
    )


def test_the_budget_is_not_named_where_it_is_enough(tmp_path):
    paths = [write(tmp_path / f"{number}.jpg") for number in range(4)]
    paths[1].write_bytes(b"")
    with pytest.raises(UserError) as error:
        refuse_incomplete([Images(paths)], runtime=ALONE, budget=0.25)
    assert "error_budget" not in str(error.value)


def test_other_files_and_datasets_that_read_by_themselves_are_not_checked(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"no image")
    (tmp_path / "a.jpg").write_bytes(b"no image")
    refuse_incomplete([Images([tmp_path / "a.npy"])], runtime=ALONE, budget=0.01)
    own = Images([tmp_path / "a.jpg"])
    own.sample_files = lambda index: (str(tmp_path / "a.npy"),)
    refuse_incomplete([own], runtime=ALONE, budget=0.01)

    class Other:
        def __len__(self):
            return 1

    refuse_incomplete([Other()], runtime=ALONE, budget=0.01)


def test_processes_share_the_work_and_raise_the_same_error(tmp_path, monkeypatch):
    paths = [write(tmp_path / f"{number}.jpg") for number in range(6)]
    for number in (1, 4):
        paths[number].write_bytes(b"cut")

    def check(group):
        checked = []

        def counted(path, **options):
            checked.append(path)
            check_complete(path, **options)

        preprocessing.check_complete = counted
        try:
            refuse_incomplete([Images(paths)], runtime=group, budget=0.5)
        except UserError as error:
            return str(error), len(checked)
        return None

    first, second = in_processes(2, check)
    assert first == second
    assert first[0].startswith(f"{paths[1]}: truncated")
    assert first[0].endswith(f"2 of 6 files are damaged, including {paths[4]}")
    assert first[1] == 3
