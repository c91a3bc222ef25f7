"""Who owns a hypervisor's PASIDs, and the two ways to ask for one: a VFIO container, or the device file /dev/ioasid.

Models ``drivers/iommu/ioasid_user.c`` of the V4 series (patch 18, never merged) and its ancestor, the ``vfio_mm`` of
the v6 VFIO series: per process one ioasid_set (token: the mm), the list of its PASIDs, and a count of the files that
use it. With the stand-alone API the hypervisor opens ``/dev/ioasid`` first, and VFIO takes one more reference: the set
survives until both files are gone, in whatever order they are closed.

Every failure of the core arrives as ``-EINVAL`` here, a used-up quota too (VFIO says ``-ENOSPC``). A file that was
handed to another process is documented as not usable. What enforces it is the quota policy: a control group charges
nobody but the owner; the other policies let it pass, and free is protected by none (READING). The quota of a set was
the constant 1000; here it is the administrator's number, since who sets it is the question.

Not modelled: argument structures as bytes (their sizes and flags are arguments); access modes (the node is 0666).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from pasidlab.errors import KernelError
from pasidlab.kernel.ioasid.core import IoasidRefused
from pasidlab.timeline import Actor, Part, Table, Verb

if TYPE_CHECKING:
    from pasidlab.kernel.kernel import Kernel
    from pasidlab.kernel.process import Process
    from pasidlab.timeline import Event

__all__ = [
    "API_VERSION",
    "HOLDER",
    "ID_BITS",
    "USER_QUOTA",
    "Info",
    "IoasidDevice",
    "IoasidFile",
    "IoasidUser",
    "PasidSource",
]

HOLDER: Final = "dev-ioasid"
API_VERSION: Final = 0
"""UNVERIFIED: the sources say that a version is returned, not which."""
ID_BITS: Final = 31
USER_QUOTA: Final = 1000
"""The constant of the code."""
_INFO_SIZE: Final = 12
_ALLOC_SIZE: Final = 16
"""Smallest ``argsz`` of GET_INFO and REQUEST_ALLOC: UNVERIFIED, the sum of the fields that the sources name."""


class PasidSource(Protocol):
    """Where an emulated IOMMU gets host PASIDs from: a container, or a file of /dev/ioasid."""

    def pasid_alloc(self, minimum: int, maximum: int, current: Part | None = None) -> int:
        """A host PASID in the inclusive range. Errors: the interface's own."""

    def pasid_free(self, minimum: int, maximum: int) -> None:
        """Free this VM's host PASIDs in the inclusive range."""


class IoasidUser(Part, state=("users",)):
    """One process's ioasid_set and its PASIDs; ``users`` are the names of the files that keep it.

    ``holder`` is whose first reference the PASIDs carry: that of the interface through which they are allocated.
    """

    def __init__(self, kernel: Kernel, mm: Part, name: str, quota: int, holder: str) -> None:
        super().__init__(kernel.timeline, f"{kernel.altitude}.ioasid-user[{name}]")
        self._kernel = kernel
        self._core = kernel.ioasid
        self.mm = mm
        self.holder = holder
        self._core.slab.alloc("struct ioasid_user")
        self.set = self._core.policy.make_set(name, mm, quota)
        self.pasids = Table[int, bool](self.timeline, f"{self.path}.pasids")
        self.users: tuple[str, ...] = (holder,)

    # --- PASIDs -------------------------------------------------------------------------------------------------------

    def alloc(self, minimum: int, maximum: int, current: Part | None) -> int:
        """An ID of the set, charged to ``current`` (default: the owner). Raises what the core raises; ``-ENOMEM``: it
        could not be written down and was given back.
        """
        current = self.mm if current is None else current
        ioasid = self._core.alloc(self.set, minimum, maximum, self.holder, current=current)
        try:
            self._core.slab.alloc("the list of a user's IOASIDs")
        except KernelError:
            self._core.free(self.set, ioasid)
            raise
        self.pasids[ioasid] = True
        return ioasid

    def free(self, ioasid: int) -> None:
        """Give one back; one that is not this user's is left alone, and the core says so."""
        if ioasid in self.pasids:
            del self.pasids[ioasid]
        self._core.free(self.set, ioasid)

    # --- users --------------------------------------------------------------------------------------------------------

    def get(self, user: str) -> IoasidUser:
        """One more file uses it."""
        self.users = (*self.users, user)
        return self

    def put(self, user: str) -> None:
        """A file is closed. The last one frees every ID, then the set; with IDs that wait for others the set is only
        marked (-EBUSY, told as an event) and ends with the last of them.
        """
        left = list(self.users)
        left.remove(user)
        self.users = tuple(left)
        if left:
            return
        for ioasid in self.pasids.keys():
            del self.pasids[ioasid]
        self._core.free_all(self.set)
        try:
            self._core.sets.free(self.set)
        except KernelError as pending:
            self._kernel.timeline.emit(
                self._kernel.altitude, user, Verb.REFUSE, pending.reason, after=f"-{pending.name}"
            )
        self.retire()

    def __repr__(self) -> str:
        used = "gone" if self.retired else f"{len(self.pasids)} PASIDs, used by {', '.join(self.users)}"
        return f"<ioasid_user of {self.set.name}: {used}>"


class Info(NamedTuple):
    """What GET_INFO reports."""

    flags: int
    ioasid_bits: int


class IoasidDevice(Actor):
    """The character device: one open file a process at most."""

    actor = HOLDER

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel.timeline, f"{kernel.altitude}.dev-ioasid", kernel.altitude)
        self._kernel = kernel
        self.files = Table[str, IoasidFile](self.timeline, f"{self.path}.files")

    def open(self, process: Process, name: str, quota: int = USER_QUOTA) -> IoasidFile:
        """Open the device and make the process's set; the caller puts the file into its table of files.

        Errors: ``-EBUSY`` the process has it open; ``-ENOMEM``; those of the policy's ``make_set``.
        """
        if process.mm.path in self.files:
            raise KernelError("EBUSY", f"{process.name} has /dev/ioasid open already: once for each process")
        event = self.emit(Verb.OPEN, f"/dev/ioasid for {name}")
        with self.timeline.because(event):
            user = IoasidUser(self._kernel, process.mm, name, quota, HOLDER)
        file = IoasidFile(self, user)
        self.files[process.mm.path] = file
        return file

    def user_of(self, mm: Part) -> IoasidUser:
        """What a process has open, for VFIO to share. ``-EINVAL`` nothing (UNVERIFIED: the errno)."""
        file = self.files.get(mm.path)
        if file is None:
            raise KernelError("EINVAL", "/dev/ioasid must be open before a VFIO container can use its set")
        return file.user


class IoasidFile(Actor, state=("open",)):
    """An open file of /dev/ioasid. ``current`` is the mm of the calling process, by default that of the opener."""

    actor = HOLDER

    def __init__(self, device: IoasidDevice, user: IoasidUser) -> None:
        super().__init__(device.timeline, f"{device.path}.file[{user.set.name}]", device.altitude)
        self._device = device
        self.user = user
        self.open = True

    # --- ioctls -------------------------------------------------------------------------------------------------------

    def get_api_version(self) -> int:
        """GET_API_VERSION."""
        self._ioctl("GET_API_VERSION")
        return API_VERSION

    def get_info(self, argsz: int = _INFO_SIZE, flags: int = 0) -> Info:
        """GET_INFO: how many bits an ID has. ``-EINVAL`` argsz too short, or flags."""
        self._ioctl("GET_INFO")
        self._check(argsz, _INFO_SIZE, flags)
        return Info(0, ID_BITS)

    def request_alloc(
        self, minimum: int, maximum: int, current: Part | None = None, argsz: int = _ALLOC_SIZE, flags: int = 0
    ) -> int:
        """REQUEST_ALLOC: an ID in the inclusive range.

        Errors: ``-EINVAL`` argsz or flags; min above max, or either not of 31 bits; any failure of the core.
        """
        event = self._ioctl("REQUEST_ALLOC", min=minimum, max=maximum)
        self._check(argsz, _ALLOC_SIZE, flags)
        whole = type(minimum) is type(maximum) is int
        if not (whole and 0 <= minimum <= maximum < 1 << ID_BITS):
            raise KernelError(
                "EINVAL", f"the range must be min <= max, both of {ID_BITS} bits, not [{minimum!r}, {maximum!r}]"
            )
        with self.timeline.because(event):
            try:
                return self.user.alloc(minimum, maximum, current)
            except IoasidRefused as refusal:
                raise KernelError("EINVAL", str(refusal)) from None
            except KernelError as failure:
                raise KernelError("EINVAL", f"{failure.reason} (-{failure.name} inside)") from None

    def request_free(self, ioasid: int) -> int:
        """REQUEST_FREE: 0, also for an ID that is unknown or somebody else's; whoever has the file may. ``-EINVAL``
        negative.
        """
        event = self._ioctl("REQUEST_FREE", ioasid=ioasid)
        if type(ioasid) is not int or ioasid < 0:
            raise KernelError("EINVAL", f"an ID must be a number, 0 or more, not {ioasid!r}")
        with self.timeline.because(event):
            self.user.free(ioasid)
        return 0

    def ioctl(self, command: int) -> int:
        """A command that does not exist: ``-EINVAL``."""
        self._ioctl(f"command {command:#x}")
        raise KernelError("EINVAL", f"/dev/ioasid knows no command {command:#x}")

    def _ioctl(self, what: str, **facts: object) -> Event:
        if self.retired:
            raise KernelError("EBADF", f"/dev/ioasid of {self.user.set.name} was closed")
        return self.emit(Verb.IOCTL, what, **facts)

    @staticmethod
    def _check(argsz: int, least: int, flags: int) -> None:
        if type(argsz) is not int or argsz < least:
            raise KernelError("EINVAL", f"argsz must be at least {least}, not {argsz!r}")
        if type(flags) is not int or flags:
            raise KernelError("EINVAL", f"the flags must be 0, not {flags!r}")

    # --- as a hypervisor uses it --------------------------------------------------------------------------------------

    def pasid_alloc(self, minimum: int, maximum: int, current: Part | None = None) -> int:
        """What an emulated IOMMU asks for."""
        return self.request_alloc(minimum, maximum, current)

    def pasid_free(self, minimum: int, maximum: int) -> None:
        """Free by number, one call each."""
        for ioasid in self.user.pasids.keys():
            if minimum <= ioasid <= maximum:
                self.request_free(ioasid)

    def close(self) -> None:
        """The file descriptor is closed: one user less."""
        event = self.emit(Verb.CLOSE, f"/dev/ioasid of {self.user.set.name}")
        with self.timeline.because(event):
            del self._device.files[self.user.mm.path]
            self.user.put(HOLDER)
            self.retire()

    def __repr__(self) -> str:
        return f"<file of /dev/ioasid for {self.user.set.name}>"
