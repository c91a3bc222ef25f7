"""What a hostile guest can do to a unit whose table of PASIDs is its own: registers, commands, device entries, entries
of the table, answers to page requests. The moves are the same for SMMUv3 and AMD; the words differ.

Entries and commands are written past the driver, at the places where it keeps them: garbage, well-formed entries with
addresses and tags of somebody else, and entries of the host's own form (stage 2 or host table, VMID or DomainID, pass
through), which no guest may decide.
"""

from __future__ import annotations

from pasidlab.hardware.iommu.amdvi import register_file as amd_reg
from pasidlab.hardware.iommu.smmuv3 import register_file as smmu_reg
from pasidlab.hardware.layouts import amd, amd_queue, smmu, smmu_queue
from pasidlab.hardware.memory import PAGE_SIZE
from tests.properties.hostile import FRAMES, Mischief

__all__ = ["TABLE_MOVES", "AmdMischief", "SmmuMischief"]

TABLE_MOVES = {
    "page_table": 2,
    "memory": 1,
    "device_register": 2,
    "config_space": 1,
    "portal": 3,
    "msr": 0.6,
    "stray": 2.5,
    "program_queue": 1.5,
    "kernel_copy": 1.5,
    "decided": 1,
    "held": 0.5,
    "free": 0.6,
    "raw_bind": 0.6,
    "work": 9,
    "program_ends": 2,
    "register": 3,
    "repair": 4,
    "command": 6,
    "answer": 5,
    "ask": 3,
    "device_entry": 3,
    "mend": 3,
    "table_entry": 3,
    "inner_table": 1,
}
"""How often each of them, against each other."""


class TableMischief(Mischief):
    """The moves against a unit whose guest owns its table. The words are those of the two classes below."""

    registers: tuple[tuple[int, int], ...]
    """Where a register is, and how many bytes it has."""
    commands: tuple
    """Opcode and layout of each command."""
    opcode: str
    """How the field of the opcode is called."""

    def at_boot(self, vm):
        """Every register as the guest's driver left it: what its kernel remembers."""
        read, base = vm.kernel.platform.mmio.read, vm.kernel.platform.iommu.base
        return {(offset, size): read(base + offset, size) for offset, size in self.registers}

    def submit(self, vm, *commands):
        """Into the guest's own queue."""
        self.said += f" {commands}"
        vm.kernel.iommu.queue.submit(*commands)

    def rid(self, vm):
        """A requester ID: one of its own most often, as its guest or as the host knows it, or anybody's."""
        r, own = self.r, vm.vmm.viommu.devices.keys()
        others = [device.rid for device in self.m.accelerators.values()]
        return r.choice((*own, *own, *own, *others, 0, r.getrandbits(16)))

    def tag(self, vm):
        """An ASID, VMID or DomainID: small ones, the host's own, those of other VMs."""
        host = [domain.did for domain in self.m.kernel.iommu.domains.values()]
        return self.r.choice((0, 1, 1, 2, 3, *host, self.r.getrandbits(16)))

    def root(self, vm):
        """Where a table of the guest could be: one of a program, of its kernel, any frame, any number."""
        r, own = self.r, [app.process.mm.root for app in vm.apps]
        tables = [table for rid in vm.kernel.iommu.devices.keys() for table in self.tables_of(vm, rid)]
        return r.choice((*own, *own, *tables, self.frame(), self.number() & 0x000F_FFFF_FFFF_F000))

    def stolen_root(self):
        """Where a table of somebody else is: of another VM's memory, of a process of the host; or any frame."""
        domains = [domain.table.root for domain in self.m.kernel.iommu.domains.values()]
        return self.r.choice((*domains, *(process.mm.root for process in self.m.natives), self.frame()))

    def tables_of(self, vm, rid):
        """The pages of the guest's table of PASIDs for a device."""
        table = vm.kernel.iommu.entry_table(rid)
        return sorted(table.frames()) if table is not None else []

    # --- moves --------------------------------------------------------------------------------------------------------

    def register(self, vm):
        """Any register of the emulated unit."""
        (offset, size), base = self.r.choice(self.registers), vm.kernel.platform.iommu.base
        if self.r.random() < 0.1:
            offset, size = self.r.randrange(vm.kernel.platform.iommu.size) & ~7, self.r.choice((4, 8))
        old = vm.kernel.platform.mmio.read(base + offset, size)
        self.write(vm, base + offset, self.r.choice((self.number(), old ^ 1 << self.r.randrange(8 * size), 0)), size)

    def repair(self, vm):
        """The guest's kernel switches its unit off, sets the registers as they were at boot, and switches it on."""
        base, mmio, old = vm.kernel.platform.iommu.base, vm.kernel.platform.mmio, self.remembered[vm.name]
        for offset, size in self.switches:
            mmio.write(base + offset, 0, size)
        for (offset, size), value in old.items():
            if (offset, size) not in (*self.switches, *self.indices):
                mmio.write(base + offset, value, size)
        self.set_indices(vm)
        for offset, size in self.switches:
            mmio.write(base + offset, old[offset, size], size)

    def command(self, vm):
        """Any command, most of them well formed."""
        code, layout = self.r.choice(self.commands)
        words = list(layout.encode(**{f.name: self.field(vm, f) for f in layout} | {self.opcode: code}))
        if self.r.random() < 0.1:
            words[self.r.randrange(len(words))] ^= 1 << self.r.randrange(64)
        self.submit(vm, tuple(words))

    def field(self, vm, field):
        """A value for one field of a command."""
        r, name = self.r, field.name
        whole = (1 << field.width) - 1 << field.shift
        values = {
            **dict.fromkeys(("SID", "devid", "queueid"), lambda: self.rid(vm)),
            **dict.fromkeys(("SSID", "PASID", "PASID_LO"), lambda: r.choice((0, 1, 1, 2, 3, r.getrandbits(20)))),
            **dict.fromkeys(("VMID", "ASID", "domid"), lambda: self.tag(vm)),
            **dict.fromkeys(("SSV", "GN", "S", "PDE", "leaf"), lambda: r.choice((1, 1, 0))),
            **dict.fromkeys(("GRPID", "tag", "STAG"), lambda: r.choice((0, 1, 2, r.getrandbits(9)))),
            **dict.fromkeys(("RESP", "status"), lambda: r.choice((0, 1, 2, 15))),
            **dict.fromkeys(("addr", "ADDR", "IPA"), lambda: r.choice((self.place(vm), whole))),
            **dict.fromkeys(("STORE_ADDR", "MSIADDR"), lambda: self.frame() | r.randrange(512) * 8),
        }
        given = values[name]() if name in values else r.choice((0, 0, 0, 1)) * r.getrandbits(field.width) << field.shift
        return given & whole

    def answer(self, vm):
        """Answer a request that waits for the guest, or guess one of somebody else, with any code."""
        asked = [(one.rid, one.pasid, one.group) for one in vm.vmm.viommu.page_queue.requests()]
        waiting = [
            (self.rid(vm), pasid if pasid > 0 else None, group)
            for _, pasid, group in self.m.kernel.iommu.page_requests.pending.keys()
        ]
        if (found := self.any_of(asked + waiting)) is None:
            self.work(vm)
            return
        self.seen["answered by hand"] += 1
        self.submit(vm, self.response(*found))

    def device_entry(self, vm):
        """Write the guest's entry of a device: one bit turned over, or another one, and make it known most often."""
        driver, memory = vm.kernel.iommu, vm.kernel.platform.memory
        if (rid := self.any_of(driver.devices.keys())) is None:
            return
        at, count = driver.device_entry(rid), self.entry_layout.word_count
        if at is None:
            self.seen["trips over its own tables"] += 1
            return
        words = memory.load_words(at, count)
        if self.r.random() < 0.5:
            words = self.entry_layout.change(words, **self.changed_entry(vm))
        else:
            turned = self.r.randrange(count)
            words = (*words[:turned], words[turned] ^ 1 << self.r.randrange(64), *words[turned + 1 :])
        self.said += f" {rid:#x} {tuple(map(hex, words))}"
        memory.store_words(at, words)
        if self.r.random() < 0.8:
            self.submit(vm, self.known(rid))

    def mend(self, vm):
        """The guest's kernel writes its entry of a device again as it was when the device came."""
        driver, memory = vm.kernel.iommu, vm.kernel.platform.memory
        if (rid := self.any_of(driver.devices.keys())) is None or (vm.name, rid) not in self.entries_at_boot:
            return
        if (at := driver.device_entry(rid)) is None:
            self.seen["trips over its own tables"] += 1
            return
        memory.store_words(at, self.entries_at_boot[vm.name, rid])
        self.submit(vm, self.known(rid))

    def table_entry(self, vm):
        """Write any entry into the guest's table of PASIDs, and invalidate it most of the time."""
        driver, r = vm.kernel.iommu, self.r
        if (rid := self.any_of(driver.devices.keys())) is None:
            return
        pasid, table = r.choice((0, 1, 1, 1, 2, 3, r.getrandbits(20))), driver.entry_table(rid)
        if table is None or (at := table.address(pasid)) is None:
            return
        words = self.entry_of_pasid(vm)
        self.said += f" {rid:#x} PASID {pasid} {tuple(map(hex, words))}"
        vm.kernel.platform.memory.store_words(at, words)
        if r.random() < 0.8:
            self.submit(vm, *self.forgetting(vm, r.choice((rid, rid, self.rid(vm))), pasid))

    def inner_table(self, vm):
        """Write anywhere into the pages of the guest's table."""
        driver, r = vm.kernel.iommu, self.r
        if (rid := self.any_of(driver.devices.keys())) is None or not (pages := self.tables_of(vm, rid)):
            return
        at = r.choice(pages) | r.randrange(16) * 8
        self.said += f" {at:#x}"
        vm.kernel.platform.memory.store(at, r.choice((self.number(), self.root(vm) | 1)))
        if r.random() < 0.5:
            self.submit(vm, *self.forgetting(vm, rid, r.choice((0, 1, 2))))

    remembered: dict
    entries_at_boot: dict


def _wide(*offsets):
    return tuple((offset, 8) for offset in offsets)


def _narrow(*offsets):
    return tuple((offset, 4) for offset in offsets)


class SmmuMischief(TableMischief):
    """Against SMMUv3."""

    registers = (
        *_narrow(smmu_reg.CR0, smmu_reg.CR1, smmu_reg.CR2, smmu_reg.GBPA, smmu_reg.IRQ_CTRL, smmu_reg.GERRORN),
        *_narrow(smmu_reg.STRTAB_BASE_CFG, smmu_reg.CMDQ_PROD, smmu_reg.CMDQ_CONS),
        *_narrow(smmu_reg.EVTQ_PROD, smmu_reg.EVTQ_CONS, smmu_reg.PRIQ_PROD, smmu_reg.PRIQ_CONS),
        *_wide(smmu_reg.STRTAB_BASE, smmu_reg.CMDQ_BASE, smmu_reg.EVTQ_BASE, smmu_reg.PRIQ_BASE),
        *_wide(smmu_reg.EVTQ_IRQ_CFG0, smmu_reg.PRIQ_IRQ_CFG0, smmu_reg.GERROR_IRQ_CFG0),
    )
    switches = _narrow(smmu_reg.CR0)
    indices = _narrow(
        *(smmu_reg.CMDQ_PROD, smmu_reg.CMDQ_CONS, smmu_reg.EVTQ_PROD, smmu_reg.EVTQ_CONS),
        *(smmu_reg.PRIQ_PROD, smmu_reg.PRIQ_CONS, smmu_reg.GERRORN),
    )
    commands = smmu_queue.COMMANDS
    opcode = "OP"
    entry_layout = smmu.STE

    def set_indices(self, vm):
        """The queues begin where the driver believes them to be; errors are acknowledged."""
        base, mmio = vm.kernel.platform.iommu.base, vm.kernel.platform.mmio
        tail = vm.kernel.iommu.queue._tail
        for offset in (smmu_reg.CMDQ_PROD, smmu_reg.CMDQ_CONS):
            mmio.write(base + offset, tail, 4)
        for producer, consumer in (
            (smmu_reg.EVTQ_PROD, smmu_reg.EVTQ_CONS),
            (smmu_reg.PRIQ_PROD, smmu_reg.PRIQ_CONS),
        ):
            mmio.write(base + producer, mmio.read(base + consumer, 4), 4)
        mmio.write(base + smmu_reg.GERRORN, mmio.read(base + smmu_reg.GERROR, 4), 4)

    def changed_entry(self, vm):
        """Fields of a stream table entry that a guest might like to have."""
        r = self.r
        wanted = {
            "Config": r.choice((0, 4, 5, 5, 6, 7)),
            "S1ContextPtr": self.root(vm) & (1 << 52) - 64,
            "S1CDMax": r.choice((0, 1, 10, 16, 20, 31)),
            "S1Fmt": r.randrange(4),
            "S1DSS": r.randrange(4),
            "S1STALLD": r.getrandbits(1),
            "EATS": r.randrange(4),
            "S2VMID": self.tag(vm),
            "S2TTB": self.stolen_root(),
            "V": r.choice((0, 1, 1)),
        }
        chosen = r.sample(sorted(wanted), r.randrange(1, 4))
        return {name: wanted[name] for name in chosen}

    def entry_of_pasid(self, vm):
        """A context descriptor."""
        r = self.r
        if r.random() < 0.2:
            return tuple(self.number() for _ in range(8))
        return smmu.CD.encode(
            V=r.choice((0, 1, 1, 1)),
            AA64=r.choice((0, 1, 1, 1)),
            T0SZ=r.choice((16, 16, 25, 0, 63)),
            EPD1=r.choice((1, 1, 0)),
            IPS=r.choice((5, 5, r.randrange(8))),
            ASID=self.tag(vm),
            ASET=1,
            A=1,
            R=r.getrandbits(1),
            S=r.choice((0, 0, 1)),
            TTB0=self.root(vm) & (1 << 52) - 16,
            TTB1=self.root(vm) & (1 << 52) - 16,
        )

    def known(self, rid):
        """The command that makes a device's entry known."""
        return smmu_queue.CMD_CFGI_STE.encode(OP=3, SID=rid, leaf=self.r.getrandbits(1))

    def forgetting(self, vm, rid, pasid):
        """The commands that follow a change of an entry of the table."""
        context = smmu_queue.CMD_CFGI_CD.encode(OP=5, SID=rid, SSID=pasid, leaf=self.r.getrandbits(1))
        tag = smmu_queue.CMD_TLBI_NH_ASID.encode(OP=0x11, ASID=self.tag(vm), VMID=self.tag(vm))
        return (context, tag, smmu_queue.CMD_ATC_INV.encode(OP=0x40, SID=rid, SSV=1, SSID=pasid, SIZE=52))

    def response(self, rid, pasid, group):
        """The answer to a page request, or to a stalled transaction."""
        if self.r.random() < 0.3:
            return smmu_queue.CMD_RESUME.encode(OP=0x44, SID=rid, STAG=group & 0xFFFF, RESP=self.r.randrange(3))
        whose = {} if pasid is None else {"SSV": 1, "SSID": pasid}
        return smmu_queue.CMD_PRI_RESP.encode(
            OP=0x41, SID=rid, GRPID=group & 511, RESP=self.r.choice((0, 1, 2, 2)), **whose
        )


class AmdMischief(TableMischief):
    """Against AMD's IOMMU."""

    registers = _wide(
        *(amd_reg.DEV_TAB, amd_reg.CMD_BUF, amd_reg.EVT_BUF, amd_reg.PPR_LOG, amd_reg.CONTROL, amd_reg.STATUS),
        *(amd_reg.CMD_HEAD, amd_reg.CMD_TAIL, amd_reg.EVT_HEAD, amd_reg.EVT_TAIL),
        *(amd_reg.PPR_HEAD, amd_reg.PPR_TAIL),
    )
    switches = _wide(amd_reg.CONTROL)
    indices = _wide(
        *(amd_reg.CMD_HEAD, amd_reg.CMD_TAIL, amd_reg.EVT_HEAD, amd_reg.EVT_TAIL),
        *(amd_reg.PPR_HEAD, amd_reg.PPR_TAIL, amd_reg.STATUS),
    )
    commands = tuple((code, layout) for code, layout, _ in amd_queue.COMMANDS)
    opcode = "OPCODE"
    entry_layout = amd.DTE

    def set_indices(self, vm):
        """The command buffer begins where the driver believes it to be; what was reported is acknowledged."""
        base, mmio = vm.kernel.platform.iommu.base, vm.kernel.platform.mmio
        tail = vm.kernel.iommu.queue._tail
        for offset, value in ((amd_reg.CMD_HEAD, tail), (amd_reg.CMD_TAIL, tail), (amd_reg.STATUS, 0xFFFF)):
            mmio.write(base + offset, value)

    def changed_entry(self, vm):
        """Fields of a device table entry that a guest might like to have."""
        r = self.r
        wanted = {
            "TV": r.choice((0, 1, 1)),
            "V": r.choice((0, 1, 1)),
            "Mode": r.randrange(8),
            "HostRoot": self.stolen_root(),
            "GV": r.choice((0, 1, 1)),
            "GLX": r.randrange(4),
            "GIOV": r.getrandbits(1),
            "PPR": r.getrandbits(1),
            "GPTMode": r.randrange(4),
            "I": r.getrandbits(1),
            "IR": r.getrandbits(1),
            "IW": r.getrandbits(1),
            "DomainID": self.tag(vm),
            "HAD": r.randrange(4),
            "IV": r.getrandbits(1),
            "INT_ROOT": r.randrange(FRAMES) << 12,
            "EX": r.getrandbits(1),
        }
        chosen = {name: wanted[name] for name in r.sample(sorted(wanted), r.randrange(1, 4))}
        if r.random() < 0.4:
            chosen |= amd.gcr3_fields(self.root(vm) & (1 << 52) - PAGE_SIZE)
        return chosen

    def entry_of_pasid(self, vm):
        """An entry of a GCR3 table."""
        if self.r.random() < 0.2:
            return (self.number(),)
        return amd.GCR3_ENTRY.encode(V=self.r.choice((0, 1, 1, 1)), CR3=self.root(vm) & (1 << 52) - PAGE_SIZE)

    def known(self, rid):
        """The command that makes a device's entry known."""
        return amd_queue.CMD_INV_DEVTAB.encode(OPCODE=2, devid=rid)

    def forgetting(self, vm, rid, pasid):
        """The commands that follow a change of an entry of the table."""
        everything = {"S": 1, "addr": 0x7FFF_FFFF_FFFF_F000, "GN": 1}
        pages = amd_queue.CMD_INV_IOMMU_PAGES.encode(OPCODE=3, PASID=pasid, domid=self.tag(vm), PDE=1, **everything)
        low, high = pasid & 0xFF, pasid >> 8 & 0xFF
        device = {"devid": rid, "queueid": rid, "PASID_LO": low, "PASID_HI": high}
        return (pages, amd_queue.CMD_INV_IOTLB_PAGES.encode(OPCODE=4, **device, **everything))

    def response(self, rid, pasid, group):
        """The answer to a page request."""
        whose = {} if pasid is None else {"GN": 1, "PASID": pasid}
        status = self.r.choice((0, 0, 1, 15, 5))
        return amd_queue.CMD_COMPLETE_PPR.encode(OPCODE=7, devid=rid, tag=group & 511, status=status, **whose)
