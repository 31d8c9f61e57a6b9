import os

import pytest
from helpers.inspected import kinds, noise

from mmhcgnet.datasets.checks.folders import inspect_folders, read_list, walk_images


def folders(root, **images):
    for name, count in images.items():
        (root / name).mkdir()
        for i in range(count):
            noise(root / name / f"{i}.PNG")
    return str(root)


def test_class_folders(tmp_path):
    root = folders(tmp_path, cat=1, dog=2)
    assert inspect_folders(root, (".png",)) == (["cat", "dog"], [])
    assert inspect_folders(root, (".png",), ("cat", "dog"))[1] == []
    # As ImageNet's classes and folders.
    assert inspect_folders(root, (".png",), ("tench", "goldfish"))[1] == []
    for classes, kind in (
        (("cat", "dog", "eel"), "another number of classes"),
        (("cat", "dgo"), "classes unlike folders"),
        (("dog", "cat"), "classes unlike folders"),
    ):
        found = inspect_folders(root, (".png",), classes)[1]
        assert list(kinds(found, harmless=False)) == [kind]
    assert kinds(inspect_folders(root, (".jpg",))[1], harmless=False) == {"no images": 1}


def test_class_folders_that_are_empty_or_hidden_or_absent(tmp_path):
    root = folders(tmp_path, cat=1, dog=0)
    assert kinds(inspect_folders(root, (".png",))[1], harmless=True) == {"class without images": 1}
    (tmp_path / ".cache").mkdir()
    assert kinds(inspect_folders(root, (".png",))[1], harmless=False) == {"hidden folder": 1}
    found = inspect_folders(str(tmp_path / "cat"), (".png",))[1]
    assert kinds(found, harmless=False) == {"no class folders": 1}


def test_images_are_listed_as_mmpretrain_does(tmp_path):
    root = folders(tmp_path, cat=2)
    (tmp_path / "cat" / "deep").mkdir()
    noise(tmp_path / "cat" / "deep" / "a.png")
    noise(tmp_path / "cat" / ".hidden.png")
    os.symlink("gone.png", tmp_path / "cat" / "link.png")
    (tmp_path / "cat" / "notes.txt").write_text("")
    names = [os.path.relpath(path, root) for path in sorted(walk_images(root, (".png",)))]
    assert names == ["cat/0.PNG", "cat/1.PNG", "cat/deep/a.png"]


@pytest.mark.parametrize(
    "text, harmless, expected",
    [
        ("a b.png 0\nc.png 1\n", None, {}),
        ("", False, {"empty annotation file": 1}),
        ("\n\n", False, {"empty annotation file": 1}),
        ("a.png 0\nc.png\n", False, {"line without a label": 1}),
        ("a.png 0\n\nc.png x\n", False, {"line without a label": 2}),
        ("a.png 0\nc.png 1\nd.png 2\ne.png -1", False, {"unknown label": 2}),
        ("a.png 0\nc.png 0\n", True, {"class without images": 1}),
        ("a.png 0\na.png 1\n", True, {"image listed twice": 1}),
    ],
)
def test_lists_of_images(tmp_path, text, harmless, expected):
    (tmp_path / "list.txt").write_text(text)
    names, found = read_list(str(tmp_path / "list.txt"), num_classes=2)
    assert kinds(found, harmless) == kinds(found) == expected
    if not expected:
        assert names == ["a b.png", "c.png"]


def test_a_list_that_is_no_text(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in read_list(str(tmp_path / "list.txt"))[1][0].sentence


@pytest.mark.parametrize("labelled", [True, False])
def test_a_list_with_a_byte_order_mark_is_told(tmp_path, labelled):
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.png 0\nb.png 1\n")
    names, (finding,) = read_list(str(tmp_path / "list.txt"), labelled)
    assert names == [] and "byte order mark" in finding.sentence and not finding.harmless
