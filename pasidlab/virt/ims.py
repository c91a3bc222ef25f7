"""The interrupts of one assignable interface: its virtual MSI-X vectors, and the parent's message storage behind them.

Models the interrupt part of ``drivers/vfio/mdev/idxd`` (never merged). The guest writes messages into the virtual MSI-X
table and PASIDs into the virtual MSI-X permission entries; both are only stored. When the guest unmasks a vector, the
hypervisor has it wired (VFIO_DEVICE_SET_IRQS): an entry of the parent's interrupt message storage gets a message for
the host, and the *host* PASID that stands for the guest's, with a reference; the host's handler passes the interrupt on
to the guest. Where the guest's entry names no PASID, the VM's default PASID is used, without reference.

Vector 0 is emulated: no descriptor can raise it. The guest asks with REQUEST_INT_HANDLE which handle its descriptors
have to name for a vector: the number of the parent's entry.

The reference goes after the entry was cleared, by whatever ends it (mask, reset, UNBIND, FREE, close). The code took it
and never dropped it.

UNVERIFIED: that masking a vector ends its wiring (so QEMU does with MSI-X); that the guest's ``ignore`` bit is not
handed on (the code reads PASID and PASID enable only; handed on, other VMs could interrupt this one); which errors the
hypervisor gets (``-ENXIO`` for a PASID that the VM does not have is that of the look-up).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.errors import KernelError
from pasidlab.hardware.accelerator import register_map as at
from pasidlab.hardware.accelerator.interrupts import ims_offset
from pasidlab.hardware.cpu import INTERRUPT_BASE
from pasidlab.hardware.layouts.dsa import IMS_ENTRY
from pasidlab.timeline import Part, Table, Verb

if TYPE_CHECKING:
    from pasidlab.hardware.cpu import LocalApic
    from pasidlab.kernel.kernel import Kernel
    from pasidlab.virt.vdcm import MediatedDevice

__all__ = ["InterfaceInterrupts", "Message", "Wired"]

_FIRST_VECTOR: Final = 0x40
_VECTORS: Final = 0x100


class Message(NamedTuple):
    """What a vector's interrupt writes, and where."""

    address: int
    data: int


class Wired(NamedTuple):
    """A vector that has an entry of the parent: which, by which of the host's vectors, with which PASID.

    ``held``: the PASID for which a reference is held; ``None`` for the default PASID.
    """

    entry: int
    host_vector: int
    message: Message
    held: int | None


class Forward(Part):
    """The host's handler of one vector: the eventfd through which KVM interrupts the guest."""

    def __init__(self, interface: MediatedDevice, vector: int, message: Message, apic: LocalApic) -> None:
        super().__init__(interface.timeline, f"{interface.path}.vector{vector}")
        self._interface = interface
        self._vector = vector
        self._message = message
        self._apic = apic

    def interrupt(self) -> None:
        """Pass it on."""
        words, after = f"{self._interface.name} vector {self._vector}", f"guest vector {self._message.data:#x}"
        event = self._interface.emit(Verb.INTERRUPT, words, None, after, vector=self._vector)
        with self.timeline.because(event):
            self._apic.message(self._message.address, self._message.data)


class InterfaceInterrupts(Part):
    """One interface's vectors; ``wired`` holds those that have an entry of the parent."""

    def __init__(self, interface: MediatedDevice, kernel: Kernel) -> None:
        super().__init__(interface.timeline, f"{interface.path}.vectors")
        self._interface = interface
        self._kernel = kernel
        self.wired = Table[int, Wired](interface.timeline, f"{self.path}.wired")

    @property
    def holder(self) -> str:
        """The name under which PASIDs of interrupts are held."""
        return f"ims:{self._interface.name}"

    def wire(self, vector: int, message: Message, apic: LocalApic) -> None:
        """Let a vector interrupt the guest whose ``apic`` it is (VFIO_DEVICE_SET_IRQS with an eventfd); anew if it did.

        ``-EINVAL`` no such vector, or the emulated one; ``-ENXIO`` the permission entry names a PASID that the VM does
        not have; ``-ENOSPC`` no entry of the parent, or no vector of the host, is free.
        """
        if not 1 <= vector <= self._interface.num_wqs:
            raise KernelError("EINVAL", f"{self._interface.name} must be wired by a vector from 1 on, not {vector}")
        self.unwire(vector)
        entry, host_vector = self._free_entry(), self._free_vector()
        pasid, held = self._pasid(vector)
        self._kernel.platform.apic.handlers[host_vector] = Forward(self._interface, vector, message, apic)
        self._program(entry, IMS_ENTRY.encode(address=INTERRUPT_BASE, data=host_vector, pasid_en=1, pasid=pasid))
        self.wired[vector] = Wired(entry, host_vector, message, held)
        facts = {"vector": vector, "entry": entry, "pasid": pasid}
        words = f"{self._interface.parent.name} IMS entry {entry} for vector {vector} of {self._interface.name}"
        self._interface.emit(Verb.PROGRAM, words, "off", f"PASID {pasid}", **facts)

    def unwire(self, vector: int, *, locked: bool = False) -> None:
        """Take a vector's entry away and let go of its PASID; ``locked``: a handler of the IOASID core asks for it."""
        if vector not in self.wired:
            return
        wired = self.wired.pop(vector)
        self._program(wired.entry, (0, 0))
        del self._kernel.platform.apic.handlers[wired.host_vector]
        words = f"{self._interface.parent.name} IMS entry {wired.entry} for vector {vector} of {self._interface.name}"
        self._interface.emit(Verb.PROGRAM, words, None, "off", vector=vector, entry=wired.entry)
        if wired.held is not None:
            self._let_go(wired.held, locked)

    def unwire_all(self) -> None:
        """All vectors: the interface is reset or closed."""
        for vector in self.wired.keys():
            self.unwire(vector)

    def unwire_pasid(self, host_pasid: int, *, locked: bool = False) -> bool:
        """The vectors of one PASID, which ends; whether there were any."""
        ending = [vector for vector, wired in self.wired.items() if wired.held == host_pasid]
        for vector in ending:
            self.unwire(vector, locked=locked)
        return bool(ending)

    def handle(self, vector: int) -> int | None:
        """The interrupt handle that descriptors name for a vector; ``None`` while it is not wired."""
        wired = self.wired.get(vector)
        return None if wired is None else wired.entry

    def _let_go(self, host_pasid: int, locked: bool) -> None:
        """Drop the reference that :meth:`_pasid` took, after hardware was told."""
        core = self._kernel.ioasid
        (core.put_locked if locked else core.put)(host_pasid, self.holder)

    def _pasid(self, vector: int) -> tuple[int, int | None]:
        """The PASID that may raise a vector, and again if a reference was taken for it."""
        allowed = self._interface.interrupts.permission(False, vector)
        if allowed is None or allowed.pasid is None:
            return self._interface.default_pasid, None
        host_pasid = self._interface.convert(allowed.pasid, self.holder)
        if host_pasid is None:
            raise KernelError("ENXIO", f"vector {vector} must belong to a PASID of the VM, not to {allowed.pasid}")
        return host_pasid, host_pasid

    # --- the parent's entries and the host's vectors ----------------------------------------------------------------

    def _free_entry(self) -> int:
        """An entry without address is nobody's: all interfaces of the parent program theirs before they use them."""
        for entry in range(at.IMS_ENTRIES):
            if not self._kernel.platform.mmio.read(self._interface.parent.bar0 + ims_offset(entry)):
                return entry
        raise KernelError("ENOSPC", f"{self._interface.parent.name} must have a free entry of message storage")

    def _free_vector(self) -> int:
        handlers = self._kernel.platform.apic.handlers
        for vector in range(_FIRST_VECTOR, _VECTORS):
            if vector not in handlers:
                return vector
        raise KernelError("ENOSPC", "the host must have a free interrupt vector")

    def _program(self, entry: int, words: tuple[int, ...]) -> None:
        """The address first: without one an entry sends nothing, whatever else it says."""
        for index, word in enumerate(words):
            self._kernel.platform.mmio.write(self._interface.parent.bar0 + ims_offset(entry) + 8 * index, word)
