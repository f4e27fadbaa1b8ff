"""Archives: unpacked whole or not at all, never outside of their folder, never without end."""

import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from engine.archive import extract
from engine.errors import UserError

FILES = {"data/a.txt": b"alpha", "data/deep/b.bin": bytes(range(256)) * 40, "data/empty": b""}


def tar_bytes(*members, mode="w", form=tarfile.PAX_FORMAT):
    """A tar of (name, bytes) or of a TarInfo alone."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=form) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def zip_bytes(*members, compression=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(tmp_path, data, why, **limits):
    """The archive is refused in one line, and the folder around is as before."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    archive = home / "archive"
    archive.write_bytes(data)
    with pytest.raises(UserError, match=why) as caught:
        extract(archive, home / "out", **limits)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{archive}: ")
    assert [path.name for path in home.iterdir()] == ["archive"]
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz", "zip", "stored"])
def test_every_kind_is_unpacked(tmp_path, mode):
    if mode in ("zip", "stored"):
        method = zipfile.ZIP_STORED if mode == "stored" else zipfile.ZIP_DEFLATED
        data = zip_bytes(*FILES.items(), compression=method)
    else:
        data = tar_bytes(*FILES.items(), mode=mode)
    (tmp_path / "archive").write_bytes(data)  # what it is stands in its bytes, not in its name
    folder = extract(tmp_path / "archive", tmp_path / "new" / "out")
    assert contents(folder) == FILES
    assert stat.S_IMODE(folder.stat().st_mode) & 0o700 == 0o700
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


def test_what_is_there_is_not_touched(tmp_path):
    (tmp_path / "archive").write_bytes(tar_bytes(*FILES.items()))
    (tmp_path / "out").mkdir()
    extract(tmp_path / "archive", tmp_path / "out")
    with pytest.raises(UserError, match="out: is there already; remove it"):
        extract(tmp_path / "archive", tmp_path / "out")
    with pytest.raises(UserError, match="archive: is there already"):
        extract(tmp_path / "archive", tmp_path / "archive")
    with pytest.raises(UserError, match=r"in: cannot be made \((Not a directory|File exists)\)"):
        extract(tmp_path / "archive", tmp_path / "archive" / "in")
    with pytest.raises(UserError, match=r"none: cannot be read \(No such file"):
        extract(tmp_path / "none", tmp_path / "new")
    with pytest.raises(UserError, match="is no regular file"):
        extract("/dev/zero", tmp_path / "new")


OUTSIDE = [
    "../evil",
    "a/../../evil",
    "/tmp/evil-of-a-test",
    "..\\evil",
    "C:\\evil",
    "c:evil",
    "\\evil",
    "a/..",
]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("pack", [tar_bytes, zip_bytes])
def test_names_that_lead_out_are_refused(tmp_path, pack, name):
    refused(tmp_path, pack(("good", b"1"), (name, b"2")), "leads out of the folder")
    assert not Path("/tmp/evil-of-a-test").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../out", "..", ".", "", "data", "none", "x", "data/../../y"]
)
def test_links_to_anything_but_a_file_before_them_are_refused(tmp_path, kind, target):
    refused(tmp_path, tar_bytes(("data/a", b"1"), special("x", kind, target)), "links to .*, no file of this")


def test_nothing_is_written_through_links(tmp_path):
    """Each step alone stays inside; together they would not, where links to folders were allowed."""
    link = partial_link = special("d/link", tarfile.SYMTYPE, "..")
    refused(tmp_path, tar_bytes(special("d", tarfile.DIRTYPE), link, ("d/link/evil", b"1")), "links to")
    up = special("up", tarfile.SYMTYPE, "d/link/..")
    refused(
        tmp_path, tar_bytes(special("d", tarfile.DIRTYPE), partial_link, up, ("up/evil", b"1")), "links to"
    )
    over = tar_bytes(("a", b"1"), special("b", tarfile.SYMTYPE, "a"), ("b/evil", b"1"))
    refused(tmp_path, over, r"cannot be unpacked into .*(Not a directory|File exists)")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_between_files_of_the_archive_are_kept(tmp_path, kind):
    target = "a" if kind == tarfile.SYMTYPE else "data/a"
    (tmp_path / "archive").write_bytes(tar_bytes(("data/a", b"1"), special("data/b", kind, target)))
    folder = extract(tmp_path / "archive", tmp_path / "out")
    assert contents(folder) == {"data/a": b"1", "data/b": b"1"}


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_are_refused(tmp_path, kind):
    refused(tmp_path, tar_bytes(special("data/null", kind)), "'data/null' is a device")


def test_a_zip_with_a_link_or_a_password_is_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    refused(tmp_path, zip_bytes((link, "/etc/passwd")), "'link' is a link")
    locked = bytearray(zip_bytes(("a", b"1")))
    locked[6] |= 1
    locked[locked.index(b"PK\1\2") + 8] |= 1
    refused(tmp_path, bytes(locked), "'a' is encrypted")


def test_no_bit_of_a_mode_is_taken_over_that_gives_rights(tmp_path):
    info = tarfile.TarInfo("tool")
    info.mode, info.uid, info.size = 0o6777, 0, 0
    (tmp_path / "archive").write_bytes(tar_bytes(info))
    mode = (extract(tmp_path / "archive", tmp_path / "out") / "tool").stat().st_mode
    assert stat.S_IMODE(mode) & 0o6022 == 0


def test_too_many_or_too_large_members_are_refused(tmp_path):
    many = [(f"f{number}", b"") for number in range(20)]
    for pack in (tar_bytes, zip_bytes):
        refused(tmp_path, pack(*many), "more than 19 members", max_members=19)
        refused(tmp_path, pack(("zeros", bytes(10**6))), "more than 999999 bytes", max_bytes=999_999)
    (tmp_path / "home" / "archive").unlink()
    (tmp_path / "archive").write_bytes(tar_bytes(*many, ("zeros", bytes(1000))))
    assert len(contents(extract(tmp_path / "archive", tmp_path / "o", max_members=21, max_bytes=1000))) == 21


def test_a_zip_that_lies_about_its_sizes(tmp_path):
    """42.zip and its like: more comes out than the list of contents says; no more than that is written."""
    data = bytearray(zip_bytes(("zeros", bytes(10**7))))
    at = data.index(b"PK\1\2") + 24
    data[at : at + 4] = struct.pack("<I", 10)
    refused(tmp_path, bytes(data), "broken archive", max_bytes=100)


def pax_bomb(size):
    """A header of a long name that claims `size` bytes of name: tarfile alone reads it in one piece."""
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, size
    return info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 2048


@pytest.mark.parametrize("size", [10**9, 8 * 10**11])
def test_a_header_without_end_is_refused_unread(tmp_path, size):
    refused(tmp_path, pax_bomb(size), "broken archive")
    refused(tmp_path, gzip.compress(pax_bomb(size)), "broken archive")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz", "zip"])
def test_an_archive_cut_anywhere_is_refused(tmp_path, mode):
    data = zip_bytes(*FILES.items()) if mode == "zip" else tar_bytes(*FILES.items(), mode=mode)
    end = 512 * (3 + 1 + 1 + 20) if mode == "w" else len(data)  # headers and data; then blocks of zeros
    for length in {*range(0, end, max(end // 60, 1)), 512, 1024, end - 1}:
        if mode == "w" or length < len(data):
            refused(tmp_path, data[:length], "broken archive")


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path):
    data = bytearray(tar_bytes(("a", b"1"), ("b", b"2")))
    data[1024] ^= 1
    refused(tmp_path, bytes(data), "broken archive .*end is missing")


def test_what_is_no_archive(tmp_path):
    for data in (
        b"",
        b"hello",
        b"PK",
        b"PK\3\4" + b"x" * 100,
        b"\x1f\x8b",
        b"BZh9",
        b"\xfd7zXZ\0",
        os.urandom(2000),
    ):
        refused(tmp_path, data, "broken archive")


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    refused(tmp_path, zip_bytes(("a", b"1")), r"cannot be unpacked into .*out \(No space left on device\)")
