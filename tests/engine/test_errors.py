import pytest

from mmhcgnet.engine import (
    MissingFileError,
    UsageError,
    explain_misspelt_types,
    report_usage_errors,
)


@pytest.mark.parametrize("error", [UsageError, MissingFileError])
def test_usage_errors_become_one_line_and_exit_code_2(error, capsys):
    with pytest.raises(SystemExit) as exit_info, report_usage_errors():
        raise error("Do it otherwise.")
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == "error: Do it otherwise.\n"


def test_other_errors_keep_their_traceback():
    with pytest.raises(FileNotFoundError), report_usage_errors():
        open("absent/file")


def test_ranks_above_0_let_rank_0_speak_first(monkeypatch, capsys):
    waits = []
    monkeypatch.setattr("mmhcgnet.engine.errors.time.sleep", waits.append)
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit), report_usage_errors("pytorch"):
            raise UsageError("Wrong.")
        # A stale variable does not matter without a launcher.
        with pytest.raises(SystemExit), report_usage_errors("none"):
            raise UsageError("Wrong.")
    assert len(waits) == 1


@pytest.mark.parametrize(
    "scope, name, close",
    [
        ("mmengine", "mmhcgnet.HCGNett", "mmhcgnet.HCGNet"),
        ("mmpretrain", "ResNett", "ResNet"),
        ("mmpretrain", "mmpretrain.ResNett", "ResNet"),
    ],
)
def test_a_misspelt_type_gets_close_names(scope, name, close):
    from mmengine.registry import MODELS, DefaultScope

    with (
        DefaultScope.overwrite_default_scope(scope),
        pytest.raises(UsageError, match=rf"type='{name}' .*did you mean [^?]*\b{close}\b"),
        explain_misspelt_types(),
    ):
        MODELS.build(dict(type=name))


def test_other_key_errors_pass():
    with pytest.raises(KeyError, match="colour"), explain_misspelt_types():
        {}["colour"]
