"""Every block of docs/use_anywhere.md runs, as does the README's line on other configs."""

import re
import shlex
import warnings
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/use_anywhere.md").read_text(encoding="utf-8")
# Language, text, and the heading above.
BLOCKS = [
    (match["language"], match["text"], re.findall(r"^## (.+)$", PAGE[: match.start()], re.M)[-1])
    for match in re.finditer(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", PAGE, re.M | re.S)
]
CONFIGS = [text for language, text, _ in BLOCKS if text.startswith("_base_ = ")]
PYTHON = [
    (heading, text)
    for language, text, heading in BLOCKS
    if language == "python" and text not in CONFIGS
]


def test_the_page_has_no_other_blocks():
    kinds = [language or "output" for language, _, _ in BLOCKS]
    assert sorted(set(kinds)) == ["output", "python", "shell"]
    assert (kinds.count("output"), kinds.count("shell"), len(CONFIGS)) == (1, 1, 1)


def test_all_blocks_of_python_in_one_session(capsys):
    names: dict = {}
    ran = []
    for heading, text in PYTHON:
        if heading == "Lightning" and find_spec("lightning") is None:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile(text, f"{heading} (docs/use_anywhere.md)", "exec"), names)
        ran.append(heading)
    assert {"Plain PyTorch", "Output stride", "The levels of a DETR"} <= set(ran)
    (output,) = [text for language, text, _ in BLOCKS if not language]
    assert capsys.readouterr().out.startswith(output)


def test_the_command_writes_the_config_that_the_page_shows(start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (command,) = [text for language, text, _ in BLOCKS if language == "shell"]
    python, script, *arguments = shlex.split(command)
    assert python == "python"
    start(script.removeprefix("tools/"), *arguments, code=0)
    assert (tmp_path / "my_config.py").read_text() == CONFIGS[0]


def test_the_readmes_line(start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^python tools/(misc/adapt_config\.py .*)$", readme, re.M)
    start(*shlex.split(line), code=0)
    cfg = Config.fromfile(tmp_path / "my_config.py")
    assert cfg.model.backbone.type == "mmhcgnet.HCGNet"
