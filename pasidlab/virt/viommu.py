"""The emulated VT-d unit that a guest sees: a register block whose writes trap to the hypervisor.

Models QEMU's ``hw/i386/intel_iommu.c`` with the vSVA series (RFC v7, 2020). Two traps carry the whole of guest SVA on
VT-d:

* a **virtual command** (allocate or free a PASID) becomes a VFIO request, or one to /dev/ioasid;
* a **PASID-cache invalidation**, which the guest must send even for an entry that was not present before (caching
  mode), makes the hypervisor read the guest's PASID entry out of guest memory and bind or unbind it on the host.

The registers and the search through the guest's tables are the same code as the silicon's; only what follows is
different.

An invalidation cannot fail from the guest's point of view: if the host refuses a bind, the guest believes that it is
bound and its DMA faults. The refusal is told as an event, as QEMU logs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.errors import KernelError
from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.iommu.vtd.invalidation import Descriptor
from pasidlab.hardware.iommu.vtd.registers import VtdRegisters
from pasidlab.hardware.iommu.vtd.virtual_command import VCMD_ALLOC, VCMD_FREE
from pasidlab.hardware.layouts.vtd import PASID_ENTRY
from pasidlab.hardware.layouts.vtd_queue import QI_CONTEXT_CACHE, QI_PASID_CACHE, QI_PIOTLB
from pasidlab.hardware.pcie import PASID_LIMIT, format_rid
from pasidlab.kernel.bitmap import Bitmap
from pasidlab.kernel.iommu.uapi import VTD_FLAGS, GuestPasidBind
from pasidlab.timeline import HOST, Table, Verb

if TYPE_CHECKING:
    from pasidlab.hardware.memory import Memory
    from pasidlab.timeline import Timeline
    from pasidlab.virt.ioasid_user import PasidSource
    from pasidlab.virt.vfio import VfioContainer

__all__ = ["BoundEntry", "VirtualVtd"]

_ONE_PASID: Final = 1
_FIRST_LEVEL: Final = 1


class BoundEntry(NamedTuple):
    """A guest PASID entry that is bound on the host: the words it had, and the host PASID behind it.

    ``freed``: the guest gave the number back before it unbound; the host cleans up, a late unbind finds nothing.
    """

    words: tuple[int, ...]
    host_pasid: int
    freed: bool = False


class VirtualVtd(VtdRegisters, state=("identity_mapped",)):
    """One guest's unit. ``pasids`` maps the guest's numbers to the host's; ``bound`` is what the host was asked to
    bind.

    With ``identity_mapped`` the guest gets the host's numbers themselves; otherwise the lowest free numbers of its own.
    """

    actor = "vmm"

    def __init__(
        self, timeline: Timeline, name: str, memory: Memory, container: VfioContainer, source: PasidSource
    ) -> None:
        super().__init__(timeline, f"{HOST}.viommu[{name}]", HOST, memory, VtdIdentity.guest())
        self.name = name
        self._container = container
        self._source = source
        self.identity_mapped = False
        self.devices = Table[int, str](timeline, f"{self.path}.devices")
        self.pasids = Table[int, int](timeline, f"{self.path}.pasids")
        self.bound = Table[tuple[int, int], BoundEntry](timeline, f"{self.path}.bound")
        self._numbers = Bitmap(timeline, f"{self.path}.numbers", PASID_LIMIT)

    # --- virtual commands ---------------------------------------------------------------------------------------------

    def _virtual_command(self, command: int, operand: int) -> tuple[int, int]:
        words = {VCMD_ALLOC: "allocate a PASID", VCMD_FREE: f"free PASID {operand}"}.get(command, f"command {command}")
        trap = self.emit(Verb.TRAP, f"{self.name}: virtual command, {words}", command=command, operand=operand)
        with self.timeline.because(trap):
            status, result = self._serve(command, operand)
            self.emit(
                Verb.ANSWER,
                f"{self.name}: {words}",
                after=f"status {status}" + (f", PASID {result}" if command == VCMD_ALLOC else ""),
                status=status,
                gpasid=result,
            )
        return status, result

    def _serve(self, command: int, operand: int) -> tuple[int, int]:
        vcmd = self.identity.vcmd
        if command == VCMD_ALLOC:
            guest_pasid = self._allocate()
            return (vcmd.no_pasid, 0) if guest_pasid is None else (vcmd.success, guest_pasid)
        if command == VCMD_FREE:
            return (vcmd.success if self._free(operand) else vcmd.no_pasid), 0
        return vcmd.undefined, 0

    def _allocate(self) -> int | None:
        try:
            host_pasid = self._source.pasid_alloc(1, PASID_LIMIT - 1)
        except KernelError as error:
            self.emit(Verb.REFUSE, error.reason, after=f"-{error.name}")
            return None
        guest_pasid = host_pasid if self.identity_mapped else self._numbers.find(1, PASID_LIMIT - 1)
        if guest_pasid is None or guest_pasid in self._numbers:
            self._source.pasid_free(host_pasid, host_pasid)
            self.emit(Verb.REFUSE, f"{self.name} has no number of its own for host PASID {host_pasid}")
            return None
        self._numbers.take(guest_pasid)
        self.pasids[guest_pasid] = host_pasid
        return guest_pasid

    def _free(self, guest_pasid: int) -> bool:
        host_pasid = self.pasids.get(guest_pasid)
        if host_pasid is None:
            self.emit(Verb.REFUSE, f"{self.name} does not own PASID {guest_pasid}")
            return False
        try:
            self._source.pasid_free(host_pasid, host_pasid)
        except KernelError as error:
            self.emit(Verb.REFUSE, error.reason, after=f"-{error.name}")
            return False
        del self.pasids[guest_pasid]
        self._numbers.release(guest_pasid)
        for key, known in self.bound.items():
            if key[1] == guest_pasid:
                self.bound[key] = known._replace(freed=True)
        return True

    # --- invalidations ------------------------------------------------------------------------------------------------

    def _invalidate(self, descriptor: Descriptor) -> None:
        trap = self.emit(Verb.TRAP, f"{self.name}: {descriptor}")
        with self.timeline.because(trap):
            if descriptor.layout is QI_PASID_CACHE:
                one = descriptor.field("G") == _ONE_PASID
                self._look_again([descriptor.field("PASID")] if one else None)
            elif descriptor.layout is QI_CONTEXT_CACHE:
                self._look_again(None)
            elif descriptor.layout is QI_PIOTLB:
                self._forward(descriptor.field("PASID"))

    def _bound_pasids(self) -> set[int]:
        return {guest_pasid for _, guest_pasid in self.bound.keys()}

    def _root_table_set(self) -> None:
        """A new root table: everything behind it may be different."""
        self._look_again(None)

    def _look_again(self, guest_pasids: list[int] | None) -> None:
        """The guest may have changed these PASID entries (``None``: all) on any device: compare with what is bound."""
        for guest_pasid in guest_pasids or sorted({*self.pasids.keys(), *self._bound_pasids()}):
            for rid in self.devices.keys():
                self._sync(rid, guest_pasid)

    def _sync(self, rid: int, guest_pasid: int) -> None:
        found = self.find_pasid_entry(rid, guest_pasid)
        present = found.reason is None and PASID_ENTRY["PGTT"].get(found.words) == _FIRST_LEVEL
        known = self.bound.get((rid, guest_pasid))
        wanted = BoundEntry(found.words, self.pasids.get(guest_pasid, 0))
        if known is not None and (not present or known != wanted):
            self._unbind(rid, guest_pasid, known)
            known = None
        if present and known is None:
            self._bind(rid, guest_pasid, found.words)

    def _bind(self, rid: int, guest_pasid: int, words: tuple[int, ...]) -> None:
        host_pasid = self.pasids.get(guest_pasid)
        if host_pasid is None:
            self.emit(
                Verb.REFUSE, f"{self.name} binds PASID {guest_pasid}, which it was never given", gpasid=guest_pasid
            )
            return
        root = PASID_ENTRY["FLPTPTR"].get(words)
        flags = sum(bit for name, bit in VTD_FLAGS.items() if PASID_ENTRY[name].get(words))
        width = 57 if PASID_ENTRY["FLPM"].get(words) else 48
        data = GuestPasidBind(host_pasid, root, guest_pasid, width, flags)
        try:
            self._container.bind_pgtbl(self.devices[rid], data)
        except KernelError as error:
            self.emit(
                Verb.REFUSE, f"bind of PASID {guest_pasid} on {format_rid(rid)}: {error.reason}", after=f"-{error.name}"
            )
            return
        self.bound[rid, guest_pasid] = BoundEntry(words, host_pasid)

    def _unbind(self, rid: int, guest_pasid: int, known: BoundEntry) -> None:
        del self.bound[rid, guest_pasid]
        try:
            self._container.unbind_pgtbl(self.devices[rid], known.host_pasid)
        except KernelError as error:
            self.emit(Verb.REFUSE, f"unbind of PASID {guest_pasid}: {error.reason}", after=f"-{error.name}")

    def _forward(self, guest_pasid: int) -> None:
        """A first-level invalidation of a bound PASID goes on to the real unit."""
        if guest_pasid in self._bound_pasids() and guest_pasid in self.pasids:
            self._container.cache_invalidate(self.pasids[guest_pasid])
