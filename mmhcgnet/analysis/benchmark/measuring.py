"""How fast networks are and what they keep: measured side by side, in the same minutes.

Every round runs each model once, and the next round begins with the next model, so that whatever
else the machine does meets all of them. Ratios are taken within a round.
"""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import platform
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.benchmark.utils.timer import timer  # waits for the accelerator

from mmhcgnet.analysis.report import new_figure, number
from mmhcgnet.engine.models import check_device
from mmhcgnet.errors import UsageError

from .workloads import Workload, build

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Rounds that are measured even if the time is over.
LEAST_ROUNDS = 3
# They give memory without computing, most of them without writing to it.
_ALLOCATIONS = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
    *("zeros", "zeros_like", "new_zeros", "ones", "ones_like", "new_ones"),
}
# A view to all who call it, whatever its schema says; and questions about types and sizes.
_NO_WORK = {"_unsafe_view", "promote_types", "result_type", "is_same_size"}


class CallCounter(TorchDispatchMode):
    """Count the operators that PyTorch dispatches and that compute something.

    Left out are views (``detach``, ``alias`` and reshaping among them), allocations, and questions
    about types and sizes. An operator is one call, however much it computes.

    Attributes:
        calls (Counter[str]): Calls of each operator, as in ``aten::convolution``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if _computes(func):
            self.calls[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


def _computes(func: torch._ops.OpOverload) -> bool:
    namespace, _, name = func._schema.name.partition("::")
    if namespace == "prim" or name in _ALLOCATIONS | _NO_WORK:
        return False
    returned = [value.alias_info for value in func._schema.returns]
    return not any(alias is not None and not alias.is_write for alias in returned)


def count_calls(workload: Workload) -> Counter[str]:
    """Count the operator calls of a workload, which runs once.

    In training no parameter has a gradient yet, so that none is added to another.
    """
    workload.model.zero_grad(set_to_none=True)
    with CallCounter() as counter:
        workload()
    return counter.calls


def count_kept_bytes(workload: Workload) -> int:
    """Count the bytes that a forward pass keeps for the backward pass.

    Each storage counts once and as a whole, however many of its views are kept. The parameters are
    there anyway and do not count; a checkpoint's inputs do.
    """
    parameters = {p.untyped_storage().data_ptr() for p in workload.model.parameters()}
    storages = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage  # held, so that no other gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        workload.compute()
    return sum(s.nbytes() for pointer, s in storages.items() if pointer not in parameters)


def peak_bytes(workload: Workload) -> int:
    """Measure how much memory of a CUDA device a workload takes on top of what lies there."""
    workload.model.zero_grad(set_to_none=True)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    workload()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def peak_bytes_on_cpu(name: str, threads: int, **kwargs) -> int:
    """Measure how much memory a workload takes on top of what its process, a new one, has.

    In this process it could take what earlier workloads have left, unseen.

    Args:
        name: Name of the model.
        threads: Threads that compute.
        kwargs: The other arguments of :class:`Workload`.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_peak_in_this_process, name, threads, kwargs).result()


def _peak_in_this_process(name: str, threads: int, kwargs: dict[str, Any]) -> int:
    torch.set_num_threads(threads)
    workload = Workload(name, build(name), **kwargs)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    workload()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    """Read bytes from what Linux reports of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


@dataclasses.dataclass(frozen=True)
class Result:
    """What was measured of a model.

    Args:
        model: Name of the model.
        task: ``'forward'`` or ``'train'``.
        batch_size: Images in a batch.
        size: Height and width of the images in pixels.
        times: Seconds of a batch in each round.
        ratio: Median over the rounds of the time in units of the first model's.
        calls: Operator calls of a batch; ``None`` where a compiler makes its own.
        kept: Bytes for an image that a training step keeps for the backward pass; or ``None``.
        peak: Bytes that a batch takes at most on top of the weights, or ``None``.
    """

    model: str
    task: str
    batch_size: int
    size: tuple[int, int]
    times: Sequence[float]
    ratio: float
    calls: int | None = None
    kept: float | None = None
    peak: int | None = None

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """Quartiles of the milliseconds for an image; the second one is the median."""
        return tuple(np.percentile(self.times, [25, 50, 75]) * 1e3 / self.batch_size)

    @property
    def images_per_second(self) -> float:
        """Images a second, by the median."""
        return 1e3 / self.quartiles[1]

    def as_dict(self) -> dict[str, Any]:
        """All of it by name, what follows from the times included."""
        low, median, high = self.quartiles
        derived = dict(ms_per_image=median, quartiles=(low, high), ips=self.images_per_second)
        return dataclasses.asdict(self) | derived


HEADER = [
    *("model", "ms/image", "quartiles", "images/s", "time ratio"),
    *("operator calls", "MB kept/image", "peak MB"),
]


def as_row(result: Result) -> list[str]:
    """Format a result for a table with ``HEADER``."""
    low, median, high = result.quartiles
    digits = 1 if median >= 10 else 2
    return [
        result.model,
        number(median, digits),
        f"{number(low, digits)} to {number(high, digits)}",
        number(result.images_per_second),
        number(result.ratio, 3),
        number(result.calls, 0),
        number(result.kept, 1, 1e6),
        number(result.peak, 0, 1e6),
    ]


def interleave(
    runs: Mapping[str, Callable[[], Any]],
    rounds: int,
    seconds: float = math.inf,
    report: Callable[[int, dict[str, float]], None] | None = None,
) -> dict[str, list[float]]:
    """Time functions in turn, each behind a run of its own that does not count.

    What ran before leaves the caches and the allocator as it needs them: on a CPU, a model would
    pay for memory that another one handed back, which no model pays that runs again and again.

    Args:
        runs: What to run, by name.
        rounds: In each, every function runs twice, and the second time counts.
        seconds: Time after which no further round begins, but for the first three.
        report: Called after each round with its number, from 1, and its times.

    Returns:
        Seconds in each round, by name.
    """
    times = {name: [] for name in runs}
    names, start = deque(runs), time.monotonic()
    for i in range(rounds):
        if i >= LEAST_ROUNDS and time.monotonic() - start > seconds:
            break
        for name in names:
            runs[name]()
            before = timer()
            runs[name]()
            times[name].append(timer() - before)
        names.rotate(-1)  # the next round begins with the next one
        if report:
            report(i + 1, {name: measured[-1] for name, measured in times.items()})
    return times


def time_ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """Median over the rounds of the time in units of another one."""
    return float(np.median(np.array(times) / np.array(others)))


def measure(
    names: Sequence[str],
    task: str,
    batch_size: int,
    size: tuple[int, int],
    rounds: int,
    seconds: float = math.inf,
    device: str = "cpu",
    channels_last: bool = True,
    peak: bool = False,
    say: Callable[[str], None] = print,
) -> list[Result]:
    """Compare models on one task.

    Args:
        names: Names of the models; the first one is what ratios refer to.
        task: ``'forward'`` or ``'train'``.
        batch_size: Images in a batch.
        size: Height and width of the images in pixels.
        rounds: As for :func:`interleave`.
        seconds: As for :func:`interleave`.
        device: ``'cpu'`` or ``'cuda'``.
        channels_last: Let convolutions compute in that memory format.
        peak: Measure peak memory, too; on a CPU, each model once more in a process of its own.
        say: What to do with a line that says how far it is.

    Raises:
        UsageError: If a model is given twice or cannot do the task, or the device does not exist,
            or peak memory cannot be measured here.
    """
    check_device(device)
    if peak and device == "cpu" and sys.platform != "linux":
        raise UsageError("Only Linux reports the peak memory of a process: leave it out.")
    if len(set(names)) < len(names):
        raise UsageError("A model is given twice: name each one once.")
    what = f"{task}, batch {batch_size}"
    settings = dict(task=task, batch_size=batch_size, size=size, device=device)
    settings["channels_last"] = channels_last
    workloads, found = {}, {}
    for name in names:
        say(f"{what}: {name} …")
        workload = workloads[name] = Workload(name, build(name), **settings)
        workload()  # the first time takes longer, and compilers compile
        found[name] = dict()
        if not workload.compiled:
            found[name]["calls"] = count_calls(workload).total()
            if workload.trains:
                found[name]["kept"] = count_kept_bytes(workload) / batch_size
        if peak and device == "cuda":
            found[name]["peak"] = peak_bytes(workload)
        elif peak:
            found[name]["peak"] = peak_bytes_on_cpu(name, torch.get_num_threads(), **settings)

    def report(i: int, times: dict[str, float]) -> None:
        shown = ", ".join(f"{n} {t / batch_size * 1e3:.1f}" for n, t in times.items())
        say(f"{what}, round {i} of {rounds}, ms/image: {shown}")

    times = interleave(workloads, rounds, seconds, report)
    return [
        Result(
            model=name,
            task=task,
            batch_size=batch_size,
            size=size,
            times=times[name],
            ratio=time_ratio(times[name], times[names[0]]),
            **found[name],
        )
        for name in names
    ]


def describe_machine(device: str) -> dict[str, Any]:
    """Say where and with what was measured."""
    packages = ("torch", "torchvision", "mmengine", "mmcv", "mmdet", "mmpretrain", "mmhcgnet")
    return dict(
        date=time.strftime("%Y-%m-%d %H:%M"),
        device=torch.cuda.get_device_name() if device == "cuda" else _processor(),
        threads=torch.get_num_threads(),
        platform=platform.platform(),
        python=platform.python_version(),
        versions={name: sys.modules[name].__version__ for name in packages if name in sys.modules},
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


# Two of Okabe and Ito's colours, as in the figures of the paper's tables.
_OURS, _OTHERS = "#D55E00", "#0072B2"


def figure(results: Sequence[Result]) -> Figure:
    """Draw bars: a panel for each task and batch size, and one for what a training step keeps."""
    panels = {}
    for result in results:
        low, median, high = result.quartiles
        model = result.model.rpartition("/")[2]
        title = f"{result.task}, {result.batch_size} × {result.size[0]} × {result.size[1]}"
        panels.setdefault((title, "ms/image, quartiles"), []).append(
            (model, median, (median - low, high - median))
        )
        if result.kept is not None:
            panels.setdefault((title, "MB kept for the backward pass, per image"), []).append(
                (model, result.kept / 1e6, (0, 0))
            )
    fig = new_figure(8, 0.9 + sum(0.9 + 0.35 * len(bars) for bars in panels.values()), dpi=110)
    heights = [2 + len(bars) for bars in panels.values()]
    axes = fig.subplots(len(panels), squeeze=False, gridspec_kw=dict(height_ratios=heights))
    for ax, ((title, unit), bars) in zip(axes[:, 0], panels.items(), strict=True):
        names, values, errors = zip(*bars, strict=True)
        colours = [_OURS if "hcgnet" in name.lower() else _OTHERS for name in names]
        places = range(len(names))
        drawn = ax.barh(places, values, xerr=np.transpose(errors), color=colours, ecolor="#444444")
        ax.bar_label(drawn, [number(v, 1 if v >= 10 else 2) for v in values], padding=4, fontsize=8)
        ax.set_yticks(places, names, fontsize=8)
        ax.invert_yaxis()
        ax.margins(x=0.12)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel(unit, fontsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    return fig
