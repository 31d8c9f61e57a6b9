"""A loss or a gradient that is NaN or infinite: nothing takes it in, and one sentence says so."""

import re
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from helpers.processes import run_processes
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner, load_checkpoint
from mmengine.structures import BaseDataElement
from torch import nn

from mmhcgnet.engine.hooks.non_finite_hook import NonFiniteError, NonFiniteHook
from mmhcgnet.errors import UsageError

FINITE = [1.0, 2.0, 0.5, 3.0, 1.5, 0.2]
ONE_EPOCH = dict(by_epoch=True, max_epochs=1)


class Model(BaseModel):
    """Two layers; the losses are what a test makes of the outputs ``y`` of shape ``(N, 2)``."""

    def __init__(self, losses=None, norm=False):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(1, 3)
        self.norm = nn.BatchNorm1d(3) if norm else nn.Identity()
        self.second = nn.Linear(3, 2)
        self.losses = losses or (lambda y: dict(loss_cls=y.square().mean(), loss_box=y.exp().sum()))

    def forward(self, inputs, data_samples=None, mode="tensor"):
        x = torch.stack(inputs) if isinstance(inputs, list) else inputs
        return self.losses(self.second(self.norm(self.first(x))))


class Scaled(AmpOptimWrapper):
    """MMEngine's wrapper for mixed precision, which wants a GPU, with the scaler of a CPU."""

    def __init__(self, optimizer, **kwargs):
        OptimWrapper.__init__(self, optimizer, **kwargs)
        self.loss_scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        self._scale_update_param = None

    optim_context = OptimWrapper.optim_context


def make_runner(work_dir, values, model=None, hook=True, wrapper=None, hooks=(), lr=0.01, **kwargs):
    """Train on batches of one value each, twice the same in a batch; a checkpoint each epoch."""
    model = model or Model()
    samples = [
        dict(inputs=torch.tensor([value]), data_samples=BaseDataElement(img_path=f"{i}{copy}.jpg"))
        for i, value in enumerate(values)
        for copy in "ab"
    ]
    return Runner(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=2,
            num_workers=0,
            dataset=samples,
            sampler=dict(type="DefaultSampler", shuffle=False),
        ),
        train_cfg=kwargs.pop("train_cfg", dict(by_epoch=True, max_epochs=2)),
        optim_wrapper=wrapper or dict(optimizer=dict(type="SGD", lr=lr, momentum=0.9), **kwargs),
        default_hooks=dict(logger=None),
        custom_hooks=[*([dict(type="mmhcgnet.NonFiniteHook")] if hook else []), *hooks],
        log_level="ERROR",
        experiment_name=str(work_dir),
    )


def weights(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def message(runner):
    with pytest.raises(NonFiniteError) as error:
        runner.train()
    assert isinstance(error.value, UsageError) and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("options", [{}, dict(clip_grad=dict(max_norm=1.0))], ids=["", "clipped"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e9])
def test_stops_before_the_step(tmp_path, value, options):
    """The third of three batches; an epoch of the others is what the weights have seen."""
    runner = make_runner(
        tmp_path / "bad", [1.0, 2.0, value], hooks=[dict(type="EMAHook")], **options
    )
    text = message(runner)
    assert ("loss_cls=" in text) is (value != 1e9)  # its square is finite, its exponential is not
    assert "loss_box=" in text
    assert "iteration 3 (epoch 1)" in text
    assert "2 files in its batch (2a.jpg, 2b.jpg)" in text
    assert "learning rate" in text and "check_data" in text
    good = make_runner(tmp_path / "good", [1.0, 2.0], train_cfg=ONE_EPOCH, **options)
    good.train()
    assert same(weights(runner.model), weights(good.model))
    assert not list((tmp_path / "bad").glob("*.pth"))


def test_what_was_saved_before_is_good(tmp_path):
    """NaN comes in the second epoch: the first one's checkpoint stays the last."""
    calls = []

    def losses(y):
        calls.append(1)
        return dict(loss=y.square().mean() * (float("nan") if len(calls) == 4 else 1))

    runner = make_runner(tmp_path, FINITE[:3], Model(losses), hooks=[dict(type="EMAHook")])
    assert "iteration 4 (epoch 2)" in message(runner)
    assert [path.name for path in tmp_path.glob("*.pth")] == ["epoch_1.pth"]
    checkpoint = load_checkpoint(Model(), str(tmp_path / "epoch_1.pth"))
    for part in ("state_dict", "ema_state_dict"):
        assert all(value.isfinite().all() for value in checkpoint[part].values())
    (ema,) = (hook for hook in runner.hooks if type(hook).__name__ == "EMAHook")
    assert all(value.isfinite().all() for value in ema.ema_model.state_dict().values())


def test_a_gradient_alone(tmp_path):
    """The root of 0 is finite, and its slope is not."""

    def losses(y):
        return dict(loss=(y[:, 0] * 0).sqrt().sum() + y.sum())

    model = Model(losses)
    model.second.bias.requires_grad_(False)
    text = message(make_runner(tmp_path, FINITE, model))
    assert "NaN or infinity in the gradient of every parameter" in text


def test_the_parameters_are_named(tmp_path):
    class Two(Model):
        def __init__(self):
            super().__init__()
            self.side = nn.Parameter(torch.zeros(()))

        def forward(self, inputs, data_samples=None, mode="tensor"):
            return dict(loss=super().forward(inputs)["loss_cls"] + self.side.sqrt())

    text = message(make_runner(tmp_path, FINITE, Two()))
    assert "NaN or infinity in the gradients of 1 parameters (side): training stops" in text


def test_terms_of_a_list_are_named_and_what_is_no_loss_is_not(tmp_path):
    def losses(y):
        bad = y.sum() / 0
        return dict(acc=bad.detach(), loss_rpn=[y.sum(), bad, y.mean()])

    text = message(make_runner(tmp_path, FINITE, Model(losses)))
    assert re.search(r"in the loss \(loss_rpn\[1\]=-?inf\) and ", text)


@pytest.mark.parametrize("large", [1e30, -1e30])
def test_what_is_large_and_finite_trains_as_without_the_hook(tmp_path, large):
    """Its square is infinite. And what is no loss may be anything."""

    def losses(y):
        return dict(loss=y.mean() * large, acc=torch.tensor(float("nan")))

    results = []
    for hook in (True, False):
        runner = make_runner(tmp_path / str(hook), FINITE, Model(losses), hook, lr=1e-32)
        runner.train()
        results.append(weights(runner.model))
    assert same(*results)


def test_training_is_the_same_and_leaves_no_hook_behind(tmp_path):
    results = []
    for hook in (True, False):
        runner = make_runner(tmp_path / str(hook), FINITE, hook=hook)
        runner.train()
        results.append(weights(runner.model))
        assert not runner.model._forward_hooks
        assert not runner.optim_wrapper.optimizer._optimizer_step_pre_hooks
    assert same(*results)


def test_a_stop_leaves_no_hook_behind(tmp_path):
    runner = make_runner(tmp_path, [float("nan")])
    message(runner)
    assert not runner.model._forward_hooks
    assert not runner.optim_wrapper.optimizer._optimizer_step_pre_hooks


def test_accumulated_gradients_need_not_wait_for_the_step(tmp_path):
    values = [*FINITE[:4], float("nan"), *FINITE[:3]]
    runner = make_runner(tmp_path / "bad", values, accumulative_counts=4)
    assert "iteration 5 (epoch 1)" in message(runner)
    good = make_runner(tmp_path / "good", values[:4], train_cfg=ONE_EPOCH, accumulative_counts=4)
    good.train()
    assert same(weights(runner.model), weights(good.model))


def test_an_iteration_loop_has_no_epochs(tmp_path):
    train_cfg = dict(by_epoch=False, max_iters=5)
    text = message(make_runner(tmp_path, [1.0, float("nan")], train_cfg=train_cfg))
    assert "stops in iteration 2, with" in text


def test_every_optimizer_of_several_is_watched(tmp_path):
    class Pair(Model):
        def train_step(self, data, optim_wrapper):
            """As GANs do it: no losses by name, a step of each optimizer."""
            data = self.data_preprocessor(data, True)
            y = self.first(torch.stack(data["inputs"]))
            optim_wrapper["first"].update_params(y.square().mean())
            optim_wrapper["second"].update_params(self.second(y.detach()).square().mean() * self.f)
            return {}

    model = Pair()
    model.f = float("inf")
    before = weights(model.second)
    wrapper = OptimWrapperDict(
        **{
            name: OptimWrapper(torch.optim.Adam(getattr(model, name).parameters()))
            for name in ("first", "second")
        }
    )
    text = message(make_runner(tmp_path, FINITE, model, wrapper=wrapper))
    assert "NaN or infinity in the gradient of every parameter" in text
    assert same(weights(model.second), before)


def test_sparse_gradients_are_looked_at(tmp_path):
    class Table(BaseModel):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 2, sparse=True)

        def forward(self, inputs, data_samples=None, mode="tensor"):
            index = torch.stack(inputs).long()
            return dict(loss=(self.table(index) * 0).sqrt().sum())

    text = message(make_runner(tmp_path, [1.0], Table()))
    assert "the gradient of every parameter" in text


# Mixed precision: the loss scaler skips


def scaled(model, **options):
    return Scaled(torch.optim.SGD(model.parameters(), lr=0.01, **options))


@pytest.mark.parametrize("fused", [False, True], ids=["", "fused"])
def test_a_loss_scaler_may_skip_some_steps(tmp_path, fused):
    values = [1.0, float("nan"), float("inf"), 2.0]
    model = Model()
    runner = make_runner(tmp_path / "bad", values, model, wrapper=scaled(model, fused=fused))
    runner.train()
    model = Model()
    other = make_runner(tmp_path / "good", [1.0, 2.0], model, wrapper=scaled(model, fused=fused))
    other.train()
    assert same(weights(runner.model), weights(other.model))
    assert runner.optim_wrapper.loss_scaler.get_scale() == 4.0 / 2**4  # two skips an epoch


@pytest.mark.parametrize("fused", [False, True], ids=["", "fused"])
def test_a_loss_scaler_that_skips_on_and_on_is_stopped(tmp_path, fused):
    model = Model()
    before = weights(model)
    runner = make_runner(
        tmp_path,
        [float("nan")] * 5,
        model,
        hook=False,
        wrapper=scaled(model, fused=fused),
        hooks=[dict(type="mmhcgnet.NonFiniteHook", max_skipped=3)],
    )
    text = message(runner)
    assert "skipped 4 steps in a row, more than max_skipped=3" in text
    assert "iteration 4 (epoch 1)" in text and "loss_cls=nan" in text
    assert same(weights(model), before)


def test_the_skips_of_a_loss_scaler_are_counted_in_a_row(tmp_path):
    model = Model()
    runner = make_runner(
        tmp_path,
        [float("nan"), 1.0, float("nan"), float("nan"), 1.0],
        model,
        hook=False,
        wrapper=scaled(model),
        hooks=[dict(type="mmhcgnet.NonFiniteHook", max_skipped=2)],
    )
    runner.train()


def test_a_skipped_step_that_spoils_running_statistics_stops(tmp_path):
    model = Model(norm=True)
    text = message(make_runner(tmp_path, [1.0, float("nan")], model, wrapper=scaled(model)))
    assert "2 of them (norm.running_mean, norm.running_var)" in text
    assert "iteration 2 (epoch 1)" in text


def test_accumulated_gradients_in_mixed_precision_are_skipped_together(tmp_path):
    model = Model()
    wrapper = Scaled(torch.optim.SGD(model.parameters(), lr=0.01), accumulative_counts=2)
    before = weights(model)
    runner = make_runner(tmp_path, [float("nan"), 1.0], model, wrapper=wrapper, train_cfg=ONE_EPOCH)
    runner.train()
    assert same(weights(model), before)


@pytest.mark.gpu
def test_mixed_precision_on_gpu(tmp_path):
    """MMEngine's own wrapper: one bad batch of three is skipped, and only such ones are stopped."""
    for values, stopped in (([1.0, float("nan"), 2.0], False), ([float("nan")] * 11, True)):
        model = Model().cuda()
        wrapper = AmpOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.01))
        runner = make_runner(tmp_path / str(stopped), values, model, wrapper=wrapper)
        if stopped:
            assert "skipped 21 steps in a row, more than max_skipped=20" in message(runner)
        else:
            runner.train()
        assert all(value.isfinite().all() for value in model.state_dict().values())


@pytest.mark.parametrize("value", [-1, 1.5, True, None, "20"])
def test_a_wrong_number_of_skips_is_named(value):
    with pytest.raises(ValueError, match="max_skipped"):
        HOOKS.build(dict(type="mmhcgnet.NonFiniteHook", max_skipped=value))


# Two processes


def one_bad_process(y):
    """On process 1 a term without a gradient is NaN: the gradients do not tell process 0."""
    spoilt = float("nan") if dist.get_rank() == 1 and one_bad_process.iteration == 2 else 0.0
    one_bad_process.iteration += 1
    return dict(loss_cls=y.square().mean(), loss_aux=torch.tensor(spoilt))


def work(rank, folder):
    one_bad_process.iteration = 0
    model = MMDistributedDataParallel(Model(one_bad_process))
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
    runner = SimpleNamespace(model=model, optim_wrapper=wrapper, train_loop=None, iter=0)
    hook = NonFiniteHook()
    hook.before_train(runner)
    error = None
    try:
        for runner.iter in range(4):
            hook.before_train_iter(runner, runner.iter)
            model.train_step(dict(inputs=torch.randn(2, 1)), wrapper)
            hook.after_train_iter(runner, runner.iter)
    except NonFiniteError as stop:
        error = str(stop)
    torch.save(dict(error=error, weights=model.module.state_dict()), f"{folder}/rank{rank}.pth")


def test_all_processes_stop_in_the_same_iteration(warm, tmp_path):
    run_processes(warm, work, tmp_path)
    results = [torch.load(tmp_path / f"rank{rank}.pth") for rank in range(2)]
    assert "in a loss or a gradient of another process: " in results[0]["error"]
    assert "in the loss (loss_aux=nan): " in results[1]["error"]
    for result in results:
        assert "iteration 3, " in result["error"]
    assert same(results[0]["weights"], results[1]["weights"])
