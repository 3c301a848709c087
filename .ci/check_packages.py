"""Checks that the wheel contains the package and nothing else, and the sdist everything that a packager needs.

python -m build --outdir DIST && python .ci/check_packages.py DIST
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

TOP = {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", ".gitignore"}
ADDED = {"PKG-INFO"}


def tracked(*folders: str) -> set[str]:
    """Tracked files in these folders."""
    names = subprocess.run(["git", "ls-files", *folders], check=True, capture_output=True, text=True).stdout
    return set(names.splitlines())


def compare(kind: str, found: set[str], expected: set[str]) -> None:
    """Exit with the names that only one side has."""
    if found != expected:
        sys.exit(f"{kind}: missing {sorted(expected - found)}, not expected {sorted(found - expected)}")


def main() -> None:
    """Compare both with the tracked files."""
    folder = Path(sys.argv[1])
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    names = set(zipfile.ZipFile(wheel).namelist())
    metadata = {name for name in names if ".dist-info/" in name}
    compare("wheel", names - metadata, tracked("lightning_pareto"))
    expected = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
    compare("metadata of the wheel", {name.split("/", 1)[1] for name in metadata}, expected)
    with tarfile.open(sdist) as archive:
        files = {each.name.split("/", 1)[1] for each in archive.getmembers() if each.isfile()}
    compare("sdist", files, tracked("lightning_pareto", "tests", "examples") | TOP | ADDED)


if __name__ == "__main__":
    main()
