"""A checkpoint is opened once and asked."""

import os
import re
import sys
import time
import zipfile

import pytest
import torch
from helpers.opened import OPENED, reads
from helpers.scripts import run_new
from mmengine.runner import CheckpointLoader

from mmhcgnet.checkpoints import Checkpoint, encode_checkpoint, read_checkpoint, use_safe_loader
from mmhcgnet.checkpoints.newest import find_newest, name_pattern
from mmhcgnet.checkpoints.sources import open_ahead
from mmhcgnet.checkpoints.strict import load_strictly
from mmhcgnet.errors import MissingFileError, UsageError

WEIGHTS = {"a.weight": torch.ones(2), "a.bias": torch.zeros(2)}
HUB = dict(log_scalars={}, runtime_info={}, resumed_keys={})
STATE = dict(
    meta=dict(epoch=1, iter=3, unix_time=5.0),
    optimizer={},
    message_hub=HUB,
    state_dict=WEIGHTS,
)


def save(path, checkpoint):
    torch.save(checkpoint, path)
    return str(path)


def test_it_answers(tmp_path):
    opened = Checkpoint.open(save(tmp_path / "a.pth", STATE))
    assert opened.weights.keys() == WEIGHTS.keys() and opened.meta["iter"] == 3
    assert (opened.layout, opened.is_deployed) == (None, False)
    assert (opened.iteration, opened.saved_at, opened.has_training_state) == (3, 5.0, True)
    wrapped = {f"module.{name}": tensor for name, tensor in WEIGHTS.items()}
    opened = Checkpoint.open(save(tmp_path / "a.pth", wrapped))
    assert opened.weights.keys() == WEIGHTS.keys() and opened.meta == {}
    assert (opened.iteration, opened.saved_at, opened.has_training_state) == (None, 0.0, False)


def test_an_outline_has_no_tensors(tmp_path):
    outline = Checkpoint.open(save(tmp_path / "a.pth", STATE), in_full=False)
    assert outline.has_training_state and outline.content["state_dict"]["a.weight"] is None


@pytest.mark.parametrize("key", ["iter", "epoch"])
@pytest.mark.parametrize("value", [-1, 10**30, 1.5, True, "3", None])
def test_what_is_no_number_of_iterations(tmp_path, key, value):
    opened = Checkpoint(dict(STATE, meta=dict(epoch=1, iter=3) | {key: value}), "a.pth")
    assert opened.lacks == [key] and not opened.has_training_state
    assert opened.iteration == (3 if key == "epoch" else None)


@pytest.mark.parametrize("key", ["optimizer", "message_hub"])
def test_what_a_training_needs_is_named(key):
    content = {name: part for name, part in STATE.items() if name != key}
    assert Checkpoint(content, "a.pth").lacks == [key]
    assert Checkpoint(STATE, "a.pth").lacks == []


def test_a_tensor_with_and_without_module_is_refused(tmp_path):
    path = save(tmp_path / "a.pth", dict(WEIGHTS, **{"module.a.bias": torch.ones(2)}))
    with pytest.raises(UsageError, match=r"a\.pth has 1 tensors twice \(a\.bias\), with and"):
        assert Checkpoint.open(path).weights


def test_the_texts_of_configs_are_left_out(tmp_path):
    hub = dict(runtime_info=dict(cfg="4", seed=5), resumed_keys=dict(cfg=True))
    content = dict(meta=dict(config="1", cfg="2", epoch=3), message_hub=hub)
    opened = Checkpoint.open(save(tmp_path / "a.pth", content))
    hub = dict(runtime_info=dict(seed=5), resumed_keys={})
    assert opened.content == dict(meta=dict(epoch=3), message_hub=hub)


def test_the_home_is_known(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "a.pth", WEIGHTS)
    assert Checkpoint.open("~/a.pth").path == f"{tmp_path}/a.pth"
    with pytest.raises(MissingFileError, match=r"absent\.pth does not exist .*a\.pth"):
        Checkpoint.open("~/absent.pth")


# Reading once


def test_a_file_is_opened_once(tmp_path):
    for name in ("a.pth", "a.safetensors"):
        (tmp_path / name).write_bytes(encode_checkpoint(dict(state_dict=WEIGHTS), name))
        OPENED.clear()
        Checkpoint.open(str(tmp_path / name))
        assert reads(tmp_path / name) == 1


def test_what_was_opened_ahead_is_not_read_again(tmp_path):
    use_safe_loader()
    path = save(tmp_path / "a.pth", STATE)
    OPENED.clear()
    assert open_ahead(path) is open_ahead(path)
    for number in (1, 2):  # it is handed over once: it may change afterwards
        content = CheckpointLoader.load_checkpoint(path, map_location="cpu")
        assert content["state_dict"].keys() == WEIGHTS.keys() and reads(path) == number


def test_of_candidates_outlines_are_read_and_the_chosen_one_in_full(tmp_path):
    paths = [
        save(
            tmp_path / f"epoch_{i}.pth", dict(STATE, meta=dict(epoch=1, iter=i, unix_time=float(i)))
        )
        for i in range(3)
    ]
    OPENED.clear()
    assert find_newest([str(tmp_path)]).path == paths[2]
    assert [reads(path) for path in paths] == [1, 1, 2]


# Files that are not what they should be


def test_a_pipe_is_passed_over(tmp_path):
    old = save(tmp_path / "epoch_1.pth", STATE)
    os.mkfifo(tmp_path / "epoch_2.pth")
    code = (
        "import sys; from mmhcgnet.checkpoints.newest import find_newest\n"
        "print(find_newest(sys.argv[1:]).path)"
    )
    result = run_new(sys.executable, "-c", code, tmp_path)
    assert result.out.splitlines()[-1] == old, result.err
    with pytest.raises(UsageError, match="directory or device and not a file"):
        read_checkpoint(str(tmp_path / "epoch_2.pth"))


@pytest.mark.parametrize("template", ["epoch_{:03d}.pth", "{}_of_{}.ckpt", "a{{}}{0:>5}.pth"])
def test_templates_with_formats(template):
    assert re.fullmatch(name_pattern(template), template.format(7, 9).replace(" ", "0"))
    assert not re.fullmatch(name_pattern(template), template.format(7, 9) + "x")


def test_names_by_a_template_with_a_format_are_found(tmp_path):
    path = save(tmp_path / "epoch_007.ckpt", STATE)
    assert find_newest([str(tmp_path)], [name_pattern("epoch_{:03d}.ckpt")]).path == path


SENTENCES = {
    "zeros": (bytes(4000), r"holds only zeros"),
    "nothing": (b"", r"damaged or cut short"),
    "another archive": (b"PK\x05\x06" + bytes(18), r"damaged or cut short, or not a checkpoint"),
    "text": (b"<html>404</html>", r"not a checkpoint of PyTorch"),
}


@pytest.mark.parametrize("kind", SENTENCES)
def test_sentences(tmp_path, kind):
    content, sentence = SENTENCES[kind]
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(UsageError, match=sentence) as error:
        read_checkpoint(str(tmp_path / "a.pth"))
    assert "tar" not in str(error.value).split(": ")[-1].split()


def test_a_comment_of_others_is_no_damage(tmp_path):
    path = save(tmp_path / "a.pth", STATE)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"saved by hand"
    assert read_checkpoint(path)["meta"] == STATE["meta"]


def test_lists_in_lists_are_no_damage(tmp_path):
    nested = []
    for _ in range(300):
        nested = [nested]
    assert len(read_checkpoint(save(tmp_path / "a.pth", dict(a=nested)))["a"]) == 1


def test_safetensors_in_capitals_and_with_a_deep_header(tmp_path):
    path = str(tmp_path / "a.SAFETENSORS")
    with open(path, "wb") as file:
        file.write(encode_checkpoint(dict(state_dict=WEIGHTS), path))
    assert read_checkpoint(path)["state_dict"].keys() == WEIGHTS.keys()
    header = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
    with pytest.raises(UsageError, match="cannot be read: "):
        read_checkpoint(path)


@pytest.mark.parametrize("end", range(1, 160))
def test_damage_at_the_end_is_a_sentence_for_an_outline_too(tmp_path, end):
    """The newest file is looked at before it is verified, and the one before may be whole."""
    old = save(tmp_path / "epoch_1.pth", dict(STATE, meta=dict(epoch=1, iter=1, unix_time=1.0)))
    content = bytearray(encode_checkpoint(STATE, "a.pth"))
    for bit in range(8):
        content[-end] ^= 1 << bit
        (tmp_path / "epoch_2.pth").write_bytes(content)
        assert find_newest([str(tmp_path)], log=False).path == old
        content[-end] ^= 1 << bit


# Weights


def test_a_tensor_without_memory_is_compared_by_its_shape_first(tmp_path):
    endless = torch.ones(1).as_strided((2**40,), (0,))
    path = save(tmp_path / "a.pth", {"weight": endless, "bias": torch.ones(1)})
    assert os.path.getsize(path) < 5000
    with pytest.raises(UsageError, match=r"weight \(1099511627776,\) instead of \(1, 1\)"):
        load_strictly(torch.nn.Linear(1, 1), Checkpoint.open(path).weights, path)


def test_many_unknown_tensors_and_long_names_are_reported_at_once():
    model = torch.nn.Linear(1, 1)
    weights = {f"head{i}.sub.weight": torch.ones(()) for i in range(20_000)}
    weights.update(model.state_dict(), **{"head." * 200_000: torch.ones(())})
    start = time.process_time()
    with pytest.raises(UsageError, match="20001 unknown") as error:
        load_strictly(model, weights, "a.pth", starts=True)
    assert time.process_time() - start < 10
    assert len(str(error.value)) < 3000


def test_what_fp32_cannot_hold_and_a_negative_variance_are_broken():
    model = torch.nn.BatchNorm1d(1).eval()
    weights = {k: v.double() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    load_strictly(model, weights, "a.pth")
    weights["running_mean"] = torch.full((1,), 1e300, dtype=torch.float64)
    weights["running_var"] = torch.tensor([-1.0])
    with pytest.raises(UsageError, match=r"1 not finite \(running_mean\), 1 below zero \(running_"):
        load_strictly(model, weights, "a.pth")


def test_names_cannot_forge_lines_on_the_terminal():
    model = torch.nn.Linear(1, 1)
    names = {"a\nerror: all is well\x1b[2J": torch.ones(1), "b\u202e\ud800": torch.ones(1)}
    with pytest.raises(UsageError) as error:
        load_strictly(model, names, "c\rd.pth")
    assert str(error.value).isprintable()
    assert r"a\nerror: all is well\x1b[2J" in str(error.value) and r"c\rd.pth" in str(error.value)
