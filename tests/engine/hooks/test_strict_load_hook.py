"""A checkpoint is loaded completely or not at all, whatever it is loaded for."""

import copy
import os
import uuid

import pytest
import torch
from helpers.official import classifier_shapes, zero_weights
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel, BaseTTAModel
from mmengine.runner import Runner
from mmpretrain.engine import EMAHook as MMPretrainEMAHook
from torch import nn

from mmhcgnet.engine.hooks.strict_load_hook import StrictLoadHook
from mmhcgnet.engine.runner.loops import ResumableEpochLoop
from mmhcgnet.errors import UsageError
from mmhcgnet.models import HCGNet

HEADS = ["roi_head.fc_cls.weight", "roi_head.fc_cls.bias"]


class Net(BaseModel):
    """A backbone with a norm, a neck, and a head with a class layer and one that does not care."""

    def __init__(self, classes=3, width=4):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))
        self.roi_head = nn.ModuleDict(
            dict(fc=nn.Linear(width, 4), fc_cls=nn.Linear(4, classes), fc_reg=nn.Linear(4, 4))
        )
        # As attention has: an infinity by design.
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    def forward(self, inputs, mode="tensor"):
        maps = self.roi_head["fc"](self.backbone(inputs))
        outputs = self.roi_head["fc_cls"](maps)
        loss = outputs.square().mean() + self.roi_head["fc_reg"](maps).square().mean()
        return dict(loss=loss) if mode == "loss" else list(outputs)


class Renamed(Net):
    """Takes weights under an old name, as models of the toolboxes do."""

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for name in list(state_dict):
            if name.startswith("trunk."):
                state_dict[name.replace("trunk", "backbone")] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *args)


class TTA(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        return [samples[0] for samples in data_samples_list]


class Count(BaseMetric):
    """Counts what was evaluated."""

    def process(self, data_batch, data_samples):
        self.results.append(len(data_samples))

    def compute_metrics(self, results):
        return dict(images=sum(results))


def loader():
    return dict(
        batch_size=2,
        num_workers=0,
        collate_fn=dict(type="default_collate"),
        dataset=[dict(inputs=torch.randn(2)) for _ in range(4)],
        sampler=dict(type="DefaultSampler", shuffle=False),
    )


def make_runner(folder, model, load_from=None, hooks=(), replaced=(), resume=False, **kwargs):
    options = dict(
        train_dataloader=loader(),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        test_dataloader=loader(),
        test_cfg=dict(),
        test_evaluator=[Count()],
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.0, momentum=0.9)),
        param_scheduler=[dict(type="MultiStepLR", milestones=[1])],
    )
    return Runner(
        model=model,
        work_dir=str(folder / "run"),
        load_from=load_from and str(load_from),
        resume=resume,
        custom_hooks=[*hooks, dict(type=StrictLoadHook, replaced=replaced)],
        experiment_name=uuid.uuid4().hex,
        **(dict(log_level="WARNING") | options | kwargs),
    )


@pytest.fixture
def trained(tmp_path):
    """A checkpoint of a training by MMEngine, with averaged weights; its path."""
    runner = make_runner(tmp_path, Net(), hooks=[dict(type=EMAHook)], train_cfg=dict(max_epochs=1))
    runner._train_loop.update(by_epoch=True)
    runner.train()
    path = tmp_path / "run" / "epoch_1.pth"
    assert path.exists()
    return path


def change(path, edit):
    """A copy of the checkpoint, with an edit."""
    checkpoint = torch.load(path, weights_only=False)
    checkpoint = edit(checkpoint) or checkpoint
    changed = path.with_name("changed.pth")
    torch.save(checkpoint, changed)
    return changed


def without(*names):
    def edit(checkpoint):
        for weights, lead in (
            (checkpoint["state_dict"], ""),
            (checkpoint["ema_state_dict"], "module."),
        ):
            for name in names:
                del weights[lead + name]

    return edit


def setting(name, value, key="state_dict"):
    def edit(checkpoint):
        checkpoint[key][name] = value

    return edit


FAULTS = {
    "missing": (without("backbone.0.bias"), r"1 missing \(backbone\.0\.bias\); "),
    "unknown": (setting("neck.weight", torch.ones(2)), r"1 unknown \(neck\.weight\); "),
    "of another shape": (
        setting("backbone.0.weight", torch.ones(5, 2)),
        r"1 of another shape \(backbone\.0\.weight \(5, 2\) instead of \(4, 2\)\); ",
    ),
    "no tensor": (setting("mask", "text"), r"1 not loaded \(.*expected torch.Tensor"),
    "nothing fits": (
        lambda c: dict(c, state_dict={f"net.{k}": v for k, v in c["state_dict"].items()}),
        r"model of 14 tensors: 13 missing \(.*, … 5 more\), 14 unknown \(net\.",
    ),
    "no names": (lambda c: dict(c, state_dict=[1]), "holds no weights by name"),
    "nan": (
        setting("backbone.0.bias", torch.tensor([0, 0, torch.nan, 0])),
        r"is broken: 1 not finite \(backbone\.0\.bias\); ",
    ),
    "inf in the averaged": (
        setting("module.backbone.0.bias", torch.tensor([0, 0, torch.inf, 0]), "ema_state_dict"),
        r"is broken: 1 not finite \(module\.backbone\.0\.bias\); ",
    ),
    "the authors' file": (
        lambda c: dict(net=zero_weights(classifier_shapes("A1", 10))),
        r"convert it with `python tools/model_converters/official_to_mmpretrain\.py .*/changed\.p",
    ),
}


@pytest.mark.parametrize("purpose", ["test", "load_from", "resume"])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_refused(tmp_path, trained, fault, purpose):
    edit, sentence = FAULTS[fault]
    path = change(trained, edit)
    model = Net()
    runner = make_runner(tmp_path, model, path, resume=purpose == "resume")
    with pytest.raises(UsageError, match=sentence) as error:
        runner.test() if purpose == "test" else runner.train()
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert runner.iter == 0 and not runner._has_loaded
    # A test knows no parts that start from scratch.
    assert purpose == "load_from" or "replaced=" not in str(error.value)


FITTING = {
    "as saved": lambda c: None,
    "of a distributed run": lambda c: dict(
        c, state_dict={f"module.{k}": v for k, v in c["state_dict"].items()}
    ),
    "weights alone": lambda c: copy.copy(c["state_dict"]),
    "without counts": without("backbone.1.num_batches_tracked"),
}


@pytest.mark.parametrize("hooks", [[], [dict(type=EMAHook)]], ids=["", "ema"])
@pytest.mark.parametrize("wrap", [False, True], ids=["", "tta"])
@pytest.mark.parametrize("kind", FITTING)
def test_what_fits_is_loaded(tmp_path, trained, kind, wrap, hooks):
    path = change(trained, FITTING[kind])
    model = TTA(Net()) if wrap else Net()
    if wrap:
        model.test_step = lambda data: model.module.test_step(data)
    metrics = make_runner(tmp_path, model, path, hooks=hooks).test()
    assert metrics == dict(images=4)
    loaded = (model.module if wrap else model).state_dict()
    for name, tensor in torch.load(trained, weights_only=False)["state_dict"].items():
        assert "num_batches" in name or torch.equal(loaded[name], tensor), name


def test_a_model_may_take_old_names(tmp_path, trained):
    path = change(
        trained,
        lambda c: dict(
            state_dict={k.replace("backbone", "trunk"): v for k, v in c["state_dict"].items()}
        ),
    )
    assert make_runner(tmp_path, Renamed(), path).test() == dict(images=4)
    with pytest.raises(UsageError, match=r"7 unknown \(trunk\.0\.weight, "):
        make_runner(tmp_path, Net(), path).test()


def test_a_model_in_a_wrapper_is_loaded(tmp_path, trained):
    runner = make_runner(tmp_path, Net())
    runner.model = nn.DataParallel(runner.model)
    runner.load_checkpoint(str(trained))
    with pytest.raises(UsageError, match="1 missing"):
        runner.load_checkpoint(str(change(trained, without("backbone.0.bias"))))


def test_numbers_of_8_bits_are_tested(tmp_path, trained):
    bias = torch.tensor([0, 0, torch.nan, 0]).to(torch.float8_e4m3fn)
    path = change(trained, setting("backbone.0.bias", bias))
    with pytest.raises(UsageError, match="1 not finite"):
        make_runner(tmp_path, Net(), path).test()


def test_the_deployed_form_is_told(tmp_path):
    class Classifier(BaseModel):
        def __init__(self, deploy):
            super().__init__()
            self.backbone = HCGNet("A1", deploy=deploy)

        def forward(self, inputs, mode="tensor"):
            raise AssertionError("not to be reached")

    files = {}
    for deploy in (False, True):
        files[deploy] = tmp_path / f"{deploy}.pth"
        torch.save(dict(state_dict=Classifier(deploy).state_dict()), files[deploy])
    with pytest.raises(UsageError, match="holds a deployed HCGNet, but the config"):
        make_runner(tmp_path, Classifier(False), files[True]).test()
    with pytest.raises(UsageError, match="The config's HCGNet is deployed"):
        make_runner(tmp_path, Classifier(True), files[False]).test()


# Fine-tuning


def test_other_classes_are_refused_with_the_option_that_allows_them(tmp_path, trained):
    with pytest.raises(
        UsageError,
        match=r"2 of another shape \(roi_head\.fc_cls\.weight \(3, 4\) instead of \(5, 4\), .*\); "
        r".* start from scratch with default_hooks\.strict_load\.replaced=\[roi_head\.fc_cls\]\.$",
    ):
        make_runner(tmp_path, Net(classes=5), trained).train()


def test_a_head_that_is_not_there_is_refused_with_the_option(tmp_path, trained):
    path = change(trained, without("roi_head.fc.weight", "roi_head.fc.bias"))
    with pytest.raises(UsageError, match=r"replaced=\[roi_head\]\.$"):
        make_runner(tmp_path, Net(), path).train()


def test_the_backbone_alone_is_taken_by_another_option(tmp_path, trained):
    """Of ImageNet's classifiers one wants no more."""
    path = change(trained, setting("neck.weight", torch.ones(2)))
    with pytest.raises(UsageError, match=r"init_cfg=dict\(type='Pretrained', .*\)\.$") as error:
        make_runner(tmp_path, Net(), path).train()
    assert "replaced=" not in str(error.value)


def test_another_backbone_has_no_remedy(tmp_path, trained):
    with pytest.raises(UsageError, match=r"; name the checkpoint of this config's model\.$"):
        make_runner(tmp_path, Net(width=6), trained).train()


EMA_HOOKS = dict(none=[], mmengine=[dict(type=EMAHook)], mmpretrain=[dict(type=MMPretrainEMAHook)])


@pytest.mark.parametrize("ema", EMA_HOOKS)
@pytest.mark.parametrize("classes", [3, 5], ids=["same-classes", "other-classes"])
def test_replaced_parts_start_from_scratch_and_the_rest_is_loaded(tmp_path, trained, classes, ema):
    """The learning rate is zero: the weights after the training are those that it began with."""
    model = Net(classes)
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    runner = make_runner(tmp_path, model, trained, EMA_HOOKS[ema], replaced=["roi_head.fc_cls"])
    runner.train()
    saved = torch.load(trained, weights_only=False)["state_dict"]
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, initial[name] if name in HEADS else saved[name]), name


def test_what_starts_from_scratch_is_logged(tmp_path, trained):
    make_runner(tmp_path, Net(5), trained, replaced="roi_head.fc_cls", log_level="INFO").train()
    logs = "".join(path.read_text() for path in (tmp_path / "run").rglob("*.log"))
    assert f"Starting from scratch: 2 tensors ({', '.join(HEADS)})" in logs


def test_a_part_that_only_the_checkpoint_has_is_left_out(tmp_path, trained):
    path = change(trained, setting("roi_head.mask.weight", torch.ones(1)))
    make_runner(tmp_path, Net(), path, replaced=["roi_head.mask"]).train()


@pytest.mark.parametrize("prefix", ["roi_head.fc_clss", "roi_head.fc_c"])
def test_a_part_that_is_not_there_is_an_error(tmp_path, trained, prefix):
    with pytest.raises(UsageError, match=rf"no part {prefix} .*did you mean roi_head\.fc_cls.*\?"):
        make_runner(tmp_path, Net(5), trained, replaced=[prefix]).train()


@pytest.mark.parametrize("purpose", ["test", "resume"])
def test_nothing_is_replaced_in_a_test_or_when_resuming(tmp_path, trained, purpose):
    options = dict(replaced=["roi_head.fc_cls"], resume=purpose == "resume")
    with pytest.raises(UsageError, match="2 of another shape"):
        runner = make_runner(tmp_path, Net(5), trained, **options)
        runner.test() if purpose == "test" else runner.train()
    model = Net()
    runner = make_runner(tmp_path, model, trained, [dict(type=EMAHook)], **options)
    runner.test() if purpose == "test" else runner.train()
    saved = torch.load(trained, weights_only=False)["state_dict"]
    assert all(torch.equal(model.state_dict()[name], saved[name]) for name in HEADS)


# Resuming

STATES = {
    "nothing but weights": (
        lambda c: dict(state_dict=c["state_dict"]),
        r"it has no epoch, iter, message_hub, optimizer, param_schedulers\. .* load_from",
    ),
    "no optimizer": (lambda c: c.pop("optimizer") and None, r"it has no optimizer\. "),
    "no schedulers": (
        lambda c: c.pop("param_schedulers") and None,
        r"has no param_schedulers\. ",
    ),
    "another history": (
        lambda c: dict(c, message_hub=dict(log_scalars={})),
        r"it has no message_hub\. ",
    ),
    "another number of groups": (
        lambda c: c["optimizer"]["param_groups"].append(dict(params=[])),
        r"10 parameters in 2 groups instead of 10 in 1; ",
    ),
    "a moment of another shape": (
        lambda c: c["optimizer"]["state"][0].update(momentum_buffer=torch.ones(9)),
        r"momentum_buffer of parameter 0 has the shape \(9,\) instead of \(4, 2\); ",
    ),
    "no groups": (
        lambda c: dict(c, optimizer=[]),
        "it lacks the groups of parameters or",
    ),
    "the averaged weights of another model": (
        setting("module.backbone.0.weight", torch.ones(7, 2), "ema_state_dict"),
        r"of a different model than its state_dict: 1 without counterpart \(module\.backbone\.0\.w",
    ),
}


@pytest.mark.parametrize("state", STATES)
def test_no_training_goes_on_from_half_a_state(tmp_path, trained, state):
    edit, sentence = STATES[state]
    path = change(trained, edit)
    with pytest.raises(UsageError, match=sentence) as error:
        make_runner(tmp_path, Net(), path, [dict(type=EMAHook)], resume=True).train()
    assert "\n" not in str(error.value)


def meta(**values):
    return lambda c: c["meta"].update(values)


def hub(**values):
    return lambda c: c["message_hub"].update(values)


def info(**values):
    return lambda c: c["message_hub"]["runtime_info"].update(values)


def group(**values):
    return lambda c: c["optimizer"]["param_groups"][0].update(values)


WRONG = {
    **{f"iter {value}": meta(iter=value) for value in (-5, "5", 10**30, None)},
    **{f"epoch {value}": meta(epoch=value) for value in (-5, 10**30, 1.5)},
    **{f"seed {value}": meta(seed=value) for value in ("x", -1, 2**70)},
    "dataset_meta": meta(dataset_meta=[1]),
    "no meta": lambda c: dict(c, meta=[1]),
    "a list of histories": hub(log_scalars=[1]),
    "a list of infos": hub(runtime_info=[1]),
    "a list of keys": hub(resumed_keys=[1]),
    "histories of texts": hub(log_scalars=dict(loss="1")),
    "optimizer of a text": lambda c: dict(c, optimizer="text"),
    "state of a list": lambda c: c["optimizer"].update(state=[1]),
    "state of texts": lambda c: c["optimizer"].update(state={0: "text"}),
    "moment of a text": lambda c: c["optimizer"]["state"][0].update(momentum_buffer="text"),
    "rate of a text": group(lr="text"),
    "rate of nan": group(lr=float("nan")),
    "schedulers of a text": lambda c: dict(c, param_schedulers="text"),
    "schedulers of numbers": lambda c: dict(c, param_schedulers=[3]),
    "averaged weights of a list": lambda c: dict(c, ema_state_dict=[1]),
    "averaged weights of numbers": lambda c: dict(c, ema_state_dict={3: 1}),
    "averaged weights of texts": lambda c: dict(c, ema_state_dict={"module.mask": "text"}),
    "weights twice": setting("module.mask", torch.zeros(2)),
}  # fmt: skip


@pytest.mark.parametrize("state", WRONG)
def test_whatever_is_wrong_in_a_state_is_one_sentence(tmp_path, trained, state):
    path = change(trained, WRONG[state])
    with pytest.raises(UsageError) as error:
        make_runner(tmp_path, Net(), path, [dict(type=EMAHook)], resume=True).train()
    assert str(path) in str(error.value) and str(error.value).isprintable()


@pytest.mark.parametrize(
    "values", [dict(epoch_begin="text"), dict(epoch_begin=dict(epoch="a")), dict(last_ckpt=3)]
)
def test_odd_values_of_our_own_do_no_harm(tmp_path, trained, values):
    """Where an epoch began, as our loop notes it."""
    path = change(trained, info(**values))
    loop = dict(type=ResumableEpochLoop, max_epochs=2)
    runner = make_runner(tmp_path, Net(), path, resume=True, train_cfg=loop)
    runner.train()
    assert runner.iter == 4


def test_another_optimizer_does_not_go_on_from_this_ones_state(tmp_path, trained):
    other = dict(optimizer=dict(type="AdamW", lr=0.1))
    with pytest.raises(UsageError, match="the settings momentum instead of betas; resume with"):
        make_runner(tmp_path, Net(), trained, resume=True, optim_wrapper=other).train()
    several = dict(constructor="DefaultOptimWrapperConstructor", paramwise_cfg=dict(bias_lr_mult=2))
    several.update(optimizer=dict(type="SGD", lr=0.1, momentum=0.9))
    with pytest.raises(UsageError, match="10 parameters in 1 groups instead of 10 in 10; "):
        make_runner(tmp_path, Net(), trained, resume=True, optim_wrapper=several).train()


def test_a_training_goes_on(tmp_path, trained):
    runner = make_runner(tmp_path, Net(), trained, [dict(type=EMAHook)], resume=True)
    runner.train()
    assert (runner.epoch, runner.iter) == (2, 4)
    assert os.path.exists(tmp_path / "run" / "epoch_2.pth")


def test_the_config_in_a_file_is_not_executed(tmp_path, trained):
    """MMEngine would do so to see on how many GPUs the run began."""
    mark = tmp_path / "mark"
    program = f"open({str(mark)!r}, 'w')"
    path = change(trained, lambda c: c["meta"].update(config=program, cfg=program))
    Config.fromstring(program, ".py")
    assert mark.exists()
    mark.unlink()
    make_runner(tmp_path, Net(), path, [dict(type=EMAHook)], resume=True).train()
    assert not mark.exists()
