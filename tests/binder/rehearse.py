"""Rehearse a Binder build without a container engine: `make binder-rehearsal`.

repo2docker, the program that Binder runs, writes the Dockerfile; no engine is needed for that. Then the steps that
this Dockerfile runs inside the image are run here, in a fresh virtual environment which first receives the versions
that the image already holds (read from repo2docker's own lock file). At the end `pip check` looks for contradictions,
the first lesson runs from top to bottom, and JupyterLab must serve it.

Left out: the image's user and paths, and its system packages, whose names only are compared with `binder/apt.txt`
(so `dot` must be installed on this machine).
"""

import argparse
import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LESSON", "ROOT", "Image", "copy_checkout", "environment", "fresh_venv", "main", "run"]

ROOT = Path(__file__).resolve().parents[2]
LESSON = "notebooks/00_what_is_a_pasid.ipynb"
REPO2DOCKER = "jupyter-repo2docker==2026.4.0"
BASE_PACKAGES = ("jupyterlab", "notebook", "jupyter_server", "ipykernel", "ipywidgets")
PASSED_ON = ("HOME", "LANG", "LC_", "PIP_", "REQUESTS_", "SSL_", "XDG_")
LEFT_BY_TOOLS = (".venv", ".git", "__pycache__", ".ipynb_checkpoints", ".hypothesis", ".*_cache", "build", "dist")


@dataclass(frozen=True)
class Image:
    """What repo2docker would build, read from the Dockerfile that it writes."""

    python: str  #: version of the image's Python, as in "3.12"
    system_packages: frozenset[str]  #: installed by apt-get on request of `binder/apt.txt`
    steps: tuple[str, ...]  #: shell lines run after the repository was copied into the image, in order

    @classmethod
    def parse(cls, log: str) -> "Image":
        """Read the output of `repo2docker --no-build --debug`; a ValueError says what is missing in it."""
        python = re.search(r"Building conda environment for python=(\S+)", log)
        packages = re.findall(r"apt-get install --yes --no-install-recommends (.*?) &&", log)
        _, copied, assembly = log.partition("# Run assemble scripts!")
        if not (python and copied):
            raise ValueError(f"repo2docker's output must hold a Dockerfile with assemble steps, not:\n{log}")
        steps = re.findall(r"^RUN (.*(?:(?<=\\)\n.*)*)$", assembly, re.MULTILINE)
        return cls(python[1], frozenset(" ".join(packages).split()), tuple(steps))


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a command and return its output, both streams together; if it fails, show that output in the error."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=cwd, env=env, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(f"exit code {done.returncode} of {' '.join(words)}\n{done.stdout}")
    return done.stdout


def copy_checkout(to: Path) -> Path:
    """Copy the working tree, without what tools leave behind, as Binder would clone it."""
    return Path(shutil.copytree(ROOT, to, ignore=shutil.ignore_patterns(*LEFT_BY_TOOLS)))


def fresh_venv(at: Path, python: str = sys.executable) -> Path:
    """Make an empty virtual environment and return its folder of programs."""
    run(python, "-m", "venv", at)
    return at / "bin"


def environment(programs: Path) -> dict[str, str]:
    """The variables that a step sees: programs of the new environment first, none of this user's Jupyter settings."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    folders = [programs, Path(shutil.which("dot") or "/usr/bin/dot").parent, Path("/usr/bin"), Path("/bin")]
    user = programs.parent / "user"
    return kept | {
        "PATH": ":".join(map(str, folders)),
        "IPYTHONDIR": str(user / "ipython"),
        "JUPYTER_CONFIG_DIR": str(user / "config"),
        "JUPYTER_DATA_DIR": str(user / "data"),
    }


def main(arguments: list[str] | None = None) -> int:
    """Rehearse the whole build and print each step; the exit code is 0 if the lesson can be opened."""
    parser = argparse.ArgumentParser(description="Rehearse a Binder build without a container engine.")
    parser.add_argument("--keep", action="store_true", help="keep the environment that was built, and say where it is")
    options = parser.parse_args(arguments)
    scratch = Path(tempfile.mkdtemp(prefix="pasidlab-binder-"))
    try:
        rehearse(scratch)
    finally:
        if options.keep:
            print(f"kept: {scratch}")
        else:
            shutil.rmtree(scratch)
    return 0


def rehearse(scratch: Path) -> None:
    """Every step, in the order of the real build; the first that fails raises."""
    tools = fresh_venv(scratch / "tools")
    run(tools / "pip", "install", "--quiet", REPO2DOCKER)
    repository = copy_checkout(scratch / "home")
    image = Image.parse(run(tools / "jupyter-repo2docker", "--no-build", "--debug", ".", cwd=repository))
    base = base_versions(tools.parent, image.python)
    print(f"the image: Python {image.python}, {', '.join(base)}, and by apt: {' '.join(sorted(image.system_packages))}")
    asked_for = set((ROOT / "binder/apt.txt").read_text().split())
    if image.system_packages != asked_for:
        raise RuntimeError(f"the image must receive the system packages {asked_for}, not {image.system_packages}")

    programs = fresh_venv(scratch / "venv", interpreter(image.python))
    variables = environment(programs)
    run(programs / "pip", "install", "--quiet", *base, env=variables)
    for step in image.steps:
        print(f"RUN {step}")
        # The image keeps no cache, to stay small; here the cache saves the network.
        line = step.replace("${KERNEL_PYTHON_PREFIX}", str(programs.parent)).replace("--no-cache-dir ", "")
        run("bash", "-c", line, cwd=repository, env=variables)
    print(run(programs / "pip", "check", env=variables).strip())

    run(programs / "jupyter", "execute", LESSON, cwd=repository, env=variables)
    print(f"{LESSON} runs from top to bottom")
    with lab(programs, repository, variables) as address:
        for page in (f"{address}/lab/tree/{LESSON}", f"{address}/api/contents/{LESSON}"):
            with urllib.request.urlopen(page) as answer:
                print(f"{answer.status} {page}")


def base_versions(tools: Path, python: str) -> list[str]:
    """Versions that the image holds before our steps, from the lock file inside repo2docker."""
    files = tools.glob(f"lib/python3*/site-packages/repo2docker/buildpacks/conda/environment.py-{python}-linux-64.lock")
    lock = next(files).read_text()
    found = [(name, re.search(rf"/{name}-([0-9][^-]*)-[^/]*conda", lock)) for name in BASE_PACKAGES]
    return [f"{name}=={version[1]}" for name, version in found if version]


def interpreter(python: str) -> str:
    """The image's Python if this machine has one that starts, else our own; says which."""
    chosen = shutil.which(f"python{python}")
    if not chosen or subprocess.run([chosen, "--version"], check=False, capture_output=True).returncode != 0:
        chosen = sys.executable
    print(f"rehearsed with {run(chosen, '--version').strip()}; the image has Python {python}")
    return chosen


@contextlib.contextmanager
def lab(programs: Path, repository: Path, variables: dict[str, str]) -> Iterator[str]:
    """Serve the repository with the new environment's JupyterLab while the block runs; yields the address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    options = ["--no-browser", "--allow-root", f"--port={port}", "--IdentityProvider.token="]
    log = repository / "jupyter.log"
    with log.open("w") as stream:
        server = subprocess.Popen(
            [programs / "jupyter", "lab", *options], cwd=repository, env=variables, stdout=stream, stderr=stream
        )
        try:
            wait_for(f"{address}/api", log)
            yield address
        finally:
            server.terminate()
            server.wait()


def wait_for(page: str, log: Path) -> None:
    """Return as soon as the page answers; after 30 s without an answer show what the server wrote."""
    for _ in range(150):
        with contextlib.suppress(urllib.error.URLError):
            urllib.request.urlopen(page).close()
            return
        time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not answer at {page}\n{log.read_text()}")


if __name__ == "__main__":
    sys.exit(main())
