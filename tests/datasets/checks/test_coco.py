import gc
import json
import time

import pytest
from helpers.inspected import kinds

from mmhcgnet.datasets.checks.coco import TrainedClasses, as_instances, inspect_coco, read_coco


def content(**changes):
    """Two images with two objects each, of two categories."""
    objects = [
        dict(
            id=10 + i,
            image_id=1 + i // 2,
            category_id=5 + i % 2,
            bbox=[2.5, 3, 9, 8],
            area=72,
            iscrowd=0,
            segmentation=[[2, 3, 11, 3, 11.5, 11]],
        )
        for i in range(4)
    ]
    return (
        dict(
            images=[dict(id=i, file_name=f"{i}.png", height=20, width=30) for i in (1, 2)],
            annotations=objects,
            categories=[dict(id=5, name="cat"), dict(id=6, name="dog")],
        )
        | changes
    )


def inspect(content, classes=("cat", "dog"), **kwargs):
    return inspect_coco(content, "a.json", classes, masks=True, evaluated=True, **kwargs)


def test_good_annotations_pass(tmp_path):
    for polygons in (False, True):
        for indent in (None, 1):
            (tmp_path / "a.json").write_text(json.dumps(content(), indent=indent))
            found, findings = read_coco(str(tmp_path / "a.json"), polygons)
            assert findings == [] and inspect(found) == []
    assert gc.isenabled()


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_polygons_are_left_out_of_what_is_read_and_nothing_else(tmp_path, separators):
    told = content(info=dict(note='"segmentation": [[1, "x"]]'), more=[[1], [2]])
    told["annotations"][1]["segmentation"] = dict(size=[20, 30], counts=[600])
    told["annotations"][2]["segmentation"] = [[1.25, 2.25] * 9, [7.25, 8.25] * 9]
    told["annotations"][3]["segmentation"] = [[1.25, 2.25] * 99]
    # Short ones and what could be wrong stay.
    told["annotations"].append(told["annotations"][0] | dict(segmentation=[[1.25, None] * 99]))
    (tmp_path / "a.json").write_text(json.dumps(told, separators=separators))
    found, _ = read_coco(str(tmp_path / "a.json"))
    whole, _ = read_coco(str(tmp_path / "a.json"), polygons=True)
    assert whole == told
    for i in (2, 3):
        assert found["annotations"][i].pop("segmentation") == [[0]]
        del told["annotations"][i]["segmentation"]
    assert found == told


@pytest.mark.parametrize(
    "text, part",
    [
        (b"", "is empty"),
        (b"cat 1 2", "is not JSON"),
        (b'{"images": [', "is not JSON"),
        (b"\xff\x00\xfe", "is not JSON"),
        (b"[" * 100000, "is not JSON"),
        (b"[1]", "is a JSON list"),
        (b"{}", "has no 'images'"),
        (b'{"images": [{"id": 1}]}', "has no 'categories'"),
        (b'{"images": {}, "categories": []}', "'images' that is not a list"),
        (b'{"images": [], "categories": []}', "names no image"),
    ],
)
def test_what_is_no_coco_file_is_told(tmp_path, text, part):
    (tmp_path / "a.json").write_bytes(text)
    found, (finding,) = read_coco(str(tmp_path / "a.json"))
    assert found == {} and part in finding.sentence and not finding.harmless


def put(part, **values):
    told = content()
    told[part][1].update(values)
    return told


def lacking(part, key):
    told = content()
    del told[part][1][key]
    return told


@pytest.mark.parametrize(
    "told, kind",
    [
        (lacking("images", "width"), "image without width"),
        (lacking("annotations", "bbox"), "annotation without bbox"),
        (lacking("annotations", "iscrowd"), "annotation without iscrowd"),
        (lacking("categories", "name"), "category without name"),
        (put("images", id=1), "duplicate image id"),
        (put("annotations", id=10), "duplicate annotation id"),
        (put("annotations", id=[10]), "annotation id that is no number"),
        (put("categories", id=5), "duplicate category id"),
        (put("images", height=0), "image size that is no size"),
        (put("images", width="30"), "image size that is no size"),
        (put("images", file_name=""), "image without a name"),
        (put("annotations", bbox=[1, float("nan"), 2, 2]), "box that is no box"),
        (put("annotations", bbox=[1, 1, float("inf"), 2]), "box that is no box"),
        (put("annotations", bbox=[1, 1, 10**400, 2]), "box that is no box"),
        (put("annotations", bbox=[1, 1, 2]), "box that is no box"),
        (put("annotations", bbox=["1", "1", "2", "2"]), "box that is no box"),
        (put("annotations", area=None), "box that is no box"),
        (put("annotations", category_id=7), "unknown category"),
        (put("annotations", category_id=[5]), "category id of another type"),
        (lacking("annotations", "segmentation"), "missing mask"),
        (put("annotations", segmentation=[]), "missing mask"),
        (put("annotations", segmentation="abc"), "mask that is no mask"),
        (put("annotations", segmentation=dict(size=[5, 5], counts=[25])), "mask that is no mask"),
        (put("annotations", segmentation=dict(size=[20, 30], counts=[7])), "mask that is no mask"),
        (put("annotations", segmentation=[[1, 2, 3, 4, 5, float("nan")]]), "mask that is no mask"),
        (put("annotations", segmentation=[[1, 2, 3, 4, 5, None]]), "mask that is no mask"),
        (put("annotations", segmentation=[[1, 1, 2, 2]]), "mask of less than three points"),
        (content(annotations=[]), "no annotations"),
    ],
)
def test_faults_that_stop_a_run(told, kind):
    assert kinds(inspect(told), harmless=False) == {kind: 1}


@pytest.mark.parametrize(
    "told, kind",
    [
        (put("annotations", bbox=[5, 5, 0, 3]), "box without extent"),
        (put("annotations", bbox=[5, 5, 3, -3]), "box without extent"),
        (put("annotations", bbox=[5, 5, 0.5, 3]), "box smaller than a pixel"),
        (put("annotations", bbox=[90, 90, 3, 3]), "box outside its image"),
        (put("annotations", bbox=[20, 5, 15, 3]), "box beyond its image"),
        (put("annotations", image_id=77), "unknown image"),
    ],
)
def test_faults_that_a_run_copes_with(told, kind):
    assert kinds(inspect(told)) == {kind: 1}
    assert kinds(inspect(told), harmless=True) == {kind: 1}


def test_a_mask_of_two_points_does_no_harm_in_training():
    told = put("annotations", segmentation=[[1, 1, 2, 2]])
    (found,) = inspect_coco(told, "a.json", masks=True)
    assert (found.kind, found.harmless) == ("mask of less than three points", True)


def test_an_example_names_the_annotation():
    (found,) = inspect(put("annotations", bbox=[5, 5, 0, 3]))
    assert "a.json has an annotation (id 11, image 1) whose box [5, 5, 0, 3]" in found.sentence


def test_classes_are_looked_up_and_close_names_told():
    (found,) = inspect(content(), classes=("cat", "dogg"))[:1]
    assert "no category 'dogg' of the config's classes (did you mean 'dog'?)" in found.sentence
    assert kinds(inspect(content(), classes=("dog", "cat"))) == {"classes in another order": 1}
    assert kinds(inspect(content(), classes=("cat",)), harmless=True) == {"category left out": 1}
    told = content()
    told["categories"][1]["name"] = "cat"
    assert "duplicate category" in kinds(inspect(told, classes=None), harmless=False)


def test_classes_without_objects_are_told():
    told = content()
    for entry in told["annotations"]:
        entry["category_id"] = 5
    (found,) = inspect(told)
    assert (found.kind, found.harmless) == ("class without objects", True)
    assert "'dog'" in found.sentence


def test_annotations_of_which_none_can_be_used_stop_a_run():
    told = content()
    for entry in told["annotations"]:
        entry["bbox"] = [0.1, 0.1, 0.2, 0.2]  # as fractions
    assert kinds(inspect(told), harmless=False) == {"no usable annotation": 1}


def test_a_test_set_needs_no_labels():
    assert kinds(inspect(content(annotations=[]), labelled=False)) == {"no annotations": 1}
    assert kinds(inspect(content(annotations=[]), labelled=False), harmless=False) == {}


def test_an_extreme_size_in_annotations_does_not_stop_a_run():
    told = content()
    told["images"][0].update(width=20_000, height=10_000)
    assert kinds(inspect(told), harmless=True)["image of extreme size"] == 1


def test_polygons_far_outside_are_found():
    for far, found in ((-29, 0), (59, 0), (-31, 1), (61, 1), (99_999, 1)):
        told = content()
        told["annotations"][0]["segmentation"] = [[1, 1, far, 1, 9, 9]]
        findings = inspect(told)
        assert kinds(findings).get("polygon far outside", 0) == found, far


def test_many_categories_are_compared_at_once():
    names = [f"class {i}" for i in range(30_000)]
    told = content(categories=[dict(id=i, name=name) for i, name in enumerate(names)])
    start = time.process_time()
    inspect(told, classes=names[::-1])
    inspect(told, classes=[f"other {i}" for i in range(3)])
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbf" + b'{"images": []}',
        '{"images": []}'.encode("utf-16"),
        '{"images": []}'.encode("utf-16-be"),
        '{"images": []}'.encode("utf-32"),
        b"\xfe\xff" + '{"images": []}'.encode("utf-16-be"),
    ],
)
def test_json_is_read_in_plain_utf8_alone_as_pycocotools_does(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text)
    found, (finding,) = read_coco(str(tmp_path / "a.json"))
    assert found == {} and not finding.harmless
    assert "is not JSON in plain UTF-8" in finding.sentence and "save it" in finding.sentence


@pytest.mark.parametrize("value", ["0", "1", "false", "", [0]])
@pytest.mark.parametrize("key", ["iscrowd", "ignore"])
def test_flags_that_are_no_numbers_are_refused(key, value):
    assert kinds(inspect(put("annotations", **{key: value})), harmless=False) == {
        "flag that is no number": 1
    }


@pytest.mark.parametrize("value", [0, False, 0.0])
def test_flags_of_any_type_of_number_pass(value):
    assert inspect(put("annotations", iscrowd=value, ignore=value)) == []


def test_a_flag_that_is_null_stops_an_evaluation_alone():
    told = put("annotations", iscrowd=None)
    assert kinds(inspect(told), harmless=False) == {"flag that is no number": 1}
    assert inspect_coco(told, "a.json", masks=True) == []


def nested(levels):
    value = {}
    for _ in range(levels):
        value = {"a": [value]}
    return value


def test_what_is_nested_too_deep_to_be_copied_is_found_before_the_evaluation():
    assert inspect(content(info=nested(40))) == []
    assert kinds(inspect(content(info=nested(450)))) == {"nesting": 1}
    deep = content()
    deep["categories"][0]["extra"] = nested(450)
    assert kinds(inspect(deep)) == {"nesting": 1}
    assert inspect_coco(deep, "a.json", masks=True) == []  # training copies nothing


@pytest.mark.parametrize("key, kind", [("iscrowd", "crowd"), ("ignore", "ignored object")])
@pytest.mark.parametrize("value", [1, True, 2.0])
def test_objects_that_are_not_trained_on_are_counted_and_may_not_be_all(key, kind, value):
    found = inspect_coco(put("annotations", **{key: value}), "a.json")
    assert kinds(found) == {kind: 1} and found[0].harmless
    told = content()
    for entry in told["annotations"]:
        entry[key] = value
    found = inspect_coco(told, "a.json")
    assert kinds(found, harmless=False) == {"no usable annotation": 1}
    assert f"({key}), on which nothing is trained" in found[-1].sentence + found[1].sentence
    # An evaluation counts what is to be ignored, but no crowds.
    refused = kinds(inspect(told, trained=False), harmless=False)
    assert bool(refused) is (key == "iscrowd")


@pytest.mark.parametrize("id_", [None, True, [1], {}])
@pytest.mark.parametrize("part", ["images", "categories", "annotations"])
def test_ids_are_numbers_or_strings(part, id_):
    assert any("id that is no number" in kind for kind in kinds(inspect(put(part, id=id_)), False))


@pytest.mark.parametrize(
    "part, key, name", [("images", "image_id", "image"), ("categories", "category_id", "category")]
)
def test_ids_of_another_type_are_told_as_such(part, key, name):
    told = content()
    for entry in told["annotations"]:
        entry[key] = str(entry[key])
    found = inspect(told)
    assert kinds(found, harmless=False) == {f"{name} id of another type": 4}
    assert f"{key} is '" in found[0].sentence and "not of this type" in found[0].sentence
    told = content()
    for entry in told[part]:
        entry["id"] = str(entry["id"])
    assert kinds(inspect(told), harmless=False) == {f"{name} id of another type": 4}
    # Strings throughout are fine.
    for entry in told["annotations"]:
        entry[key] = str(entry[key])
    assert inspect(told) == []


def test_annotation_ids_below_1_are_told_where_they_are_evaluated():
    for id_ in (0, -3, "a"):
        told = put("annotations", id=id_)
        assert kinds(inspect(told), harmless=True) == {"annotation id below 1": 1}
        assert inspect_coco(told, "a.json", masks=True) == []


def test_image_ids_of_two_types_stop_an_evaluation():
    told = put("images", id="two")
    for entry in told["annotations"]:
        entry["image_id"] = "two" if entry["image_id"] == 2 else 1
    assert kinds(inspect(told), harmless=False) == {"image ids of two types": 1}
    assert inspect_coco(told, "a.json", masks=True) == []


@pytest.mark.parametrize(
    "names, classes",
    [
        (("cat", "dog", "eel"), ("eel", "cat")),
        (("cat", "dog", "eel"), ("dog", "cat", "eel")),
        (("eel", "dog", "cat"), ("cat", "dog")),
    ],
)
def test_a_subset_of_the_categories_has_their_order_too(names, classes):
    told = content(categories=[dict(id=5 + i, name=name) for i, name in enumerate(names)])
    found = inspect(told, classes)
    assert list(kinds(found, harmless=False)) == ["classes in another order"]
    order = tuple(name for name in names if name in classes)
    assert f"set metainfo.classes to {order} in all data sets" in found[0].sentence
    assert kinds(inspect(told, order), harmless=False) == {}


@pytest.mark.parametrize("trained", [("dog", "cat"), ("eel", "cat", "dog"), ("cat", "eel", "dog")])
def test_the_order_of_the_training_counts_and_not_that_of_the_config(trained):
    found = inspect(content(), order=TrainedClasses(trained, "train.json"))
    assert "classes in another order than in training" in kinds(found, harmless=False)
    assert f"reorder the categories in this file as {trained}" in found[0].sentence
    assert "in train.json" in found[0].sentence
    for good in (("cat", "dog"), ("cat", "dog", "eel"), ("rat", "hen")):
        assert inspect(content(), order=TrainedClasses(good, "train.json")) == []


@pytest.mark.parametrize("classes", [(5, 6), ("cat", None), ("cat", 1.5)])
def test_class_names_that_are_no_strings_are_told(classes):
    found = inspect(content(), classes)
    assert "unknown class" in kinds(found, harmless=False)
    assert "is not even a string" in found[0].sentence
    # As quoted digits, of which numbers were made.
    told = content(categories=[dict(id=5, name="0"), dict(id=6, name="1")])
    assert "did you mean '0'?" in inspect(told, (0, 1))[0].sentence


def test_a_file_under_two_image_ids_is_told():
    told = put("images", file_name="1.png")
    (found,) = inspect(told)
    assert found.harmless and "the file 1.png under the image ids 1, 2" in found.sentence


@pytest.mark.parametrize("areas", [(0, 0, 0, 0), (-1, 0, 0, -1), (0.0, 0.0, 0.0, 0.0)])
def test_areas_of_0_do_no_harm_to_an_evaluation_and_leave_nothing_to_train_on(areas):
    told = content()
    for entry, area in zip(told["annotations"], areas, strict=True):
        entry["area"] = area
    assert inspect(told, trained=False) == []
    assert kinds(inspect(told), harmless=False) == {"no usable annotation": 1}


def test_segments_of_panoptic_files_are_inspected_as_objects():
    segments = [
        dict(id=9, category_id=5 + i, bbox=[2, 2, 8, 8], area=60, iscrowd=0) for i in (0, 1)
    ]
    panoptic = content(
        annotations=[dict(image_id=i, file_name=f"{i}.png", segments_info=segments) for i in (1, 2)]
    )
    assert inspect_coco(as_instances(panoptic), "a.json", unique=False) == []
    segments[0] = dict(segments[0], category_id=77)
    found = inspect_coco(as_instances(panoptic), "a.json", unique=False)
    assert kinds(found, harmless=False) == {"unknown category": 2}
