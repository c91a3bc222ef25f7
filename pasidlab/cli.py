"""The command line: list the stories, run one, compare the IOMMUs, open the lab.

``pasidlab run two-vms`` prints the story's captions and, under each, the ladder of events as text. The exit status says
whether the story held: 0 yes, 1 an expectation or an invariant broke, 2 the command was not understood.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]

_PIPE_CLOSED = 141
"""What a shell reports of a program that SIGPIPE has ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an arrow that the terminal does not have must not end a story
    try:
        status = _command(argv)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read this has seen enough: `pasidlab stories | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    return status


def _command(argv: Sequence[str] | None) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    if options.command == "stories":
        return _stories()
    if options.command == "run":
        return _run(options.story, quiet=options.quiet)
    if options.command == "compare":
        return _compare(options.step)
    if options.command == "deviations":
        return _deviations(markdown=options.markdown)
    if options.command == "lab":
        return _lab(options.arguments)
    parser.print_help()
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pasidlab", description="An executable model of PASID management in KVM.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("stories", help="list the stories")
    run = commands.add_parser("run", help="run a story and print its ladder of events")
    run.add_argument("story", help="the story's name, as `pasidlab stories` lists it")
    run.add_argument("-q", "--quiet", action="store_true", help="captions only")
    compare = commands.add_parser("compare", help="the same guest on every IOMMU: what each step costs")
    compare.add_argument("--step", default="", help="the price of this step only, as in: compare --step bind")
    deviations = commands.add_parser("deviations", help="list where the real code and its documents differ")
    deviations.add_argument("--markdown", action="store_true", help="as the table of the documentation")
    lab = commands.add_parser("lab", help="open the first lesson in JupyterLab")
    lab.add_argument("arguments", nargs=argparse.REMAINDER, help="handed on to JupyterLab, as in: lab --no-browser")
    return parser


def _stories() -> int:
    from pasidlab.stories import STORIES

    for story in STORIES.values():
        print(f"{story.name:<20}{story.title}  ({', '.join(story.points)})")
    return 0


def _run(name: str, *, quiet: bool) -> int:
    from pasidlab.stories import STORIES, StoryBroken, play
    from pasidlab.views import ladder_text
    from pasidlab.views.flow import flow

    story = STORIES.get(name)
    if story is None:
        print(f"the story must be one of {', '.join(STORIES)}, not {name!r}", file=sys.stderr)
        return 2
    print(f"{story.title}\n{'=' * len(story.title)}")
    steps = 0
    try:
        for chapter in play(story):
            print(f"\n{chapter.caption}\n")
            steps += len(chapter.events)
            if chapter.events and not quiet:
                print("\n".join(ladder_text(flow(chapter.events, "")).splitlines()[1:]))
    except StoryBroken as broken:
        print(f"\nBROKEN: {broken}", file=sys.stderr)
        return 1
    when = "at its end" if story.leaves else "after each chapter"
    print(f"\nThe story held: {steps} steps, every invariant true {when}.")
    return 0


def _compare(step: str) -> int:
    from pasidlab.stories.compare import compare_machines
    from pasidlab.views.compare import prices, steps, tries, writers
    from pasidlab.views.compare_words import STEPS
    from pasidlab.views.table import table_text

    if step not in ("", *STEPS):
        print(f"the step must be one of {', '.join(STEPS)}, not {step!r}", file=sys.stderr)
        return 2
    found = compare_machines()
    print(table_text(prices(found, step)))
    if not step:
        for table in (*(steps(found, count) for count in ("traps", "host_words", "guest_words")), writers(found)):
            print(f"\n{table_text(table)}")
        print(f"\n{tries(found).title}")
        for row in tries(found).rows:
            print(f"\n{row.cells[0]}")
            for one, cell in zip(found.played, row.cells[1:], strict=True):
                print(f"  {one.machine.iommu:<8}{cell}")
    return 0


def _deviations(*, markdown: bool) -> int:
    from pasidlab.deviations import DEVIATIONS

    print(deviations_markdown() if markdown else "\n\n".join(map(str, DEVIATIONS)))
    return 0


def deviations_markdown() -> str:
    """The table of deviations as the documentation shows it."""
    from pasidlab.deviations import DEVIATIONS

    lines = [
        "| subject | what the code did | what the documents say | the model | facts | breaks |",
        "|" + " --- |" * 6,
    ]
    for row in DEVIATIONS:
        subject = f"{row.subject} `{row.name}`"
        lines.append(f"| {subject} | {row.code} | {row.documents} | {row.model} | {row.source} | {row.effect} |")
    return "\n".join(lines)


def _lab(arguments: list[str]) -> int:
    if importlib.util.find_spec("jupyterlab") is None:
        print("the lab must be installed first: pip install 'pasidlab[lab]'", file=sys.stderr)
        return 2
    lesson = _lessons() / "00_what_is_a_pasid.ipynb"
    return subprocess.run([sys.executable, "-m", "jupyterlab", *arguments, str(lesson)], check=False).returncode


def _lessons() -> Path:
    """The folder of lessons: the repository's, or a copy of the installed ones in the current folder."""
    package = Path(__file__).parent
    if (source := package.parent / "notebooks").is_dir():
        return source
    target = Path.cwd() / "pasidlab-lessons"
    if not target.exists():
        shutil.copytree(package / "lessons", target)
    return target


if __name__ == "__main__":
    raise SystemExit(main())
