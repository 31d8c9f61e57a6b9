"""Ways out of PyTorch that need nothing of ours: every form, at sizes and batches of any kind."""

import io

import pytest
import torch
from helpers.exported import noise, scatter

from mmhcgnet import HCGNet

SIZES = ((64, 64), (96, 70), (33, 130))
NEW = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6)
new = pytest.mark.skipif(not NEW, reason="torch.export takes such networks from PyTorch 2.6 on")
forms = pytest.mark.parametrize("form", ["plain", "deployed"])


def network(form, depths=(1, 1), **arch):
    arch = dict(depths=depths, growth_rates=(8,) * len(depths), **arch)
    network = HCGNet(arch, out_indices=tuple(range(len(depths))))
    scatter(network)
    network.eval()
    if form == "deployed":
        network.switch_to_deploy()
    return network


def inputs(sizes=SIZES):
    for number in (1, 3):
        for size in sizes:
            yield noise(number, *size).permute(0, 3, 1, 2) / 255 - 0.5


EXAMPLE = next(inputs([(64, 96)])).expand(2, -1, -1, -1).contiguous()


def compare(function, network, sizes=SIZES):
    for x in inputs(sizes):
        with torch.no_grad():
            wanted = network(x)
        for value, want in zip(function(x), wanted, strict=True):
            value = torch.as_tensor(value)
            assert value.shape == want.shape
            assert (value - want).abs().max() <= 1e-5 * want.abs().max()


@forms
def test_trace(form):
    plain = network(form)
    compare(torch.jit.trace(plain, EXAMPLE), plain)


@forms
def test_legacy_onnx(form):
    pytest.importorskip("onnx", reason="onnx is not installed, which PyTorch needs to export")
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    plain, buffer = network(form), io.BytesIO()
    torch.onnx.export(
        plain,
        (EXAMPLE,),
        buffer,
        input_names=["x"],
        dynamic_axes=dict(x={0: "n", 2: "h", 3: "w"}),
        opset_version=17,
        **(dict(dynamo=False) if NEW else {}),
    )
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    compare(lambda x: session.run(None, dict(x=x.numpy())), plain)


@forms
def test_openvino(form):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    plain = network(form)
    model = openvino.convert_model(plain, example_input=EXAMPLE)
    model = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    compare(lambda x: list(model(x.numpy()).values()), plain)


@new
@forms
def test_torch_export(form):
    """Sides are multiples of 32, as the exporter wants a rule that all maps obey."""
    plain, dim = network(form), torch.export.Dim
    sides = {side: 32 * dim(f"side{side}", min=2, max=40) for side in (2, 3)}
    shape = {0: dim("n", max=64)} | sides
    with torch.no_grad():
        exported = torch.export.export(plain, (EXAMPLE,), dynamic_shapes=(shape,)).module()
        compare(exported, plain, ((64, 64), (96, 128)))


@new
@pytest.mark.slow(reason="PyTorch's new exporter takes its time whatever the network")
def test_dynamo_onnx(tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    import onnxruntime

    plain, path = network("plain", depths=(1,), stem="cifar"), str(tmp_path / "model.onnx")
    shape = {0: torch.export.Dim("n", max=64)}
    torch.onnx.export(plain, (EXAMPLE,), path, dynamo=True, dynamic_shapes=(shape,), verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    compare(lambda x: session.run(None, {name: x.numpy()}), plain, ((64, 96),))
