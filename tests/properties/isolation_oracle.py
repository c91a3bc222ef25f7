"""A second opinion about isolation: what devices can reach, read from raw words of memory, compared with who owns it.

Nothing of the package's walkers, page-table code or rules is used: entries are taken apart here, by bit positions
(facts of VT-d 1.3 to 1.5; of SMMUv3 and AMD beside this, in :mod:`.isolation_oracle_tables`). Who owns a number is
asked of the IOASID core (whose bookkeeping has its own rules), whose memory a VM has is read from the page table of its
hypervisor process, as the processor would.

Everything that a VM's devices can reach lies below the second level of an entry, whatever the guest writes into its own
tables: so the leaves of that one tree are all that has to be compared. The same holds for lines of caches: whatever is
stale in them, it must not lead into memory of somebody else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pasidlab.machine import Machine
from pasidlab.stories.vtd import vtd_unit

__all__ = ["ADDRESS", "FIRST_NUMBERS", "HOST", "NOBODY", "WHOLE_DIRECTORY", "Oracle", "Outsider", "Owner", "VtdOracle"]

ADDRESS = 0x0000_FFFF_FFFF_F000
"""In every format; bits above are permissions in some (no memory here is so large)."""
FIRST, SECOND, NESTED, PASS_THROUGH = 1, 2, 3, 4
WHOLE_DIRECTORY, FIRST_NUMBERS = range(32), range(1)


class Outsider(Exception):
    """Somebody reaches what is not theirs."""


class Owner(NamedTuple):
    """Whose a number is: a VM, a process of the host, the host itself, or nobody."""

    kind: str
    name: str


HOST = Owner("host", "host")
NOBODY = Owner("nobody", "nobody")


def frames_below(memory, root, levels=4):
    """The frames that a tree maps, by number. In all formats a word that is present has bit 0 or 1."""
    tables = [root]
    for _ in range(levels - 1):
        tables = [
            word & ADDRESS for table in tables for word in filter(None, memory.load_words(table, 512)) if word & 3
        ]
    words = [word for table in tables for word in filter(None, memory.load_words(table, 512))]
    return {(word & ADDRESS) >> 12 for word in words if word & 3}


class Oracle:
    """What is reachable now, in one machine; made afresh for every look.

    How entries and caches of a unit are read is told by the classes below.
    """

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, machine: Machine) -> None:
        self.m = machine
        self.caches = cast(Any, machine.unit).caches
        self.memory = machine.memory
        self.devices = {device.rid: name for name, device in machine.accelerators.items()}
        self.whole = {
            machine.accelerators[function].rid: vmm.name
            for vmm in machine.vmms.values()
            for function in vmm.functions.values()
        }
        self.defaults = {
            vmm.container.domain.default_pasid: vmm.name
            for vmm in machine.vmms.values()
            if vmm.container.domain.default_pasid is not None
        }
        self.domains = {vmm.container.domain.did: Owner("vm", vmm.name) for vmm in machine.vmms.values()}
        self.processes = {process.mm.pasid: process for process in machine.natives if process.mm.pasid is not None}
        self.frames = {vmm.name: frames_below(self.memory, vmm.process.mm.root) for vmm in machine.vmms.values()}
        self._below: dict[tuple[int, int], set[int]] = {}

    def below(self, root, levels=4):
        """The leaves of a tree, once."""
        if (root, levels) not in self._below:
            self._below[root, levels] = frames_below(self.memory, root, levels)
        return self._below[root, levels]

    # --- whose --------------------------------------------------------------------------------------------------------

    def owner(self, rid, pasid):
        """Whose requests these are; without a number (``None``, 0) whoever has the function."""
        if rid in self.whole:
            return Owner("vm", self.whole[rid])
        if not pasid:
            return HOST
        if pasid in self.defaults:
            return Owner("vm", self.defaults[pasid])
        if pasid in self.processes:
            return Owner("process", self.processes[pasid].name)
        record = self.m.kernel.ioasid.ids.get(pasid)
        if record is not None and record.owner.name in self.frames:
            return Owner("vm", record.owner.name)
        return NOBODY

    def theirs(self, owner):
        """The frames that an owner's devices may reach."""
        if owner.kind == "vm":
            return self.frames[owner.name]
        if owner.kind == "process":
            return self.below(next(p.mm.root for p in self.m.natives if p.name == owner.name))
        return set()

    def expect(self, what, owner, reached):
        """Everything that was reached is the owner's."""
        if owner is HOST:
            return
        strangers = reached - self.theirs(owner)
        if strangers:
            whose = sorted(name for name, frames in self.frames.items() if strangers & frames) or ["the host"]
            places = ", ".join(f"{frame << 12:#x}" for frame in sorted(strangers)[:4])
            raise Outsider(f"{what} of {owner.name} reaches {places}: memory of {', '.join(whose)}")

    # --- what must hold -----------------------------------------------------------------------------------------------

    def look(self, directory=FIRST_NUMBERS):
        """Frames have one owner, and whatever tables and caches lead to is the owner's."""
        self.frames_are_apart()
        for rid, pasid, words in self.entries(directory):
            self.entry(rid, pasid, words)
        self.cached()

    def frames_are_apart(self):
        """No frame is in two VMs, or in a VM and a process of the host."""
        seen: dict[str, set[int]] = {}
        trees = {**self.frames, **{f"process {p.name}": self.below(p.mm.root) for p in self.m.natives}}
        for name, frames in trees.items():
            for other, before in seen.items():
                if not frames.isdisjoint(before):
                    raise Outsider(f"{name} and {other} share frames")
            seen[name] = frames

    def bounded(self, what, owner, root, levels=4):
        """A second level: its leaves are the owner's."""
        self.expect(what, owner, self.below(root & ADDRESS, levels))

    def first(self, what, owner, root):
        """A first level alone: a process's page table, and nobody else's."""
        if owner.kind != "process":
            raise Outsider(f"{what} of {owner.name} uses a page table of the host without a second level")
        self.expect(what, owner, self.below(root & ADDRESS))

    def passing(self, what, owner):
        """Without translation: the host alone."""
        if owner is not HOST:
            raise Outsider(f"{what} of {owner.name} passes through without translation")

    def cached(self):
        """A line of a cache leads to memory of the owner of its tag, be it stale or not."""
        for what, owner, frame in self.all_lines():
            self.expect(what, owner, {frame})

    def all_lines(self):
        """Every line of the unit's and the devices' TLBs: in words, whose, and which frame."""
        yield from self.lines()
        for rid, name in self.devices.items():
            for (tag, page, _), line in self.m.accelerators[name].tlb.lines.items():
                what = f"a TLB line of {name} (PASID {tag}, {page << 12:#x})"
                yield what, self.owner(rid, max(tag, 0)), line.page >> 12

    def kept(self, strangers):
        """The lines that belong to none of these VMs."""
        return {what for what, owner, _ in self.all_lines() if owner is not NOBODY and owner.name not in strangers}

    def register(self, offset, size=8):
        """What a register of the unit says."""
        return self.m.mmio.read(self.m.kernel.platform.iommu.base + offset, size)

    def answer(self, rid, pasid, address, access, caches):
        """One request that a device could make: it is answered with the owner's memory, or with a fault."""
        walk = self.m.translate(rid, pasid, address, access, caches=caches)
        if walk.address is not None:
            what = f"{access} of {address:#x} by {rid:#x} with PASID {pasid}"
            self.expect(what, self.owner(rid, pasid), {walk.address >> 12})


class VtdOracle(Oracle):
    """Root table, context tables, PASID directories and tables, as facts 1.3 to 1.5 have them."""

    def entries(self, directory=WHOLE_DIRECTORY):
        """Every present PASID entry behind the real unit's root table: requester ID, PASID, words."""
        load = self.memory.load_words
        root = vtd_unit(self.m).root_pointer & ADDRESS
        for rid in self.devices:
            (half,) = load(root + (rid >> 8) * 16 + (8 if rid & 0x80 else 0), 1)
            context = load((half & ADDRESS) + (rid & 0x7F) * 32, 4) if half & 1 else (0,)
            for page in directory if context[0] & 1 else ():
                words = load((context[0] & ADDRESS) + (page << 12), 512)
                for at, word in enumerate(words) if words.count(0) < 512 else ():
                    if word & 1:
                        yield from self._leaf(rid, word & ADDRESS, (page << 9 | at) << 6)

    def _leaf(self, rid, table, first):
        words = self.memory.load_words(table, 512)
        for at in range(64):
            if words[8 * at] & 1:
                yield rid, first | at, words[8 * at : 8 * at + 8]

    def entry(self, rid, pasid, words):
        """What one entry leads to is its owner's."""
        owner, kind = self.owner(rid, pasid), words[0] >> 6 & 7
        what = f"PASID {pasid} of {rid:#x}"
        if kind in (SECOND, NESTED):
            self.bounded(what, owner, words[0])
        elif kind == FIRST:
            self.first(what, owner, words[2])
        else:
            self.passing(what, owner)

    def tags(self):
        """What the IOTLB holds."""
        return list(self.caches.iotlb.keys())

    def lines(self):
        """Lines of the IOTLB, by domain id and PASID."""
        for (did, tag, page), line in self.caches.iotlb.items():
            owner = self.domains.get(did)
            if owner is None:
                owner = Owner("process", self.processes[tag].name) if tag in self.processes else NOBODY
            if line.page >= 0:
                yield f"an IOTLB line (domain {did}, PASID {tag}, {page << 12:#x})", owner, line.page >> 12
