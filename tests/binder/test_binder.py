"""What can be known about the Binder image in a minute, without building it; `rehearse.py` builds the rest."""

import json
import os
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from tests.binder.rehearse import LESSON, ROOT, Image, copy_checkout, environment, fresh_venv, run

BINDER = ROOT / "binder"

DOCKERFILE = """\
Building conda environment for python=3.12
RUN apt-get -qq update && \\
apt-get install --yes --no-install-recommends fonts-dejavu-core graphviz && \\
apt-get -qq clean
# Run assemble scripts! These will actually turn the specification
USER ${NB_USER}
RUN ${KERNEL_PYTHON_PREFIX}/bin/pip install -r "binder/requirements.txt"
RUN chmod +x binder/postBuild && \\
    true
RUN ./binder/postBuild
"""


def test_the_image_is_read_from_the_dockerfile() -> None:
    """Python, system packages and the steps after the copy, each step with its continuation lines."""
    image = Image.parse(DOCKERFILE)
    assert image.python == "3.12"
    assert image.system_packages == {"graphviz", "fonts-dejavu-core"}
    assert image.steps == (
        '${KERNEL_PYTHON_PREFIX}/bin/pip install -r "binder/requirements.txt"',
        "chmod +x binder/postBuild && \\\n    true",
        "./binder/postBuild",
    )


def test_output_without_a_dockerfile_is_refused() -> None:
    """The refusal shows the output, which says what repo2docker disliked."""
    with pytest.raises(ValueError, match="must hold a Dockerfile with assemble steps, not:\nno such folder"):
        Image.parse("no such folder")


def test_the_image_runs_a_python_that_the_package_accepts() -> None:
    """`runtime.txt` names at least the lowest version of `requires-python`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lowest = project["requires-python"].removeprefix(">=")
    image = (BINDER / "runtime.txt").read_text().strip().removeprefix("python-")
    assert [int(part) for part in image.split(".")] >= [int(part) for part in lowest.split(".")]


def test_dot_comes_from_the_system() -> None:
    """Graphs need the program `dot`, which pip cannot bring."""
    assert "graphviz" in (BINDER / "apt.txt").read_text().split()


def test_the_last_step_can_be_executed() -> None:
    """`postBuild` is a program: executable, with a first line that names its interpreter."""
    script = BINDER / "postBuild"
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/bin/bash\n")


def test_the_badge_opens_a_lesson_that_exists() -> None:
    """Every Binder link of the README leads to a notebook in this repository, the first of them to the first lesson."""
    opened = re.findall(r"mybinder\.org/v2/\S*?urlpath=lab/tree/([^\s)\"]+)", (ROOT / "README.md").read_text())
    assert opened[:1] == [LESSON]
    assert [name for name in opened if not (ROOT / name).is_file()] == []


@pytest.mark.slow
def test_the_commands_of_binder_work_in_a_fresh_environment(tmp_path: Path) -> None:
    """Binder's two commands: afterwards both packages come from the environment, and nobody asks for news."""
    repository = copy_checkout(tmp_path / "home")
    programs = fresh_venv(tmp_path / "venv")
    variables = environment(programs)
    run(programs / "pip", "install", "--quiet", "-r", "binder/requirements.txt", cwd=repository, env=variables)
    run("binder/postBuild", cwd=repository, env=variables)

    where = "import pasidlab, pasidlab_widgets as w; print(pasidlab.__file__, w.__file__)"
    files = shlex.split(run(programs / "python", "-c", where, cwd=repository / "notebooks", env=variables))
    assert [Path(name).is_relative_to(tmp_path / "venv") for name in files] == [True, True]

    settings = json.loads((tmp_path / "venv/share/jupyter/lab/settings/overrides.json").read_text())
    assert settings["@jupyterlab/apputils-extension:notification"] == {"fetchNews": "false", "checkForUpdates": False}
