"""Draw the pictures of README and docs from the model itself: `make pictures`.

They are committed, because the pages that show them run nothing; a test compares what they say with what the model
says now.
"""

from __future__ import annotations

from pathlib import Path

from pasidlab import Machine
from pasidlab.stories import STORIES
from pasidlab.views import Figure, svg
from pasidlab.views.machine_map import machine_map
from pasidlab.views.mapping import guest_to_host

HERE = Path(__file__).parent
_CHAPTER = "Neither can reach"


def figures() -> dict[str, Figure]:
    """Every picture by its file name: the two-VM story at the moment when both guests are bound and have copied."""
    m = Machine()
    for caption in STORIES["two-vms"].tell(m):
        if caption.startswith(_CHAPTER):
            break
    return {"two-vms.svg": machine_map(m), "guest-to-host.svg": guest_to_host(m)}


def main() -> None:
    """Write the files."""
    for name, figure in figures().items():
        (HERE / name).write_text(svg(figure) + "\n")


if __name__ == "__main__":
    main()
