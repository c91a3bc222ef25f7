"""The talk's chapters as short scripts over the public API; notebooks, tests and the command line share them."""

from typing import Final

from pasidlab.stories.native import NATIVE
from pasidlab.stories.physical_function import PHYSICAL_FUNCTION
from pasidlab.stories.story import Chapter, Story, StoryBroken, expect, play
from pasidlab.stories.two_vms import TWO_VMS

__all__ = ["STORIES", "Chapter", "Story", "StoryBroken", "expect", "play"]

STORIES: Final[dict[str, Story]] = {story.name: story for story in (NATIVE, TWO_VMS, PHYSICAL_FUNCTION)}
"""Every story by its name on the command line, in the order in which to read them."""
