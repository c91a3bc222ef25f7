"""What every IOMMU driver offers, whatever its vendor: devices, domains, entries for processes, tables for guests.

Models the ``iommu_ops`` of Linux as far as PASIDs go. Three drivers implement it (``vtd``, ``smmuv3``, ``amdvi``), side
by side with the same file names; :mod:`.drivers` picks the one that the firmware's tables ask for. Whoever stands above
(SVA, VFIO, hypervisors, invariants, pictures) asks for what is here, and never which driver it is.

**Who owns the table of PASIDs** when a guest uses SVA is the difference that shows (T2, T4, T9, T11 of the talk):

* VT-d: the host. Each PASID of the guest is backed by one of the host (*shadow*), and bound by itself:
  :meth:`.bindings.Bindings.bind_guest`, :meth:`IommuDriver.flush_guest`.
* SMMUv3 and AMD: the guest. The host binds its whole table once: :meth:`IommuDriver.bind_table`; afterwards only
  invalidations come (:meth:`IommuDriver.forward`). No IOASID of the host is needed.

What the guest passes for its whole table is its own device entry (stream table entry, device table entry), as in
Linux's iommufd (``struct iommu_hwpt_arm_smmuv3``, ``struct iommu_hwpt_amd_guest``), and its commands as they are
(``struct iommu_viommu_arm_smmuv3_invalidate``): the kernel takes from them what a guest may decide. UNVERIFIED: the
fact sheet has of AMD which fields the kernel takes, and of neither the structures.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple, Protocol

from pasidlab.errors import KernelError
from pasidlab.hardware.pcie import format_rid
from pasidlab.kernel.bitmap import Bitmap
from pasidlab.kernel.iommu.device import Numbering
from pasidlab.kernel.iommu.domain import Domain, refuse_attach
from pasidlab.kernel.pci import PciFunction
from pasidlab.timeline import Actor, Part, Table, Verb

if TYPE_CHECKING:
    from pasidlab.hardware.paging import PagingFormat
    from pasidlab.kernel.ioasid.core import IoasidCore
    from pasidlab.kernel.ioasid.sets import IoasidSet
    from pasidlab.kernel.iommu.bindings import Bindings
    from pasidlab.kernel.iommu.device import DeviceInfo
    from pasidlab.kernel.iommu.page_requests import PageRequests
    from pasidlab.kernel.mm import Mm
    from pasidlab.kernel.pages import PageAllocator
    from pasidlab.kernel.platform import Platform

__all__ = [
    "PASID_MIN",
    "PASID_RID2PASID",
    "EntryTable",
    "FaultHandler",
    "FaultListener",
    "IommuDriver",
    "Leaf",
    "Start",
    "Support",
    "Teardown",
]

PASID_RID2PASID: Final = 0
"""The PASID that stands for requests without one, on every unit."""
PASID_MIN: Final = 1
_IDS: Final = 1 << 16
"""Domain ids, VMIDs and DomainIDs have 16 bits each."""


class Leaf(NamedTuple):
    """A part of a table of PASIDs that exists: it holds the ``entries`` entries from PASID ``first`` on, at ``address``
    in the memory of the kernel that owns it.
    """

    first: int
    entries: int
    address: int


class EntryTable(Protocol):
    """One device's table of PASIDs in this kernel's memory."""

    def address(self, pasid: int, *, build: bool = False) -> int | None:
        """Where the entry of ``pasid`` lies; without ``build``, ``None`` if the part of the table is not there."""

    def read(self, pasid: int) -> tuple[int, ...]:
        """The words of an entry, zero if there is none."""

    @property
    def top(self) -> int:
        """Where the table begins: its only part, or what names its parts."""

    def leaves(self) -> Iterator[Leaf]:
        """The parts that exist, lowest PASIDs first."""

    def present_in(self, leaf: Leaf) -> list[int]:
        """The PASIDs of one part with a present entry."""

    def present(self) -> list[int]:
        """The PASIDs with a present entry, read from the table."""

    def frames(self) -> set[int]:
        """The addresses of the pages that the table takes, in the memory of the kernel that owns it."""


class FaultListener(Protocol):
    """Who is told of the faults of a device whose table is a guest's own: the hypervisor."""

    path: str

    def fault_reported(self, rid: int, record: tuple[int, ...]) -> None:
        """The unit has recorded a fault of ``rid`` that is the guest's affair; ``record`` are its words."""


class FaultHandler(Protocol):
    """The handler of the unit's fault interrupt. ``log`` holds the newest lines, by running number."""

    log: Table[int, str]

    def service(self) -> None:
        """Read what the unit has recorded, log it, and make room."""


class Teardown(Part, ABC, state=("left_out",)):
    """How a driver takes an entry away. For people who want to see what each step is for, a step can be *left out*:
    ``left_out`` names those that the driver forgets. No driver does that on purpose.

    ``steps`` are those that can be left out, by name, with what each is.
    """

    steps: ClassVar[Mapping[str, str]]
    left_out: frozenset[str] = frozenset()


class IommuDriver(Actor, ABC):
    """The IOMMU driver of one kernel, for one unit.

    ``numbering`` says of which devices the requests carry a guest's numbers; ``listeners`` are told of the faults of
    devices whose table is a guest's own. ``stall_capable``: of which devices the firmware says that the unit may hold
    their transactions (``dma-can-stall``).
    """

    actor = "iommu"
    paging: ClassVar[PagingFormat]
    """The format of the second level."""
    takes_interfaces: ClassVar[bool] = False
    """Whether a device can serve several domains, each by a default PASID."""
    reserved_ids: ClassVar[tuple[int, ...]] = (0,)
    """Ids that no domain gets."""
    why_no_aux: ClassVar[str] = ""
    """Why no interface of a device can have a default PASID here, and where to read it."""
    why_whole_tables: ClassVar[str]
    """Why one PASID of a guest cannot be bound by itself here; or, on VT-d, why a whole table cannot."""

    why_no_stalls: str = (
        "this IOMMU blocks what faults: only an SMMUv3 may hold it until software has acted (facts/hardware.md 3; "
        "docs/iommus.md)"
    )
    """Why no transaction can be held here, and where to read it; empty where that is possible."""
    why_no_pasids: str = ""
    """Why no device can use a PASID here, and where to read it; empty where they can."""
    hardware_info: tuple[int, ...] = ()
    """The unit's identification registers, as IOMMU_GET_HW_INFO tells them to a hypervisor."""
    page_requests: PageRequests
    teardown: Teardown

    def __init__(self, platform: Platform, pages: PageAllocator, core: IoasidCore) -> None:
        super().__init__(platform.timeline, f"{platform.altitude}.iommu", platform.altitude)
        self.core = core
        self.pages = pages
        self.memory = platform.memory
        self.mmio = platform.mmio
        self.base = platform.iommu.base
        self.domains = Table[int, Domain](self.timeline, f"{self.path}.domains")
        self.devices: Table[int, DeviceInfo] = Table(self.timeline, f"{self.path}.devices")
        self.numbering = Table[int, Numbering](self.timeline, f"{self.path}.numbering")
        self.listeners: Table[int, FaultListener] = Table(self.timeline, f"{self.path}.listeners")
        self.stall_capable = Table[int, bool](self.timeline, f"{self.path}.stall-capable")
        self.ids = Bitmap(self.timeline, f"{self.path}.dids", _IDS)
        for reserved in self.reserved_ids:
            self.ids.take(reserved)

    # --- devices ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def add_device(self, rid: int) -> None:
        """Give a device its entry and its table of PASIDs; its requests without PASID pass through. ``-EEXIST``."""

    @abstractmethod
    def remove_device(self, rid: int) -> None:
        """Take entry and table away. ``-EBUSY`` while a domain is attached."""

    def check_detached(self, rid: int) -> None:
        """``-EBUSY`` while a domain is attached to the device."""
        attached = [domain.name for domain in self.domains.values() if rid in domain.rids or rid in domain.aux]
        if attached:
            raise KernelError("EBUSY", f"{format_rid(rid)} must be detached from {', '.join(attached)} first")

    def function(self, rid: int) -> PciFunction:
        """The PCI function behind a requester ID."""
        return PciFunction(self.mmio, rid)

    @abstractmethod
    def device_entry(self, rid: int) -> int | None:
        """Where this kernel's entry of a device lies (context entry, stream table entry, device table entry).

        In its own memory; ``None``: it knows no such device.
        """

    @abstractmethod
    def entry_table(self, rid: int) -> EntryTable | None:
        """The table of PASIDs that *this* kernel has for a device; ``None`` if it knows no such device."""

    def read_entry(self, rid: int, pasid: int) -> tuple[int, ...]:
        """The words of one entry of this kernel's table for a device; ``-ENODEV`` if it has none."""
        table = self.entry_table(rid)
        if table is None:
            raise KernelError("ENODEV", f"the IOMMU knows no device {format_rid(rid)}")
        return table.read(pasid)

    # --- entries for processes ----------------------------------------------------------------------------------------

    @abstractmethod
    def write_process(self, rid: int, pasid: int, mm: Mm) -> None:
        """Write the entry by which ``rid`` reaches a process's virtual addresses with ``pasid``."""

    @abstractmethod
    def clear_entry(self, rid: int, pasid: int, *, fault_disable: bool = False, ioasid: int | None = None) -> None:
        """Take an entry away and make every cache forget it; one that is not present stays as it is.

        With ``fault_disable`` late DMA is blocked in silence where the unit can do that. ``ioasid``: for which of this
        kernel's numbers it was, where the device uses another one.
        """

    @abstractmethod
    def flush_process(self, pasid: int, rids: Iterable[int], pages: tuple[int, int]) -> None:
        """Forget some ``pages`` (start, number) of a process on these devices, in the unit and in their TLBs."""

    # --- domains ------------------------------------------------------------------------------------------------------

    def domain_alloc(self, name: str) -> Domain:
        """A new address space, with a second-level table and an id; ``-ENOSPC`` when the ids are used up."""
        did = self.ids.find(0, _IDS - 1)
        if did is None:
            raise KernelError("ENOSPC", "no domain id is left")
        self.ids.take(did)
        domain = Domain(self.timeline, f"{self.path}.domain[{did}]", name, did, self.pages, self.paging)
        self.domains[did] = domain
        return domain

    def domain_free(self, domain: Domain) -> None:
        """End a domain to which nothing is attached."""
        if len(domain.rids) or len(domain.aux):
            raise KernelError("EBUSY", f"domain {domain.name} must be detached from all devices first")
        del self.domains[domain.did]
        self.ids.release(domain.did)
        domain.destroy()

    def domain_of(self, tag: int) -> Domain | None:
        """Whose translations the unit tags with this number."""
        return self.domains.get(tag)

    def attach_domain(self, domain: Domain, rid: int, numbering: Numbering = Numbering.HOST) -> None:
        """Make a domain a device's own: its requests without PASID now reach the domain.

        ``numbering`` says whose PASIDs the device will carry. ``-EPERM`` while the device serves domains in the
        auxiliary manner.
        """
        refuse_attach(self.domains.values(), rid, aux=False)
        self.translate_by(domain, rid)
        domain.rids[rid] = True
        if numbering is not Numbering.HOST:
            self.numbering[rid] = numbering
        self.emit(Verb.ATTACH, f"domain of {domain.name} to {format_rid(rid)}", rid=rid)

    def detach_domain(self, domain: Domain, rid: int) -> None:
        """Undo :meth:`attach_domain`; the device passes through again."""
        del domain.rids[rid]
        if rid in self.numbering:
            del self.numbering[rid]
        self.pass_through(rid)
        self.emit(Verb.DETACH, f"domain of {domain.name} from {format_rid(rid)}", rid=rid)

    @abstractmethod
    def translate_by(self, domain: Domain, rid: int) -> None:
        """Let the second level of ``domain`` bound whatever a device sends."""

    @abstractmethod
    def pass_through(self, rid: int) -> None:
        """A device is this kernel's own again: requests without PASID pass through."""

    def free_by_command(self, pasid: int) -> bool:
        """In a guest: give a PASID back to the hypervisor; whether it took it. ``-EOPNOTSUPP``: the numbers are the
        guest's own here.
        """
        raise KernelError(
            "EOPNOTSUPP",
            f"{self.altitude} must get its PASIDs from a hypervisor to give one back, but {self.why_whole_tables}",
        )

    def attach_aux(self, domain: Domain, rid: int, host_set: IoasidSet) -> int:
        """Attach a domain beside a device's own one; returns its default PASID. ``-EOPNOTSUPP`` unless VT-d."""
        raise KernelError("EOPNOTSUPP", self.why_no_aux)

    def detach_aux(self, domain: Domain, rid: int, host_set: IoasidSet) -> None:
        """Undo :meth:`attach_aux`; the last one gives the default PASID back."""
        raise KernelError("EOPNOTSUPP", self.why_no_aux)

    # --- a guest's tables ---------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def nesting(self) -> bool:
        """Whether the unit nests a guest's first level over a second level."""

    @property
    @abstractmethod
    def second_levels(self) -> int:
        """How many levels of second-level table the unit walks at most."""

    def flush_guest(self, domain: Domain, number: int, rids: list[int], pages: tuple[int, int] | None) -> None:
        """Forget what a guest changed in one page table that is bound by itself. ``-EOPNOTSUPP`` unless VT-d."""
        raise KernelError("EOPNOTSUPP", self.why_whole_tables)

    def bind_table(self, domain: Domain, rid: int, entry: tuple[int, ...]) -> None:
        """Nest the table of PASIDs that a guest's own device entry names over its VM's domain, in place of what was
        bound before. ``entry``: the words as the guest wrote them.

        Errors: ``-EOPNOTSUPP`` this unit's host owns the table (VT-d), or it cannot nest; ``-EINVAL`` the entry asks
        for what a guest may not decide, or is impossible; ``-ENODEV`` the domain does not have the device.
        """
        raise KernelError("EOPNOTSUPP", self.why_whole_tables)

    def unbind_table(self, domain: Domain, rid: int) -> None:
        """Undo :meth:`bind_table`: requests with a PASID are refused again; nothing happens if none was bound."""

    def has_table(self, rid: int) -> bool:
        """Whether a guest's whole table is bound for a device."""
        return False

    def forward(self, domain: Domain, command: tuple[int, ...], devices: Mapping[int, int]) -> None:
        """Carry out a guest's invalidation command on the real unit, for its domain and devices only.

        ``devices`` maps the guest's requester IDs to those of the host. ``-EINVAL`` a command that a guest may not
        give, or for a device that it does not have; ``-EOPNOTSUPP`` unless whole tables are bound.
        """
        raise KernelError("EOPNOTSUPP", self.why_whole_tables)


class Support(NamedTuple):
    """What a kernel has of its IOMMU: the driver, its bindings, its fault handler."""

    driver: IommuDriver
    svm: Bindings
    faults: FaultHandler


Start = Callable[["Platform", "PageAllocator", "IoasidCore"], Support]
"""How a kernel gets a driver running; ``-ENODEV``: the unit lacks what it needs."""
