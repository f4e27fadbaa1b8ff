"""One plain test for each fault that the fuzz tests found."""

import io
import json
import math
import struct
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from engine.data import media
from engine.data.images import list_images, read_image, read_labels, write_png
from engine.errors import UserError
from engine.io.files import write_json
from engine.plots import save_curves
from engine.run import checkpoint
from engine.run.run_folder import RunFolder
from engine.train.run_log import RunLog, read_rows
from seg.data.masks import masks
from tests.engine.video import files


def ours(path, metadata):
    checkpoint.write(path, {"model/a": torch.ones(1)}, metadata)
    return path


@pytest.mark.parametrize(
    "metadata", [{}, {"state": None}, {"state": {}}, {"state": {"step": "x"}}, {"state": {"step": 1e999}}]
)
def test_a_whole_checkpoint_without_a_step(tmp_path, metadata):
    assert checkpoint.step_of(ours(tmp_path / "a.safetensors", metadata)) is None


def test_a_checkpoint_whose_entry_is_nested_without_end(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(1)}, path, metadata={"checkpoint": "[" * 100_000})
    with pytest.raises(UserError, match=r"a\.safetensors: not a checkpoint of this project"):
        checkpoint.read(path)


def test_a_reason_without_words(tmp_path):
    """torch raises an EOFError without a text for a pickle that ends early."""
    (tmp_path / "a.pth").write_bytes(b"\x80\x02\x8a\xff.")
    with pytest.raises(UserError, match=r"a\.pth: not a file of plain tensors.*\(EOFError\)"):
        checkpoint.read_weights(tmp_path / "a.pth")


def test_control_characters_of_a_header_are_not_repeated(tmp_path):
    header = rb'{"a": ["\u001b[2J"]}'
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    for read in (checkpoint.read, checkpoint.read_weights):
        with pytest.raises(UserError, match="damaged, or not a safetensors file") as caught:
            read(path)
        assert str(caught.value).isprintable()


def test_tensors_larger_than_their_file(tmp_path):
    """A view of one number can have any shape; its first copy takes the memory."""
    path = tmp_path / "a.pth"
    torch.save({"weight": torch.ones(1).expand(2**40)}, path)
    with pytest.raises(UserError, match=r"a\.pth: not a state dict of tensors"):
        checkpoint.read_weights(path)
    for other in ({3: torch.ones(1)}, {"a": torch.ones(2, 2).to_sparse()}):
        torch.save(other, path)
        with pytest.raises(UserError, match="not a state dict"):
            checkpoint.read_weights(path)


@pytest.mark.parametrize("name", ["a.pth", "a.npz"])
def test_a_zip_of_zeros_is_not_unpacked_in_memory(tmp_path, name):
    with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    with pytest.raises(UserError, match="expands to 50000000 bytes"):
        checkpoint.read_weights(tmp_path / name)


def test_compressed_arrays_are_read_all_the_same(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", weight=np.zeros(5000, np.float32))
    assert checkpoint.read_weights(tmp_path / "a.npz")["weight"].shape == (5000,)


def test_a_damaged_member_of_an_npz(tmp_path):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, weight=np.arange(1000.0))
    for at in range(150, len(buffer.getvalue()) - 100, 97):
        data = bytearray(buffer.getvalue())
        data[at] ^= 0xFF
        (tmp_path / "a.npz").write_bytes(data)
        with pytest.raises(UserError, match=r"a\.npz: not an \.npz of plain arrays"):
            checkpoint.read_weights(tmp_path / "a.npz")


def test_a_name_that_is_too_long_for_a_file():
    with pytest.raises(UserError, match="no such weight file"):
        checkpoint.read_weights(Path("a" * 5000))
    for text in ("a" * 5000, "\0", "a\0*/b", "~nobody-of-that-name/a"):
        with pytest.raises(UserError, match=r"^input=") as caught:
            media.find_media(text)
        assert caught.value.args[0].isprintable()


@pytest.mark.parametrize(
    "line",
    [b'{"step": "3", "kind": "train"}', b'{"step": null, "kind": "eval"}', b'{"step": 3, "kind": [1]}',
     b'{"step": true, "kind": "train"}', b'{"step": 1' + b"0" * 30 + b', "kind": "train"}', b"[" * 100_000],
)  # fmt: skip
def test_a_log_with_a_row_of_other_types_is_whole_up_to_it(tmp_path, line):
    run = RunFolder(tmp_path)
    run.log.write_bytes(
        b'{"step": 1, "kind": "train", "loss": 2.0}\n' + line + b'\n{"step": 5, "kind": "train"}\n'
    )
    assert [row["step"] for row in read_rows(run.log)] == [1]
    RunLog(run, step=9, tensorboard=False).close()
    assert len(run.log.read_bytes().splitlines()) == 1


def test_curves_and_events_of_rows_without_numbers(tmp_path):
    rows = [
        {"step": 1, "kind": "train"},
        {"step": 2, "kind": "train", "loss": None, "time": "noon"},
        {"step": 3, "kind": "train", "loss": 1.0, "large": 10**400},
        {"step": 4, "kind": "eval", "mIoU": "good", "nan": math.nan},
    ]
    run = RunFolder(tmp_path)
    run.log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_curves(read_rows(run.log), "mIoU", run.curves)
    assert run.curves.stat().st_size > 1000
    log = RunLog(run, step=9, evaluated_step=9)
    log.close()
    assert len(read_rows(run.log)) == 4


def test_a_link_to_itself_among_the_pictures(tmp_path):
    write_png(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
    (tmp_path / "loop.png").symlink_to("loop.png")
    assert list_images(tmp_path) == [tmp_path / "a.png"]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "loop").symlink_to("loop")
    (tmp_path / "classes.json").write_text('{"classes": [{"id": 0, "name": "a"}]}')
    with pytest.raises(UserError, match=r"no images; .*loop \(a broken link\)"):
        masks(root=str(tmp_path))


def test_a_file_name_in_another_encoding_is_written_down(tmp_path):
    """As old archives leave them: predict lists such files in its summary."""
    write_json(tmp_path / "a.json", {"file": "caf\udce9.png", "ü": 1})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"file": "caf\udce9.png", "ü": 1}


class Capture:
    """A video whose container says anything."""

    def __init__(self, **properties):
        self.properties = {getattr(cv2, f"CAP_PROP_{name}"): value for name, value in properties.items()}

    def get(self, key):
        return self.properties.get(key, 0.0)

    def read(self):
        raise cv2.error("damaged")

    def release(self):
        pass


def test_videos_that_say_anything(tmp_path, monkeypatch):
    for count, expected in ((math.nan, 0), (math.inf, 0), (-5.0, 0), (1e30, 0), (7.0, 7)):
        monkeypatch.setattr(cv2, "VideoCapture", lambda path, c=count: Capture(FRAME_COUNT=c))
        assert files.num_frames(tmp_path / "a.mp4") == expected
    with pytest.raises(UserError, match=r"a\.mp4: cannot be read as a video"):
        list(files.read_frames(tmp_path / "a.mp4"))
    monkeypatch.setattr(
        cv2, "VideoCapture", lambda path: Capture(FRAME_WIDTH=60_000.0, FRAME_HEIGHT=60_000.0)
    )
    with pytest.raises(UserError, match=r"a\.mp4: frames of more than 89 megapixels"):
        list(files.read_frames(tmp_path / "a.mp4"))


def test_a_tiff_whose_numbers_are_text(tmp_path):
    """Pillow takes the offset of the pixels from the file as it is, and fails with a TypeError."""
    tags = [(256, 4, 20), (257, 4, 14), (273, 2, 0)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    path = tmp_path / "a.tif"
    path.write_bytes(b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(904))
    for read in (read_image, read_labels):
        with pytest.raises(UserError, match=r"a\.tif: truncated, corrupt or not an image"):
            read(path)


def test_names_in_train_and_val_are_found_with_their_folder(tmp_path):
    (tmp_path / "classes.json").write_text('{"classes": [{"id": 0, "name": "a"}]}')
    for split in ("train", "val"):
        for folder in ("images", "masks"):
            write_png(tmp_path / folder / split / "a.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(UserError, match=f"^{tmp_path}: 'a' is in both train and val"):
        masks(root=str(tmp_path))


def test_a_tiff_with_fewer_rows_than_its_header_says(tmp_path):
    """Pillow gives an image whose lower part is black."""
    path = tmp_path / "a.tif"
    Image.fromarray(np.full((14, 20), 9, np.uint8)).save(path)
    for read in (read_image, read_labels):
        assert (read(path) == 9).all()
    data = bytearray(path.read_bytes())
    data[data.index(struct.pack("<HHII", 257, 4, 1, 14)) + 8] = 28
    path.write_bytes(data)
    for read in (read_image, read_labels):
        with pytest.raises(
            UserError, match=r"a\.tif: truncated, corrupt or not an image \(pixels are missing\)"
        ):
            read(path)
