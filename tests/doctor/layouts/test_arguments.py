"""A folder among the arguments of tools/check.py."""

from doctor.layouts.arguments import with_root_as_folder


def test_a_root_without_a_format_is_the_folder(tmp_path):
    """With the default format, the street scenes, the check refused the folder and advised to delete it."""
    root = f"data.root={tmp_path}"
    assert with_root_as_folder([root, "task=det"]) == [str(tmp_path), "task=det"]
    for others in (["data=voc"], [str(tmp_path)]):
        assert with_root_as_folder([*others, root]) == [*others, root]
    assert with_root_as_folder(["data.root=none"]) == ["data.root=none"]
    (tmp_path / "streets.json").write_text("{}")
    assert with_root_as_folder([root]) == [root]
