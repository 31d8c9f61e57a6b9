"""Results on images: everything at its place, and legible."""

import numpy as np
import pytest

from mmhcgnet_runtime import drawing
from mmhcgnet_runtime.drawing import colour_of, draw

GREY = np.full((100, 160, 3), 100, np.uint8)


def places_of_labels(monkeypatch, result, image=GREY):
    """Where the labels of a result are drawn."""
    places, place = [], drawing._place

    def noted(*args):
        places.append(place(*args))
        return places[-1]

    monkeypatch.setattr(drawing, "_place", noted)
    draw(image, result, ["circle", "square"], 0.5)
    return places


def objects(boxes, **more):
    count = len(boxes)
    scores = np.linspace(0.9, 0.6, count)
    return dict(boxes=np.array(boxes, float), scores=scores, labels=np.arange(count), **more)


def test_a_mask_and_its_box_are_drawn_at_their_place():
    mask = np.zeros((1, 100, 160), bool)
    mask[0, 42:50, 32:40] = True
    image = GREY.copy()
    drawn = draw(image, objects([(30, 40, 42, 52)], masks=mask), ["circle"], 0.5)
    scale = 2  # 160 to some 400 pixels
    assert drawn.shape == (scale * 100, scale * 160, 3) and (image == 100).all()
    colour = np.array(colour_of(0))
    inside = drawn[scale * 43 : scale * 49, scale * 33 : scale * 39].reshape(-1, 3)
    assert (inside == (0.55 * 100 + 0.45 * colour).astype(np.uint8)).all()
    for y, x in ((52, 35), (45, 30), (45, 42)):  # below, left and right; the name stands above
        assert (drawn[scale * y, scale * x] == colour).all()
    assert (drawn[scale * 54 :] == 100).all()


def test_large_images_keep_their_size():
    assert draw(np.zeros((500, 700, 3), np.uint8), objects([(1, 1, 9, 9)])).shape == (500, 700, 3)


def test_what_is_below_the_threshold_is_left_out():
    result = dict(boxes=np.array([[30.0, 40, 60, 70]]), scores=np.array([0.4]), labels=[0])
    assert (draw(GREY, result, threshold=0.5) == 100).all()
    assert (draw(GREY, result, threshold=0.3) != 100).any()


def test_what_is_known_has_no_scores(monkeypatch):
    result = objects([(30, 40, 60, 70)])
    with_score = places_of_labels(monkeypatch, result)[0]
    del result["scores"]
    without = places_of_labels(monkeypatch, result)[0]
    assert without[2] - without[0] < with_score[2] - with_score[0]


@pytest.mark.parametrize(
    "boxes",
    [
        [(10, 30, 60, 70)] * 4,
        [(0, 0, 159, 99), (0, 0, 80, 50), (1, 1, 20, 20)],
        [(120, 2, 159, 40), (110, 0, 159, 30), (100, 90, 159, 99)],
    ],
    ids=["equal", "corner", "edges"],
)
def test_labels_neither_cover_each_other_nor_leave_the_image(boxes, monkeypatch):
    places = places_of_labels(monkeypatch, objects(boxes))
    assert len(places) == len(boxes)
    for i, one in enumerate(places):
        assert one[0] >= 0 and one[1] >= 0 and one[2] <= 320 and one[3] <= 200
        assert not any(drawing._meet(one, other) for other in places[:i])


def test_many_labels_end():
    result = objects([(10, 30, 60, 70)] * 300)
    assert draw(GREY, result).shape == (200, 320, 3)


def test_the_five_best_classes_are_written():
    scores = np.array([0.1, 0.5, 0.05, 0.2, 0.1, 0.05])
    drawn = draw(GREY, dict(scores=scores, label=1), ["a", "b"])
    assert (drawn[:10, :10] != 100).any() and (drawn[150:] == 100).all()


def test_maps_cannot_be_drawn():
    with pytest.raises(ValueError, match="detectors and classifiers"):
        draw(GREY, dict(map0=np.zeros((8, 4, 4))))


def test_neighbouring_labels_have_different_colours():
    colours = np.array([colour_of(label) for label in range(8)])
    apart = np.abs(colours[:, None] - colours[None]).sum(-1)
    assert apart[~np.eye(8, dtype=bool)].min() > 60
