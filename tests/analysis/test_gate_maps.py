"""What is read from the gates is what they do, and what is drawn lies where it belongs."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmhcgnet.analysis.gates import maps as gate_maps
from mmhcgnet.analysis.gates.images import Sample
from mmhcgnet.errors import UsageError
from mmhcgnet.models import HCGNet

ARCH = dict(depths=(2, 1), growth_rates=(8, 12))


def lively(network):
    """Weights with which the gates are far from neutral, in eval mode."""
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    for buffer in network.buffers():
        if buffer.is_floating_point():
            torch.nn.init.uniform_(buffer, 0.5, 2)
    return network.eval()


@pytest.fixture
def network():
    return lively(HCGNet(ARCH))


@torch.no_grad()
def seen(layer, network, image):
    """Input and output of a layer while the network reads an image."""
    kept = []
    handle = layer.register_forward_hook(lambda _, inputs, output: kept.append((*inputs, output)))
    network(image[None])
    handle.remove()
    *_, x, y = kept[-1]
    return x[0], y[0]


def test_modules_make_what_the_gates_say(network):
    """Eq. 10, and O = f X' + v, from the maps and weights that were read."""
    image = torch.randn(3, 48, 64)
    gates = gate_maps.read_gates(network, image)
    assert list(gates) == ["stages.0.0", "stages.0.1", "transitions.0", "stages.1.0"]
    made, _ = seen(network.stages[1], network, image)  # the transition is not called as a module
    for name, module in gate_maps.modules_of(network).items():
        read = gates[name]
        squeezed = seen(module.squeeze2, network, image)[1]  # X', (C, H, W)
        x3, x5 = (seen(b, network, image)[1] for b in (module.branch3, module.branch5))
        z3 = (read.attention3 * x3).sum(dim=(1, 2))
        z5 = (read.attention5 * x5).sum(dim=(1, 2))
        v = read.u3 * z3 + read.u5 * z5
        expected = read.f[:, None, None] * squeezed + v[:, None, None]
        output = made if name == "transitions.0" else seen(module, network, image)[1]
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
        # The forget gate sees no more of the map than its attention lets pass.
        pooled = (read.attention * squeezed).sum(dim=(1, 2))[None]
        gate = module.forget_gate
        f = gate.expand(gate.hidden(pooled)).sigmoid()[0].detach()
        torch.testing.assert_close(read.f, f, rtol=1e-4, atol=1e-4)
        assert torch.allclose(read.u3 + read.u5, torch.ones(module.out_channels))
    # The image is wider than high, and the transition halves it.
    assert gates["stages.0.1"].attention.shape == (12, 16)
    assert gates["transitions.0"].attention3.shape == gates["stages.1.0"].attention5.shape == (6, 8)
    arrays = gate_maps.as_arrays(gates)
    assert len(arrays) == 4 * 6 and arrays["transitions.0.f"].shape == (40,)


def test_reading_leaves_no_trace(network):
    image = torch.randn(1, 3, 32, 32)
    before = network(image)[0]
    gate_maps.read_gates(network, image[0])
    assert torch.equal(network(image)[0], before)
    assert not any(layer._forward_hooks for layer in network.modules())


def test_modules_and_stages_are_chosen_by_name(network):
    def choose(*names):
        return gate_maps.choose_modules(network, names)

    assert choose("stages.1.0", "stages.0") == ["stages.1.0", "stages.0.0", "stages.0.1"]
    assert choose("transitions", "transitions.0") == ["transitions.0"]
    with pytest.raises(UsageError, match=r"no module 'stages.0.7' \(did you mean stages.0"):
        choose("stages.0.7")
    assert gate_maps.module_rows(network) == [
        ["stages.0.0", "64", "8", "4"],
        ["stages.0.1", "72", "8", "4"],
        ["transitions.0", "80", "40", "8"],
        ["stages.1.0", "40", "12", "8"],
    ]


def test_only_what_is_built_has_gates():
    first = lively(HCGNet(ARCH, out_indices=0))
    gates = gate_maps.read_gates(first, torch.randn(3, 32, 32))
    assert list(gates) == ["stages.0.0", "stages.0.1"]


def test_finds_the_network_but_not_a_deployed_one(network):
    assert gate_maps.find_network(torch.nn.Sequential(torch.nn.Identity(), network)) is network
    assert gate_maps.find_network(torch.nn.Identity()) is None
    network.switch_to_deploy()
    with pytest.raises(UsageError, match="deployed HCGNet"):
        gate_maps.find_network(network)


# --- pictures ------------------------------------------------------------------------------------


def planted(attention, channels=4):
    u3 = torch.linspace(0.1, 0.7, channels)
    f = torch.linspace(0.9, 0.2, channels)
    return gate_maps.Gates(attention, attention, attention, u3, 1 - u3, f)


def texts_of(figure):
    return figure.findobj(lambda artist: hasattr(artist, "get_text"))


def cells(figure):
    """The axes of the contact sheet's modules, two for each; headings have nothing but text."""
    legend, body = figure.subfigs
    assert "Red: the gate looks here more" in "".join(t.get_text() for t in texts_of(legend))
    return [ax for ax in body.axes if ax.axison or ax.images]


def redness(rgb):
    rgb = np.asarray(rgb)
    return rgb[:, :, 0] - rgb[:, :, 2]


def test_maps_lie_where_the_network_looked():
    """A wide image, padded at the bottom; all attention is on the last column of its upper row."""
    pytest.importorskip("matplotlib")
    sample = Sample(np.zeros((20, 64, 3), np.uint8), torch.zeros(3, 32, 64))
    attention = torch.zeros(2, 4)
    attention[0, 3] = 1
    figure = gate_maps.contact_sheet(sample, {"stages.0.0": planted(attention)})
    maps, channels = cells(figure)
    assert "8.0 | 8.0 | 8.0" in maps.get_title()  # of eight positions
    drawn = redness(maps.images[0].get_array())
    height, width = 30, 96
    assert drawn.shape == (height, 3 * width + 4)
    # The map's last column is red: its middle lies at 84, that of the column before at 60.
    assert drawn[:, :60].max() < 0 < drawn[0, 66:width].min() and drawn[0, 90] > 0.25
    # Its second row begins at 24 of the 48 rows of the padded image, of which 30 are shown.
    assert 0.01 < drawn[29, 90] < 0.8 * drawn[20, 90]
    # Three times the same map, as planted.
    assert np.array_equal(drawn[:, :width], drawn[:, width + 2 : 2 * width + 2])
    areas, line = (stairs.get_data().values for stairs in channels.patches)
    assert areas.tolist() == pytest.approx([0.7, 0.5, 0.3, 0.1])
    assert line.tolist() == pytest.approx(planted(attention).f.tolist())


def test_even_attention_looks_even():
    pytest.importorskip("matplotlib")
    sample = Sample(np.zeros((32, 32, 3), np.uint8), torch.zeros(3, 32, 32))
    even = torch.full((4, 4), 1 / 16) + torch.randn(4, 4) * 1e-5
    figure = gate_maps.contact_sheet(
        sample, {"transitions.0": planted(even), "stages.0.0": planted(even)}
    )
    drawn = redness(cells(figure)[0].images[0].get_array())[:, :96]
    assert np.abs(drawn).max() < 0.05


def test_a_column_for_each_stage_and_all_modules(network):
    pytest.importorskip("matplotlib")
    image = torch.randn(3, 48, 64)
    gates = gate_maps.read_gates(network, image)
    sample = Sample(np.zeros((48, 64, 3), np.uint8), image)
    figure = gate_maps.contact_sheet(sample, gates)
    figure.draw_without_rendering()
    place = {
        ax.get_title().split()[0]: ax.get_position().get_points().mean(axis=0)
        for ax in cells(figure)[::2]
    }
    assert list(place) == list(gates)
    assert place["stages.0.0"][1] > place["stages.0.1"][1] > place["transitions.0"][1]
    assert place["stages.1.0"][0] > place["stages.0.0"][0]
    assert place["stages.1.0"][1] == pytest.approx(place["stages.0.0"][1])
    texts = [text.get_text() for text in texts_of(figure.subfigs[1])]
    assert "Stage 0: 12 × 16 positions" in texts and "Stage 1: 6 × 8 positions" in texts


def test_one_module_large():
    pytest.importorskip("matplotlib")
    attention = F.one_hot(torch.tensor(7), 12).view(3, 4).float()
    gates = dataclasses.replace(planted(attention), attention5=torch.full((3, 4), 1 / 12))
    sample = Sample(np.full((24, 32, 3), 255, np.uint8), torch.zeros(3, 24, 32))
    figure = gate_maps.module_figure("stages.0.1", sample, gates)
    top, bottom = figure.subfigs
    image, *maps = [ax for ax in top.axes if ax.images]
    assert "stages.0.1, image of 24 × 32" in image.get_title()
    assert [ax.get_title() for ax in maps] == [
        "update gate, 3×3, 3 × 4",
        "update gate, dilated 3×3, 3 × 4",
        "forget gate, 3 × 4",
    ]
    bars = [ax for ax in top.axes if not ax.images]
    assert [bar.get_ylim() for bar in bars] == [(0, 12), (0, 2), (0, 12)]
    update, forget = bottom.axes
    u3, u5 = ([bar.get_height() for bar in group] for group in update.containers)
    assert np.add(u3, u5) == pytest.approx(np.ones(4)) and u3 == pytest.approx(gates.u3.tolist())
    assert [bar.get_height() for bar in forget.containers[0]] == pytest.approx(gates.f.tolist())
