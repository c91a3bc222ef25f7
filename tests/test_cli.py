"""The command line: what it prints, and what its exit status says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pasidlab import Machine, cli, stories
from pasidlab.hardware.iommu.families import FAMILIES
from pasidlab.stories import STORIES, Story
from pasidlab.views.compare_words import STEPS, TRIES
from pasidlab.views.price import WORDS


def test_run_prints_the_ladder_and_ends_with_zero(capsys: pytest.CaptureFixture[str]) -> None:
    """`pasidlab run two-vms` prints captions and the ladder of events, and says that the story held."""
    assert cli.main(["run", "two-vms"]) == 0
    printed = capsys.readouterr().out
    assert "Two VMs, one guest PASID, one shared queue" in printed
    assert "notify: BIND of IOASID 3" in printed
    assert "every invariant true" in printed


def test_quiet_prints_captions_only(capsys: pytest.CaptureFixture[str]) -> None:
    """`-q` leaves the ladders out."""
    assert cli.main(["run", "-q", "two-vms"]) == 0
    assert "notify" not in capsys.readouterr().out


def test_a_broken_invariant_makes_the_exit_status_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A story whose world is not in order exits with 1 and names the rule."""

    def tell(m: Machine) -> Iterator[str]:
        yield "somebody loses count"
        m.kernel.ioasid.capacity.available -= 1

    monkeypatch.setitem(stories.STORIES, "broken", Story("broken", "Broken", (), tell))
    assert cli.main(["run", "broken"]) == 1
    assert "invariant 5" in capsys.readouterr().err


def test_an_unknown_story_is_refused_with_the_names_of_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2, and what could have been meant."""
    assert cli.main(["run", "no-such-story"]) == 2
    message = capsys.readouterr().err
    assert all(name in message for name in STORIES)


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2 and the list of commands."""
    assert cli.main([]) == 2
    assert "stories" in capsys.readouterr().out


def test_the_list_of_stories_names_the_points_of_the_talk(capsys: pytest.CaptureFixture[str]) -> None:
    """Every story with its name, its title and its points."""
    assert cli.main(["stories"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed and story.title in printed for name, story in STORIES.items())


def test_compare_prints_the_price_on_every_iommu(capsys: pytest.CaptureFixture[str]) -> None:
    """`pasidlab compare`: every count, every step, every refusal with its reason."""
    assert cli.main(["compare"]) == 0
    printed = capsys.readouterr().out
    assert all(family.title in printed for family in FAMILIES.values())
    assert all(title in printed for title, _ in STEPS.values())
    assert all(words in printed for words in (*WORDS.values(), *TRIES.values()))
    assert "-EOPNOTSUPP" in printed


def test_compare_prints_one_step(capsys: pytest.CaptureFixture[str]) -> None:
    """`--step`: its price alone; an unknown one is refused with the names of the others."""
    assert cli.main(["compare", "--step", "bind"]) == 0
    printed = capsys.readouterr().out
    assert STEPS["bind"][0] in printed
    assert STEPS["copy"][0] not in printed
    assert cli.main(["compare", "--step", "no-such-step"]) == 2
    refused = capsys.readouterr().err
    assert all(name in refused for name in STEPS)


def test_the_package_runs_as_a_module() -> None:
    """`python -m pasidlab` is the same command."""
    done = subprocess.run(
        [sys.executable, "-m", "pasidlab", "run", "-q", "native"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stderr == ""


def test_a_terminal_without_arrows_does_not_end_a_story() -> None:
    """What the encoding of stdout lacks is replaced; the exit status still speaks of the story."""
    command = [sys.executable, "-m", "pasidlab", "run", "two-vms"]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, capture_output=True, check=False, env=environment)
    assert done.returncode == 0
    assert done.stderr == b""


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """`pasidlab stories | head -1` ends without a traceback."""
    command = f"{sys.executable} -m pasidlab run two-vms | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (len(done.stdout.splitlines()), done.stderr) == (1, "")
