"""The image without an engine: what the Dockerfile copies exists, and the wheel with its locked dependencies is enough.

deploy/check-image builds and runs the real image; it needs root and some Debian packages, so it is not part of the tests.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
import venv
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

from localcluster.product import ROOT
from tests.packaging.manifests import one

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, continued lines joined."""
    lines = re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text()).replace("\\\n", " ").splitlines()
    return [(word, rest.strip()) for line in lines if line.strip() for word, _, rest in [line.partition(" ")]]


def final_stage() -> list[tuple[str, str]]:
    """The instructions after the last FROM."""
    last = max(number for number, (word, _) in enumerate(instructions()) if word == "FROM")
    return instructions()[last + 1 :]


def copied() -> list[str]:
    """What is copied from the checkout."""
    arguments = [shlex.split(rest) for word, rest in instructions() if word in ("COPY", "ADD")]
    return [source for argument in arguments if not argument[0].startswith("--from") for source in argument[:-1]]


def test_all_that_is_copied_exists_and_passes_dockerignore() -> None:
    passed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(copied()) == sorted(passed)
    for source in copied():
        assert (ROOT / source).exists(), source


def test_the_base_is_pinned_by_name_and_tag_and_both_stages_use_it() -> None:
    bases = [rest.split()[0] for word, rest in instructions() if word == "FROM"]
    assert bases == ["${PYTHON_IMAGE}"] * 2
    (base,) = (rest.partition("=")[2] for word, rest in instructions() if word == "ARG" and rest.startswith("PYTHON_IMAGE"))
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base)


def test_it_runs_the_operator_and_not_as_root() -> None:
    final = dict(final_stage())
    assert final["USER"] == "65532:65532"
    assert final["ENTRYPOINT"] == '["vmaccess-operator"]'
    security = one("Deployment", "vmaccess-operator")["spec"]["template"]["spec"]["securityContext"]
    assert f"{security['runAsUser']}:{security['runAsGroup']}" == final["USER"]


def test_one_version_everywhere() -> None:
    assert ("ARG", f"VERSION={VERSION}") in final_stage()
    (container,) = one("Deployment", "vmaccess-operator")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"vmaccess-operator:{VERSION}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as the Dockerfile builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_is_the_whole_package_and_nothing_else(wheel: Path) -> None:
    source = ROOT / "operator"
    expected = {str(path.relative_to(source)) for path in source.rglob("vmaccess/**/*") if path.is_file()}
    expected = {path for path in expected if not fnmatch(path, "*__pycache__*")}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == expected


def test_the_wheel_needs_the_locked_requirements_and_no_more(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    python = str(tmp_path / "venv" / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
    locked = ["--require-hashes", "--only-binary=:all:", "-r", str(ROOT / "requirements" / "operator.txt")]
    subprocess.run([*pip, *locked], check=True)
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    for option, answer in (("--version", f"vmaccess-operator {VERSION}\n"), ("--help", "usage: vmaccess-operator")):
        command = [python, "-I", str(Path(python).with_name("vmaccess-operator")), option]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={})
        assert done.stdout.startswith(answer)
