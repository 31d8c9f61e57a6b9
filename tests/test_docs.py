"""What the documentation names exists: scripts, configs, files that it links to."""

import argparse
import importlib.util
import re
import runpy
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FOLDERS = (".", "docs", "weights", "demo", "demo/*", "configs/*")
PAGES = sorted(page for folder in FOLDERS for page in ROOT.glob(f"{folder}/*.md"))
CONFIGS = {path.stem for path in (ROOT / "configs").rglob("*.py")}


def site():
    """mkdocs.yml without the tags that are Python's."""
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def pages_of(nav):
    for entry in nav:
        for value in entry.values():
            yield from pages_of(value) if isinstance(value, list) else [value]


def test_every_page_is_in_the_navigation():
    assert sorted(pages_of(site()["nav"])) == sorted(p.name for p in (ROOT / "docs").glob("*.md"))


def anchors(page):
    """What a page's headings are called in links, on GitHub and in the site."""
    headings = re.findall(r"^#+ (.+)", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page):
    text = page.read_text(encoding="utf-8")
    for script in re.findall(
        r"(?:python |^)((?:tools|demo|benchmarks)/[\w/]+\.(?:py|sh))", text, re.M
    ):
        assert (ROOT / script).is_file(), script
    for config in re.findall(r"\bconfigs/[\w/.-]+?\.py", text):
        assert (ROOT / config).is_file(), config
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", text):
        linked = page.parent / target if target else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), f"{target}#{anchor}"


def test_the_paper_page_names_configs_that_exist():
    text = (ROOT / "docs/reproduce.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:hcgnet|mask-rcnn)[\w-]+)`", text))
    assert len(named) >= 6 and named <= CONFIGS, named - CONFIGS


def test_the_api_page_names_what_is_exported():
    import mmhcgnet

    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    names = [line.split(".")[-1] for line in re.findall(r"^::: (\S+)", text, re.M)]
    assert set(mmhcgnet.__all__) - {"__version__"} <= set(names)
    for path in re.findall(r"^::: (\S+)", text, re.M):
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path


@pytest.fixture
def hooks():
    path = ROOT / "tools/misc/site_hooks.py"
    spec = importlib.util.spec_from_file_location("site_hooks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_that_leave_the_site(hooks):
    page = SimpleNamespace(file=SimpleNamespace(src_uri="speed.md"))
    text = "[a](safety.md), [README](../README.md#test), [b](https://x.org), ![c](smg.svg)"
    assert hooks.on_page_markdown(text, page) == (
        "[a](safety.md), README (`README.md`), [b](https://x.org), ![c](smg.svg)"
    )
    with pytest.raises(FileNotFoundError, match=r"speed\.md links to gone\.md"):
        hooks.on_page_markdown("[x](../gone.md)", page)


def commands():
    """What the pages let one type: page, script and arguments, a line that goes on as one."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"^```shell\n(.*?)^```$", text, re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                while words and "=" in words[0]:  # variables
                    del words[0]
                if len(words) > 1 and words[0] == "python" and words[1].endswith(".py"):
                    yield pytest.param(*words[1:2], words[2:], id=f"{page.stem}: {line[:60]}")


class Parsed(BaseException):
    """The arguments are fine; what would follow is left out."""


@pytest.mark.parametrize("script, arguments", list(commands()))
def test_a_command_of_the_documentation_is_one_that_the_script_takes(
    script, arguments, monkeypatch, capsys
):
    """All but what it does, which the tests of the scripts show."""
    if script.startswith("$"):
        return  # a toolbox's own script

    def stopping(parse):
        def stop(*args):
            parse(*args)
            raise Parsed

        return stop

    for name in ("parse_args", "parse_intermixed_args"):
        parse = getattr(argparse.ArgumentParser, name)
        monkeypatch.setattr(argparse.ArgumentParser, name, stopping(parse))
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    try:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    except Parsed:
        return
    except SystemExit:
        pass
    pytest.fail(capsys.readouterr().err)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_of_python_are_python(page):
    for block in re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S):
        compile(block, page.name, "exec")
