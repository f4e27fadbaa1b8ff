"""A JPEG file that is damaged in its middle is named: before training by its markers, otherwise when it is
decoded, by what libjpeg says."""

import os
import re
import subprocess
import sys
import threading
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from engine.data import preprocessing
from engine.data.dataset_builder import DatasetBuilder
from engine.data.images import check_complete, jpeg, read_image
from engine.data.preprocessing import refuse_incomplete
from engine.errors import UserError
from engine.runtime import Runtime

NOISE = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
PIXELS = cv2.GaussianBlur(NOISE, (0, 0), 2)
DAMAGED = r"a\.jpg: truncated, corrupt or not an image \(Corrupt JPEG data: "


def write(path, pixels=PIXELS, **options):
    Image.fromarray(pixels).save(path, quality=90, **options)
    return path


def scan_of(data):
    """Where the data of the first scan begin."""
    start = data.index(b"\xff\xda")
    return start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")


def overwritten(path, content, *, share=0.5):
    data = bytearray(path.read_bytes())
    start = scan_of(bytes(data))
    at = start + int(share * (len(data) - start - len(content)))
    data[at : at + len(content)] = content
    path.write_bytes(bytes(data))


def cut_and_closed(path, *, share=0.5):
    data = path.read_bytes()
    start = scan_of(data)
    path.write_bytes(data[: start + int(share * (len(data) - start))].rstrip(b"\xff") + b"\xff\xd9")


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"optimize": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_cut_in_the_middle_and_closed_is_refused_when_it_is_decoded(tmp_path, options, mode):
    path = tmp_path / "a.jpg"
    Image.fromarray(PIXELS).convert(mode).save(path, quality=90, **options)
    check_complete(path)
    read_image(path)
    cut_and_closed(path)
    with pytest.raises(UserError, match=DAMAGED):
        read_image(path)


def test_a_photo_with_several_images_in_its_file_is_checked_too(tmp_path):
    """Pillow calls the format of many phones MPO."""
    path = tmp_path / "a.jpg"
    second = Image.fromarray(PIXELS[::2, ::2])
    Image.fromarray(PIXELS).save(path, format="MPO", save_all=True, append_images=[second], quality=90)
    with Image.open(path) as header:
        assert header.format == "MPO"
    check_complete(path)
    assert read_image(path).shape == (96, 128, 3)
    overwritten(path, bytes(400), share=0.1)
    with pytest.raises(UserError, match=DAMAGED):
        read_image(path)


def test_a_progressive_jpeg_without_its_last_scans_is_refused(tmp_path):
    path = write(tmp_path / "a.jpg", progressive=True)
    check_complete(path)
    cut_and_closed(path, share=0.1)
    with pytest.raises(UserError, match=DAMAGED):
        read_image(path)


def test_overwritten_bytes_are_found_before_training_by_the_marker_among_them(tmp_path):
    path = write(tmp_path / "a.jpg")
    overwritten(path, b"\x12\x34\xff\x42\x56" * 20)
    with pytest.raises(UserError, match=DAMAGED):
        check_complete(path)
    with pytest.raises(UserError, match=DAMAGED):
        read_image(path)


def test_overwritten_bytes_without_a_marker_are_found_when_it_is_decoded(tmp_path):
    path = write(tmp_path / "a.jpg")
    overwritten(path, bytes(800), share=0.1)
    check_complete(path)
    with pytest.raises(UserError, match=DAMAGED):
        read_image(path)


@pytest.mark.parametrize("rows", [0, 1])
def test_damage_is_found_also_if_other_data_follow_the_image(tmp_path, rows):
    """As from cameras that append to the end; without restart markers, and with damage to those."""
    path, trailer = tmp_path / "a.jpg", b"abcd" * 100
    data = write(path, restart_marker_rows=rows).read_bytes()
    path.write_bytes(data + trailer)
    check_complete(path)
    assert (read_image(path) == cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)).all()
    path.write_bytes(data)
    cut_and_closed(path)
    path.write_bytes(path.read_bytes() + trailer)
    for read in (read_image, partial(check_complete, decode_jpeg=True)):
        with pytest.raises(UserError, match=DAMAGED):
            read(path)


def test_missing_restart_markers_are_found_before_training(tmp_path):
    """96 rows are 6 rows of 16 x 16 units, with a restart marker between two rows: 5 markers, RST0..RST4."""
    path = write(tmp_path / "a.jpg", restart_marker_rows=1)
    data = path.read_bytes()
    markers = re.findall(rb"\xff[\xd0-\xd7]", data[scan_of(data) :])
    assert markers == [b"\xff\xd0", b"\xff\xd1", b"\xff\xd2", b"\xff\xd3", b"\xff\xd4"]
    check_complete(path)
    for damaged in (
        data[: data.index(b"\xff\xd2")] + b"\xff\xd9",  # cut and closed
        data[: data.index(b"\xff\xd1")] + data[data.index(b"\xff\xd2") :],  # a row is missing
    ):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=DAMAGED):
            check_complete(path)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("size", [(96, 128), (97, 131), (8, 8), (1, 1)])
@pytest.mark.parametrize(
    "options",
    [
        {"restart_marker_blocks": 1},
        {"restart_marker_rows": 1, "subsampling": "4:2:2"},
        {"restart_marker_blocks": 3, "progressive": True},
        {"progressive": True, "subsampling": 0},
    ],
)
def test_whole_files_pass_with_any_structure(tmp_path, mode, size, options):
    path = tmp_path / "a.jpg"
    Image.fromarray(cv2.resize(PIXELS, size[::-1])).convert(mode).save(path, **options)
    assert jpeg.end_of(path.read_bytes()) == path.stat().st_size
    assert read_image(path).shape[:2] == size


def test_an_image_of_a_phone_with_a_second_image_after_its_end_passes(tmp_path):
    """Its thumbnail, with an end marker of its own, is in a segment before the pixels."""
    path = write(tmp_path / "a.jpg")
    data = path.read_bytes()
    thumbnail = b"\xff\xe1" + (len(data) + 2).to_bytes(2, "big") + data
    path.write_bytes(data[:2] + thumbnail + data[2:] + data + b"appended" * 40)
    assert jpeg.end_of(path.read_bytes()) == 2 * len(data) + 4
    check_complete(path)
    assert (read_image(path) == cv2.imread(str(write(tmp_path / "b.jpg")))[..., ::-1]).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}])
def test_decoding_at_an_eighth_of_the_size_finds_the_same(tmp_path, mode, options):
    path = tmp_path / "a.jpg"
    Image.fromarray(PIXELS).convert(mode).save(path, quality=90, **options)
    whole = path.read_bytes()
    check_complete(path, decode_jpeg=True)
    for share in (0.1, 0.3, 0.5, 0.7):
        path.write_bytes(whole)
        cut_and_closed(path, share=share)
        for read in (read_image, partial(check_complete, decode_jpeg=True)):
            with pytest.raises(UserError, match=r"a\.jpg: truncated, corrupt or not an image"):
                read(path)


def test_a_small_dataset_is_decoded_before_training(tmp_path, monkeypatch):
    """All files: then all damaged ones are named at once. A second time, they are not read."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    paths = [write(tmp_path / f"{number}.jpg") for number in range(6)]
    alone = Runtime(torch.device("cpu"))
    total = sum(path.stat().st_size for path in paths)
    for number in (1, 4):
        data = paths[number].read_bytes()
        cut_and_closed(paths[number])
        paths[number].write_bytes(paths[number].read_bytes()[:-2].ljust(len(data) - 2, b"\x55") + b"\xff\xd9")
    monkeypatch.setattr(preprocessing, "_DECODED_BYTES", total - 1)
    refuse_incomplete([Files([str(path) for path in paths])], runtime=alone, budget=0.01)
    monkeypatch.setattr(preprocessing, "_DECODED_BYTES", total)
    with pytest.raises(UserError, match=r"1\.jpg: trunc.*2 of 6 files are damaged, including .*4\.jpg; data"):
        refuse_incomplete([Files([str(path) for path in paths])], runtime=alone, budget=0.01)
    for number in (1, 4):
        write(paths[number])
    refuse_incomplete([Files([str(path) for path in paths])], runtime=alone, budget=0.01)
    monkeypatch.setattr(preprocessing, "check_complete", lambda path, **_: pytest.fail(path))
    refuse_incomplete([Files([str(path) for path in paths])], runtime=alone, budget=0.01)


def test_a_header_with_a_huge_size_is_refused_before_it_is_decoded(tmp_path):
    path = write(tmp_path / "a.jpg", progressive=True)
    data = bytearray(path.read_bytes())
    frame = data.index(b"\xff\xc2")
    data[frame + 5 : frame + 9] = b"\xff\xdc\xff\xdc"  # 65500 x 65500
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"a\.jpg: 65500 x 65500 pixels"):
        check_complete(path, decode_jpeg=True)


# ------------------------------------------------------------------ data left over


def with_left_over(path, rest):
    data = write(path).read_bytes()
    assert data.endswith(b"\xff\xd9")
    path.write_bytes(data[:-2] + rest + b"\xff\xd9")
    return path


@pytest.mark.parametrize("rest", [b"\x01\x02", bytes(40), b"\x20" * 9])
def test_padding_before_the_end_is_accepted(tmp_path, rest, capfd):
    assert read_image(with_left_over(tmp_path / "a.jpg", rest)).shape == (96, 128, 3)
    assert capfd.readouterr().err == ""


def test_data_left_over_are_named_once_also_by_forked_processes(tmp_path, capfd):
    """59 bytes, of which the decoder has taken 7 to fill its register."""
    path = with_left_over(tmp_path / "a.jpg", bytes(range(1, 60)))
    for _ in range(2):
        child = os.fork()
        if child == 0:
            read_image(path)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    read_image(path)
    assert capfd.readouterr().err == (
        f"{path}: at least 52 bytes are left over after its pixels; look at it, and "
        "restore or remove it if parts are shifted or discolored\n"
    )


# ------------------------------------------------------------------ standard error


def test_what_others_print_meanwhile_is_kept(tmp_path, capfd):
    data = write(tmp_path / "a.jpg").read_bytes()
    with jpeg.decoding("a.jpg", data):
        os.write(2, b"from another thread\n")
    assert capfd.readouterr().err == "from another thread\n"


def test_threads_hear_only_of_their_own_files(tmp_path):
    whole, damaged = write(tmp_path / "whole.jpg"), write(tmp_path / "a.jpg")
    cut_and_closed(damaged)
    failed = {whole: 0, damaged: 0}

    def read(path):
        for _ in range(20):
            try:
                read_image(path)
            except UserError:
                failed[path] += 1

    threads = [threading.Thread(target=read, args=(path,)) for path in (whole, damaged)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == {whole: 0, damaged: 20}


def test_a_process_without_standard_error_reads_too(tmp_path):
    path = write(tmp_path / "a.jpg")
    code = "import os; os.close(2); from engine.data.images import read_image as read; "
    code += f"print(read({str(path)!r}).shape)"
    environment = {**os.environ, "PYTHONPATH": "."}
    done = subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"(96, 128, 3)\n"


# ------------------------------------------------------------------ data.on_error


class Split(list):
    def without(self, indices):
        return Split(path for index, path in enumerate(self) if index not in set(indices))


class Source:
    def __init__(self, paths):
        self.splits = {"train": Split(paths)}

    def dataset(self, split, transform, seed=0, cache=None):
        return Files(self.splits[split])


class Files:
    read_pixels = staticmethod(read_image)

    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def image_path(self, index):
        return self.paths[index]

    def name(self, index):
        return os.path.basename(self.paths[index])

    def read(self, index):
        return read_image(self.paths[index])


@pytest.mark.parametrize("workers", [0, 2])
def test_skip_leaves_out_what_only_decoding_finds(tmp_path, workers):
    paths = [str(write(tmp_path / f"{number}.jpg")) for number in range(4)]
    cut_and_closed(tmp_path / "2.jpg")
    builder = DatasetBuilder(
        runtime=Runtime(torch.device("cpu")), on_error="skip", error_budget=0.5, workers=workers
    )
    dataset = builder.dataset(Source(paths), "train", None)
    assert dataset.paths == [paths[0], paths[1], paths[3]]
    ((line,),) = (builder.notes(),)
    assert "1 train file left out" in line
    assert "2.jpg: truncated, corrupt or not an image (Corrupt JPEG data: premature end" in line
