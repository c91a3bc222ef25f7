"""A process: an address space, a name, and the PASID state that the CPU loads when it runs.

Models ``task_struct`` as far as SVA needs it: the mm, and the IA32_PASID part of the extended state (XSAVE component
10). Processes have one thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pasidlab.errors import KernelError
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.hardware.paging import X86, PagingFormat
from pasidlab.kernel.mm import Mm
from pasidlab.timeline import Actor, Table

if TYPE_CHECKING:
    from pasidlab.kernel.pages import PageAllocator
    from pasidlab.timeline import Timeline

__all__ = ["File", "Process"]


class File(Protocol):
    """Something open that the kernel closes when its process ends."""

    path: str

    def close(self) -> None:
        """Let go of everything that was held through this file."""


class Process(Actor, state=("_used", "ia32_pasid")):
    """A running program. ``ia32_pasid`` is the value of the MSR whenever this process runs."""

    actor = "app"

    def __init__(
        self,
        timeline: Timeline,
        path: str,
        altitude: str,
        pid: int,
        name: str,
        pages: PageAllocator,
        form: PagingFormat = X86,
    ) -> None:
        super().__init__(timeline, path, altitude)
        self.pid = pid
        self.name = name
        self.mm = Mm(timeline, f"{path}.mm", pages, form)
        self.ia32_pasid = 0
        self.files: Table[int, File] = Table(timeline, f"{path}.files")
        try:
            self._records = self.mm.mmap(PAGE_SIZE)
        except KernelError:
            self.mm.exit()
            self.mm.drop()
            self.retire()
            raise
        self._used = 0

    def open_file(self, file: File) -> int:
        """Give the process a file; returns its descriptor."""
        number = next(at for at in range(len(self.files) + 1) if at not in self.files)
        self.files[number] = file
        return number

    def close_file(self, number: int) -> None:
        """Close one file."""
        self.files.pop(number).close()

    def completion_slot(self) -> int:
        """Where the next completion record goes, in the program's own memory; 128 take turns in one page."""
        return self._records + 32 * self._used

    def use_completion_slot(self) -> None:
        """The slot was given away with a descriptor; the next one gets another."""
        self._used = (self._used + 1) % (PAGE_SIZE // 32)

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return not self.retired

    def __repr__(self) -> str:
        return f"<process {self.pid} {self.name} on {self.altitude}{'' if self.alive else ', exited'}>"
