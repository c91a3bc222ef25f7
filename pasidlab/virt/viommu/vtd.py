"""The emulated VT-d unit that a guest sees: a register block whose writes trap to the hypervisor.

Models QEMU's ``hw/i386/intel_iommu.c`` with the vSVA series (RFC v7, 2020). Two traps carry the whole of guest SVA on
VT-d:

* a **virtual command** (allocate or free a PASID) becomes a VFIO request, or one to /dev/ioasid;
* a **PASID-cache invalidation**, which the guest must send even for an entry that was not present before (caching
  mode), makes the hypervisor read the guest's PASID entry out of guest memory and bind or unbind it on the host.

With page requests two more paths come in: what a device asks for under a host PASID goes into the guest's own page
request queue under the guest's number, and the guest's answer, a descriptor in its invalidation queue, goes back to
VFIO. IOTLB invalidations of the guest are forwarded with their range.

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
from pasidlab.hardware.iommu.vtd.tables import PasidLookup, find_context
from pasidlab.hardware.iommu.vtd.virtual_command import VCMD_ALLOC, VCMD_FREE
from pasidlab.hardware.layouts.vtd import PASID_ENTRY, PGTT
from pasidlab.hardware.layouts.vtd_queue import (
    QI_CONTEXT_CACHE,
    QI_IOTLB,
    QI_PAGE_GROUP_RESP,
    QI_PASID_CACHE,
    QI_PIOTLB,
)
from pasidlab.hardware.memory import PAGE_SHIFT
from pasidlab.hardware.pcie import (
    PASID_LIMIT,
    PageGroupResponse,
    PageRequest,
    RequestKind,
    ResponseCode,
    format_rid,
)
from pasidlab.kernel.bitmap import Bitmap
from pasidlab.kernel.iommu.device import Numbering
from pasidlab.kernel.iommu.uapi import VTD_FLAGS, GuestPasidBind
from pasidlab.timeline import HOST, Table, Verb
from pasidlab.virt.traps import Answer, Trap, TrapKind

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline
    from pasidlab.virt.ioasid_user import PasidSource
    from pasidlab.virt.traps import Decision
    from pasidlab.virt.vfio import VfioContainer
    from pasidlab.virt.viommu.contract import VirtualPlatform

__all__ = ["BoundEntry", "VirtualVtd"]

_ONE_PASID: Final = 1
_SOME_PAGES: Final = 3
_CODES: Final = frozenset(ResponseCode)
_ALTERED: Final = {
    QI_PASID_CACHE: "the PASID whose entry is looked at",
    QI_PIOTLB: "the PASID that is flushed",
    QI_PAGE_GROUP_RESP: "the response code",
}
"""What of a trapped descriptor can be altered."""
_CARRIED_OUT: Final = (*_ALTERED, QI_CONTEXT_CACHE, QI_IOTLB)
"""Descriptors that mean something for the host; the others are done when the guest has its answer."""


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
        self, timeline: Timeline, name: str, platform: VirtualPlatform, container: VfioContainer, source: PasidSource
    ) -> None:
        super().__init__(timeline, f"{HOST}.viommu[{name}]", HOST, platform.memory, VtdIdentity.guest())
        self.name = name
        self._apic = platform.apic
        self._desk = platform.desk
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
            decision = self._desk.decide(self.timeline, _command_trap(self.name, command, words))
            status, result = self._decided(decision, command, operand)
            self.emit(
                Verb.ANSWER,
                f"{self.name}: {words}",
                after=f"status {status}" + (f", PASID {result}" if command == VCMD_ALLOC else ""),
                status=status,
                gpasid=result,
            )
        return status, result

    def _decided(self, decision: Decision, command: int, operand: int) -> tuple[int, int]:
        """Status and result. Refused: there is no PASID, or it is none of yours. Altered: another number is handed
        out, which nobody stands behind, or another one is freed.
        """
        vcmd = self.identity.vcmd
        if decision.answer is Answer.REFUSE:
            return vcmd.no_pasid, 0
        if decision.answer is Answer.ALTER and command == VCMD_ALLOC:
            return vcmd.success, decision.value % PASID_LIMIT
        return self._serve(command, decision.value if decision.answer is Answer.ALTER else operand)

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
            if descriptor.layout not in _CARRIED_OUT:
                return
            answered = descriptor.layout is QI_PAGE_GROUP_RESP
            kind = TrapKind.PAGE_RESPONSE if answered else TrapKind.INVALIDATION
            asked = Trap(self.name, kind, str(descriptor), _ALTERED.get(descriptor.layout, ""))
            decision = self._desk.decide(self.timeline, asked)
            if decision.answer is not Answer.REFUSE:
                value = decision.value if decision.answer is Answer.ALTER else None
                self._carry_out(descriptor, value)

    def _carry_out(self, descriptor: Descriptor, altered: int | None) -> None:
        """Do what a descriptor is for, on the host; with another number than the guest's if it was ``altered``."""
        altered = altered % PASID_LIMIT if altered is not None else None
        if descriptor.layout is QI_PASID_CACHE:
            one = descriptor.field("G") == _ONE_PASID or altered is not None
            self._look_again([descriptor.field("PASID") if altered is None else altered] if one else None)
        elif descriptor.layout is QI_CONTEXT_CACHE:
            self._look_again(None)
        elif descriptor.layout is QI_PIOTLB:
            self._forward(descriptor.field("PASID") if altered is None else altered, _pages(descriptor))
        elif descriptor.layout is QI_IOTLB:
            for guest_pasid in sorted(self._bound_pasids()):
                self._forward(guest_pasid, None)
        else:
            self._page_answered(descriptor, altered)

    def _bound_pasids(self) -> set[int]:
        return {guest_pasid for _, guest_pasid in self.bound.keys()}

    def _root_table_set(self) -> None:
        """A new root table: everything behind it may be different."""
        self._look_again(None)

    def _translation_switched(self) -> None:
        """While translation is off nothing is bound; what the tables say counts when it is on."""
        self._look_again(None)

    def _look_again(self, guest_pasids: list[int] | None) -> None:
        """The guest may have changed these PASID entries (``None``: all) on any device: compare with what is bound."""
        for guest_pasid in guest_pasids or sorted({*self.pasids.keys(), *self._bound_pasids()}):
            self._sync(guest_pasid)

    def _sync(self, guest_pasid: int) -> None:
        """Make the host's bindings of a guest PASID what the guest's tables ask for, on every device."""
        wanted = {rid: self._wanted(rid, guest_pasid) for rid in self.devices.keys()}
        for rid, entry in wanted.items():
            known = self.bound.get((rid, guest_pasid))
            if known is not None and known != entry:
                self._unbind(rid, guest_pasid, known)
        for rid, entry in wanted.items():
            if entry is not None and (rid, guest_pasid) not in self.bound:
                self._bind_as_wanted(rid, guest_pasid, entry)

    def _bind_as_wanted(self, rid: int, guest_pasid: int, entry: BoundEntry) -> None:
        """Devices of one parent share an entry on the host: those that were bound otherwise are bound anew, after."""
        others = [
            (other, known)
            for (other, number), known in self.bound.items()
            if number == guest_pasid and self._parent(other) == self._parent(rid) and known.words != entry.words
        ]
        for other, known in others:
            self._unbind(other, guest_pasid, known)
        self._bind(rid, guest_pasid, entry.words)
        for other, known in others:
            self._bind(other, guest_pasid, known.words)

    def _wire_number(self, rid: int, guest_pasid: int, known: BoundEntry) -> int:
        """The PASID that requests of one of the guest's devices carry for a guest PASID."""
        numbering = self._container.devices[self.devices[rid]].numbering
        return known.host_pasid if numbering is Numbering.HOST else guest_pasid

    def _parent(self, rid: int) -> int:
        """The requester ID on the host of one of the guest's devices."""
        return self._container.devices[self.devices[rid]].rid

    def _wanted(self, rid: int, guest_pasid: int) -> BoundEntry | None:
        """What the guest's tables ask for: a first-level entry that is present and valid, or nothing."""
        found = self.find_pasid_entry(rid, guest_pasid)
        if (
            not self.translation_enabled
            or found.reason is not None
            or PASID_ENTRY["PGTT"].get(found.words) != PGTT.FIRST
        ):
            return None
        return BoundEntry(found.words, self.pasids.get(guest_pasid, 0))

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

    def _forward(self, guest_pasid: int, pages: tuple[int, int] | None) -> None:
        """A first-level invalidation of a bound PASID, whole or of some pages, goes on to the real unit."""
        if guest_pasid in self._bound_pasids() and guest_pasid in self.pasids:
            self._container.cache_invalidate(self.pasids[guest_pasid], pages)

    # --- page requests ------------------------------------------------------------------------------------------------

    def page_requested(self, request: PageRequest) -> ResponseCode | None:
        """A device asks for a page under a host PASID: put it into the guest's queue, under the guest's number.

        Two interfaces of one parent look alike here; the one with the lower requester ID in the guest stands for both.
        """
        for (rid, guest_pasid), known in self.bound.items():
            if self._parent(rid) == request.rid and self._wire_number(rid, guest_pasid, known) == request.pasid:
                allowed = find_context(self._lookup(), rid, guest_pasid, RequestKind.PAGE)
                if isinstance(allowed, PasidLookup):
                    return ResponseCode.INVALID
                self.page_request(request._replace(rid=rid, pasid=guest_pasid))
                return None
        return ResponseCode.INVALID

    def _page_request_dropped(self, request: PageRequest) -> None:
        if request.pasid is not None:
            self._respond(PageGroupResponse(request.rid, request.pasid, request.group, ResponseCode.SUCCESS))

    def _page_answered(self, descriptor: Descriptor, code: int | None) -> None:
        """The guest answers a page request: its descriptor becomes a response to VFIO, with another ``code`` if one
        was decided on.
        """
        at = descriptor.fields()
        self._respond(PageGroupResponse(at["RID"], at["PASID"], at["PRGI"], at["RC"] if code is None else code))

    def _respond(self, response: PageGroupResponse) -> None:
        key = self.devices.get(response.rid)
        known = self.bound.get((response.rid, response.pasid)) if response.pasid is not None else None
        self.tell_response(response)
        try:
            if key is None or known is None:
                raise KernelError("EINVAL", f"{self.name} answers for a device or PASID that is not bound")
            code = ResponseCode(response.code) if response.code in _CODES else ResponseCode.INVALID
            self._container.page_response(key, known.host_pasid, response.group, code)
        except KernelError as error:
            self.emit(Verb.REFUSE, error.reason, after=f"-{error.name}")

    def _interrupt(self, address: int, data: int) -> None:
        self.emit(Verb.INTERRUPT, f"{self.name}: vector {data & 0xFF:#x}", vector=data & 0xFF)
        self._apic.message(address, data)


def _command_trap(vm: str, command: int, words: str) -> Trap:
    """A virtual command as the desk sees it."""
    if command == VCMD_ALLOC:
        number, refusal = "the PASID that the guest is given", "no PASID is available"
    else:
        number, refusal = "the PASID that is freed" if command == VCMD_FREE else "", "the PASID is not valid"
    return Trap(vm, TrapKind.VIRTUAL_COMMAND, f"virtual command, {words}", number, refusal)


def _pages(descriptor: Descriptor) -> tuple[int, int] | None:
    """The pages that a PASID-IOTLB invalidation names: start and number; ``None`` for all."""
    if descriptor.field("G") != _SOME_PAGES:
        return None
    count = 1 << descriptor.field("AM")
    return descriptor.field("ADDR") & -(count << PAGE_SHIFT), count
