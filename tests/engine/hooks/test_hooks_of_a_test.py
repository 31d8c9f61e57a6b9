"""Hooks of a test: the order of classes, names of drawn images; and norms before a training."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.model import BaseModel, BaseTTAModel
from mmengine.runner.base_loop import BaseLoop
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from mmpretrain.structures import DataSample
from torch import nn

from mmhcgnet import ClassOrderHook, HCGNet, ImageNameHook, UntrainedNormHook
from mmhcgnet.engine.export.in_runner import ExportedModel
from mmhcgnet.engine.hooks.untrained_norm_hook import untrained_norms
from mmhcgnet.errors import UsageError

TRAINED = ("cat", "dog", "eel")


class Detector(BaseModel):
    """Predicts one object of each class that it was trained on."""

    labels = torch.arange(3)

    def forward(self, inputs, data_samples=None, mode="tensor"):
        if mode == "loss":
            return dict(loss=torch.zeros(()))
        sample = DetDataSample()
        sample.pred_instances = InstanceData(labels=self.labels, scores=torch.ones(3))
        return [sample]


class Classifier(BaseModel):
    """Predicts the last class that it was trained on."""

    def forward(self, inputs, data_samples=None, mode="tensor"):
        return [DataSample().set_pred_score(torch.tensor([0.1, 0.2, 0.7])).set_pred_label(2)]


class Augmenting(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        return [samples[0] for samples in data_samples_list]


class Loop(BaseLoop):
    def __init__(self, dataset):
        self._dataloader = SimpleNamespace(dataset=dataset)

    dataloader = property(lambda self: self._dataloader)

    def run(self):
        pass


def load(model, tested, meta):
    loop = Loop(SimpleNamespace(metainfo=dict(classes=tested)))
    runner = SimpleNamespace(model=model, _test_loop=loop, test_loop=loop)
    ClassOrderHook().after_load_checkpoint(runner, dict(meta=meta))
    return model


@pytest.mark.parametrize(
    "meta",
    [
        dict(dataset_meta=dict(classes=TRAINED)),
        dict(dataset_meta=dict(classes=list(TRAINED))),
        dict(CLASSES=TRAINED),
    ],
)
@pytest.mark.parametrize("tested", [("dog", "cat", "eel"), ("eel", "cat", "dog"), TRAINED])
@pytest.mark.parametrize("wrap", [lambda model: model, Augmenting])
def test_predictions_are_mapped_to_the_order_of_the_tested_set(meta, tested, wrap):
    for kind in (Detector, Classifier):
        model = kind()
        load(wrap(model) if wrap is not Augmenting else Augmenting(module=model), tested, meta)
        (sample,) = model(None, mode="predict")
        if kind is Detector:
            assert [tested[label] for label in sample.pred_instances.labels] == list(TRAINED)
        else:
            assert tested[int(sample.pred_label)] == "eel"
            assert tested[int(sample.pred_score.argmax())] == "eel"
            assert float(sample.pred_score[tested.index("dog")]) == pytest.approx(0.2)


@pytest.mark.parametrize(
    "tested, words",
    [
        (("dog", "cat", "eel"), "in another order"),
        (("cat", "dog", "rat"), "other classes"),
        (("cat", "dog"), "other classes"),
        (TRAINED, None),
    ],
)
def test_other_classes_are_told_and_not_refused(tested, words, monkeypatch):
    told = []
    monkeypatch.setattr(
        "mmhcgnet.engine.hooks.class_order_hook.print_log", lambda text, *_: told.append(text)
    )
    model = load(Detector(), tested, dict(dataset_meta=dict(classes=TRAINED)))
    assert [words in text for text in told] == ([True] if words else [])
    if words != "in another order":
        (sample,) = model(None, mode="predict")
        assert sample.pred_instances.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("trained, tested", [((0, 1, 2), [2, 0, 1]), (["2", "0", "1"], range(3))])
def test_classes_that_are_numbers_are_compared_as_such(trained, tested, monkeypatch):
    told = []
    monkeypatch.setattr(
        "mmhcgnet.engine.hooks.class_order_hook.print_log", lambda text, *_: told.append(text)
    )
    model = load(Detector(), tested, dict(dataset_meta=dict(classes=trained)))
    (sample,) = model(None, mode="predict")
    found = [str(list(tested)[label]) for label in sample.pred_instances.labels]
    assert found == list(map(str, trained)) and len(told) == 1
    load(Detector(), list(map(int, trained)), dict(dataset_meta=dict(classes=trained)))
    assert predict_exported("detection", trained, tested).pred_instances.labels.tolist() == [
        list(map(str, tested)).index(str(name)) for name in trained
    ]
    assert len(told) == 2


class Segmenting(BaseModel):
    """Predicts each class in a pixel, the number of no class and 255; as MMSegmentation does."""

    channels = 3

    def forward(self, inputs, data_samples=None, mode="tensor"):
        sample = BaseDataElement()
        sample.pred_sem_seg = PixelData(data=torch.tensor([[[0, 1, 2, 3, 255]]], dtype=torch.uint8))
        sample.seg_logits = PixelData(data=torch.arange(self.channels)[:, None, None].float())
        return [sample]


class BinarySegmenting(Segmenting):
    """Has one map of logits for all classes."""

    channels = 1


class PanopticSegmenting(BaseModel):
    """Predicts two segments of a class, one of each other, and pixels of no class."""

    def forward(self, inputs, data_samples=None, mode="tensor"):
        sample = DetDataSample()
        segments = torch.tensor([[[0, 1001, 2001, 2, 3, 255]]], dtype=torch.int32)
        sample.pred_panoptic_seg = PixelData(sem_seg=segments)
        sample.pred_sem_seg = PixelData(sem_seg=segments % 1000)
        return [sample]


def test_classes_of_pixels_are_mapped():
    tested, meta = ("dog", "eel", "cat"), dict(dataset_meta=dict(classes=TRAINED))
    (sample,) = load(Segmenting(), tested, meta)(None)
    assert sample.pred_sem_seg.data.tolist() == [[[2, 0, 1, 3, 255]]]
    assert sample.seg_logits.data.flatten().tolist() == [1, 2, 0]
    (sample,) = load(BinarySegmenting(), tested, meta)(None)
    assert sample.seg_logits.data.flatten().tolist() == [0]


def test_classes_in_eight_bits_are_mapped_among_more_than_there_are_bits_for():
    names = [f"class {i}" for i in range(300)]
    tested = [*names[2::-1], *names[3:]]
    (sample,) = load(Segmenting(), tested, dict(dataset_meta=dict(classes=names)))(None)
    assert sample.pred_sem_seg.data.tolist() == [[[2, 1, 0, 3, 255]]]


def test_segments_are_mapped_and_stay_apart():
    meta = dict(dataset_meta=dict(classes=TRAINED))
    (sample,) = load(PanopticSegmenting(), ("dog", "eel", "cat"), meta)(None)
    segments = sample.pred_panoptic_seg.sem_seg
    assert segments.tolist() == [[[2, 1000, 2000, 1, 3, 255]]] and segments.dtype == torch.int32
    assert sample.pred_sem_seg.sem_seg.tolist() == [[[2, 0, 0, 1, 3, 255]]]


def test_of_more_classes_than_panoptic_segments_have_each_is_mapped():
    names = [f"class {i}" for i in range(1203)]
    model = load(Detector(), names[::-1], dict(dataset_meta=dict(classes=names)))
    model.labels = torch.tensor([0, 1001, 1202])
    (sample,) = model(None, mode="predict")
    assert sample.pred_instances.labels.tolist() == [1202, 201, 0]


class Exported(ExportedModel):
    """A file that finds one object of each class, or the last class."""

    def __init__(self, task, classes):
        BaseModel.__init__(self)
        self._is_bgr, self.engine = True, self.compute
        self.facts = dict(task=task, classes=classes, pad_divisor=1)

    def compute(self, inputs):
        if "sizes" not in inputs:
            return dict(scores=np.float32([[0.1, 0.2, 0.7]]))
        boxes = np.zeros((1, 3, 4), np.float32)
        return dict(boxes=boxes, scores=np.ones((1, 3)), labels=np.arange(3)[None])


def predict_exported(task, classes, tested):
    model = Exported(task, classes)
    loop = Loop(SimpleNamespace(metainfo=dict(classes=tested)))
    runner = SimpleNamespace(model=model, _test_loop=loop, test_loop=loop)
    ClassOrderHook().before_test(runner)
    sample = DetDataSample(metainfo=dict(scale_factor=(1, 1))) if task == "detection" else None
    inputs = [torch.zeros(3, 4, 4, dtype=torch.uint8)]
    (sample,) = model.test_step(dict(inputs=inputs, data_samples=[sample or DataSample()]))
    return sample


@pytest.mark.parametrize("tested", [("dog", "cat", "eel"), ("eel", "cat", "dog"), TRAINED])
def test_an_exported_file_is_mapped_to_the_order_of_the_tested_set(tested):
    sample = predict_exported("detection", TRAINED, tested)
    assert [tested[label] for label in sample.pred_instances.labels] == list(TRAINED)
    sample = predict_exported("classification", TRAINED, tested)
    assert tested[int(sample.pred_label)] == tested[int(sample.pred_score.argmax())] == "eel"


def test_an_exported_file_with_other_classes(monkeypatch):
    told = []
    monkeypatch.setattr(
        "mmhcgnet.engine.hooks.class_order_hook.print_log", lambda text, *_: told.append(text)
    )
    for classes, tested in ((None, ("b", "a", "c")), (TRAINED, ("cat", "dog", "rat"))):
        sample = predict_exported("detection", classes, tested)
        assert sample.pred_instances.labels.tolist() == [0, 1, 2]
    assert len(told) == 1 and "exported model was trained on other classes" in told[0]
    with pytest.raises(UsageError, match=r"finds 3 classes \(cat, dog, eel\), .* has 2 \(a, b\)"):
        predict_exported("detection", TRAINED, ("a", "b"))


@pytest.mark.parametrize("meta", [None, {}, dict(dataset_meta=None), dict(dataset_meta={})])
def test_checkpoints_that_name_no_classes_pass(meta):
    (sample,) = load(Detector(), ("b", "a", "c"), meta)(None, mode="predict")
    assert sample.pred_instances.labels.tolist() == [0, 1, 2]


class Visualizer:
    def __init__(self):
        self.drawn = []

    def add_datasample(self, name, image, data_sample=None, out_file=None):
        self.drawn.append(out_file)

    visualize_cls = add_datasample


@pytest.mark.parametrize(
    "paths, expected",
    [
        (["d/a/1.png", "d/b/1.png", "d/b/2.png"], ["a/1.png", "b/1.png", "b/2.png"]),
        (["d/1.png", "d/b/1.png"], ["1.png", "b/1.png"]),
        (["d/a/x/1.png", "d/b/x/1.png"], ["a/x/1.png", "b/x/1.png"]),
        (["d/a/1.png", "d/b/2.png"], ["1.png", "2.png"]),
    ],
)
@pytest.mark.parametrize("method", ["add_datasample", "visualize_cls"])
def test_drawn_images_of_equal_names_are_kept_apart(paths, expected, method):
    class Dataset:
        def __len__(self):
            return len(paths)

        def get_data_info(self, index):
            return dict(img_path=paths[index])

    runner = SimpleNamespace(test_loop=Loop(Dataset()), visualizer=Visualizer())
    ImageNameHook().before_test(runner)
    for path in paths:
        sample = SimpleNamespace(img_path=path)
        name = path.rpartition("/")[2]
        draw = getattr(runner.visualizer, method)
        draw(name=name, image=np.zeros(3), data_sample=sample, out_file=f"out/{name}")
    assert runner.visualizer.drawn == [f"out/{name}" for name in expected]


def test_images_that_are_no_files_are_drawn_as_ever():
    for dataset in ([1, 2], object()):
        runner = SimpleNamespace(test_loop=Loop(dataset), visualizer=Visualizer())
        ImageNameHook().before_test(runner)
        assert "add_datasample" not in vars(runner.visualizer)


ARCH = dict(depths=(1, 1), growth_rates=(8, 8))


def statistics(model):
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.fill_(0.5)
    return model


@pytest.mark.parametrize(
    "model, count",
    [
        (lambda: HCGNet(ARCH, norm_eval=True), True),
        (lambda: HCGNet(ARCH, frozen_stages=0), True),
        (lambda: HCGNet(ARCH), False),
        (lambda: statistics(HCGNet(ARCH, norm_eval=True)), False),
        (lambda: nn.Sequential(nn.GroupNorm(1, 3)), False),
    ],
)
def test_norms_in_eval_mode_with_initial_statistics_are_told(model, count, monkeypatch):
    told = []
    monkeypatch.setattr(
        "mmhcgnet.engine.hooks.untrained_norm_hook.print_log", lambda text, *_: told.append(text)
    )
    model = model()
    UntrainedNormHook().before_train(SimpleNamespace(model=model.eval()))
    assert not model.training
    assert bool(told) is count and bool(untrained_norms(model.train())) is count
    assert all("norm_eval=False" in text and "load_from" in text for text in told)
