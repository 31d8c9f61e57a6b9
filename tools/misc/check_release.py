"""Check what a release says about itself: version, changelog, citation, weights, a clean checkout.

`make release-check` runs this first, then linters, types, the site, all tests with both lines of
the MM packages, and a training step with the built wheel in a new environment.
"""

import datetime
import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def find_faults(root: Path, version: str, today: datetime.date) -> list[str]:
    """What keeps the files of a checkout from being released, a sentence each."""
    faults = []
    heading = re.search(
        r"^## \[(\d\S*)\](?: - (\d{4}-\d\d-\d\d))?$",
        (root / "CHANGELOG.md").read_text(encoding="utf-8"),
        re.M,
    )
    if heading is None or heading[1] != version:
        faults.append(f"CHANGELOG.md begins with no section [{version}].")
    elif heading[2] is None or datetime.date.fromisoformat(heading[2]) > today:
        faults.append(f"CHANGELOG.md's section [{version}] needs the day of the release.")
    if "[Unreleased]" in (root / "CHANGELOG.md").read_text(encoding="utf-8"):
        faults.append("CHANGELOG.md has a section [Unreleased].")
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    if citation.get("version") != version:
        faults.append(f"CITATION.cff is of version {citation.get('version')}, not {version}.")
    for metafile in sorted(root.glob("configs/*/metafile.yml")):
        for model in yaml.safe_load(metafile.read_text(encoding="utf-8"))["Models"]:
            weights = model.get("Weights")
            if weights and not (root / weights).is_file():
                faults.append(f"{weights} of {model['Name']} does not exist.")
    return faults


def main() -> None:
    text = (ROOT / "mmhcgnet/version.py").read_text(encoding="utf-8")
    version = re.search(r'__version__ = "(.*)"', text)[1]
    faults = find_faults(ROOT, version, datetime.date.today())
    if git("status", "--porcelain"):
        faults.append("The checkout has changes that are not committed.")
    if git("tag", "--list", f"v{version}"):
        faults.append(f"There is a tag v{version} already: raise the version.")
    if faults:
        sys.exit("\n".join(["error: this is not ready to be released:", *faults]))
    print(f"Version {version}: changelog, citation, weights and checkout are as they should be.")


if __name__ == "__main__":
    main()
