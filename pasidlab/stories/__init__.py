"""The talk's chapters as short scripts over the public API; notebooks, tests and the command line share them."""

from typing import Final

from pasidlab.stories.administrators import DEV_IOASID, QUOTA_CGROUP, QUOTA_FIXED, QUOTA_RLIMIT
from pasidlab.stories.coexistence import COEXISTENCE
from pasidlab.stories.compare import COMPARE
from pasidlab.stories.conflict import CONFLICT
from pasidlab.stories.default_pasid import DEFAULT_PASID
from pasidlab.stories.free_before_unbind import FREE_BEFORE_UNBIND
from pasidlab.stories.guest_life import GUEST_LIFE
from pasidlab.stories.guest_sva import GUEST_SVA
from pasidlab.stories.native import NATIVE
from pasidlab.stories.page_request import PAGE_REQUEST
from pasidlab.stories.physical_function import PHYSICAL_FUNCTION
from pasidlab.stories.policies import COMPARED
from pasidlab.stories.process_exit import PROCESS_EXIT
from pasidlab.stories.shadow import SHADOW
from pasidlab.stories.stale import STALE
from pasidlab.stories.story import Chapter, Story, StoryBroken, expect, play
from pasidlab.stories.table_owner import TABLE_OWNER
from pasidlab.stories.teardown import TEARDOWN
from pasidlab.stories.two_numbers import TWO_NUMBERS
from pasidlab.stories.two_vms import TWO_VMS
from pasidlab.stories.vm_exit import VM_EXIT
from pasidlab.stories.walk import WALK
from pasidlab.stories.whole_table import WHOLE_TABLE

__all__ = ["STORIES", "Chapter", "Story", "StoryBroken", "expect", "play"]

_TALK: Final = (NATIVE, TWO_VMS, PHYSICAL_FUNCTION, GUEST_LIFE, FREE_BEFORE_UNBIND, PROCESS_EXIT, VM_EXIT)
_SIOV: Final = (DEFAULT_PASID, COEXISTENCE, SHADOW, TWO_NUMBERS, CONFLICT, COMPARED)
_TABLES: Final = (WALK, STALE, PAGE_REQUEST, TEARDOWN)
_QUESTIONS: Final = (QUOTA_FIXED, QUOTA_RLIMIT, QUOTA_CGROUP, DEV_IOASID)
_OWNERS: Final = (*TABLE_OWNER, *GUEST_SVA, *WHOLE_TABLE, COMPARE)

STORIES: Final[dict[str, Story]] = {story.name: story for story in (*_TALK, *_SIOV, *_TABLES, *_OWNERS, *_QUESTIONS)}
"""Every story by its name on the command line, in the order in which to read them."""
