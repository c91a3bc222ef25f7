"""What a hostile guest can do to VT-d: registers, descriptors, entries of its tables, virtual commands, answers."""

from __future__ import annotations

from pasidlab.hardware.iommu.vtd import register_file as reg
from pasidlab.hardware.layouts.vtd import PASID_ENTRY
from pasidlab.hardware.layouts.vtd_queue import (
    QI_CONTEXT_CACHE,
    QI_DEV_TLB,
    QI_IEC,
    QI_IOTLB,
    QI_PAGE_GROUP_RESP,
    QI_PASID_CACHE,
    QI_PASID_DEV_TLB,
    QI_PIOTLB,
    QI_WAIT,
)
from pasidlab.hardware.memory import PAGE_SIZE
from tests.properties.hostile import Mischief

__all__ = ["VTD_MOVES", "VtdMischief"]

REGISTERS = tuple(
    getattr(reg, name)
    for name in ("GCMD", "RTADDR", "CCMD", "FSTS", "FECTL", "IQH", "IQT", "IQA", "ICS", "IECTL", "IQERR")
) + tuple(getattr(reg, name) for name in ("PQH", "PQT", "PQA", "PRS", "PECTL"))
VIRTUAL_COMMAND = reg.BASE + 0xE10
DESCRIPTORS = {
    QI_CONTEXT_CACHE: 1,
    QI_IOTLB: 2,
    QI_DEV_TLB: 3,
    QI_IEC: 4,
    QI_WAIT: 5,
    QI_PIOTLB: 6,
    QI_PASID_CACHE: 7,
    QI_PASID_DEV_TLB: 8,
    QI_PAGE_GROUP_RESP: 9,
}
VTD_MOVES = {
    "register": 3,
    "repair": 4,
    "descriptor": 5,
    "answer": 5,
    "pasid_entry": 2,
    "context_entry": 1,
    "page_table": 2,
    "memory": 1,
    "device_register": 2,
    "config_space": 1,
    "portal": 3,
    "msr": 1.5,
    "stray": 1.5,
    "program_queue": 1.5,
    "kernel_copy": 1.5,
    "ask": 3,
    "decided": 1,
    "held": 0.5,
    "virtual_command": 1,
    "free": 1,
    "raw_bind": 1,
    "work": 9,
    "program_ends": 2,
}
"""How often each of them, against each other."""


class VtdMischief(Mischief):
    """The moves against VT-d."""

    def submit(self, vm, *descriptors):
        """Into the guest's own invalidation queue."""
        self.said += f" {descriptors}"
        vm.kernel.iommu.queue.submit(*descriptors)

    def register(self, vm):
        """Any register of the emulated unit."""
        offset = self.r.choice(REGISTERS) if self.r.random() < 0.9 else self.r.randrange(0x1000)
        value = self.r.choice((0, 1 << 31, 1 << 26, 1 << 31 | 1 << 26)) if offset == reg.GCMD else self.number()
        self.write(vm, reg.BASE + offset, value, self.r.choice((4, 8)))

    def repair(self, vm):
        """The guest's kernel sets its registers right again, as far as it remembers them."""
        mmio = vm.kernel.platform.mmio
        mmio.write(reg.BASE + reg.FSTS, 0x7F, 4)
        mmio.write(reg.BASE + reg.GCMD, 1 << 31 | 1 << 26, 4)

    def descriptor(self, vm):
        """Any descriptor, most of them well formed."""
        layout = self.r.choice(tuple(DESCRIPTORS))
        words = list(layout.encode(**{field.name: self.field(vm, layout, field) for field in layout.fields}))
        if self.r.random() < 0.1:
            words[0] ^= self.number()
        self.submit(vm, tuple(words))

    def field(self, vm, layout, field):
        """A value for one field of a descriptor."""
        r, name = self.r, field.name
        rids = vm.vmm.viommu.devices.keys()
        values = {
            "TYPE": lambda: DESCRIPTORS[layout],
            "SID": lambda: r.choice(rids) if rids else 0,
            "RID": lambda: r.choice(rids) if rids else 0,
            "PASID": lambda: r.choice((1, 1, 1, 2, 3, r.getrandbits(20))),
            "DID": lambda: r.choice((1, 1, 2, 0)),
            "RC": lambda: r.choice((0, 1, 15, 2)),
            "PP": lambda: r.choice((1, 1, 1, 0)),
            "LPIG": lambda: 1,
            "PRGI": lambda: r.choice((0, 1, 2, r.getrandbits(9))),
            "AM": lambda: r.choice((0, 1, 9, 18, r.getrandbits(6))),
            "STADDR": lambda: self.frame() | r.randrange(1024) * 4,
            "ADDR": lambda: self.place(vm) & -PAGE_SIZE & (1 << 64) - 1,
        }
        if name in values:
            return values[name]()
        return r.choice((0, 0, 0, 1)) * r.getrandbits(field.width) << field.shift

    def answer(self, vm):
        """Answer a request that waits for the guest, or guess one of somebody else, with any code."""
        asked = [(one.rid, one.pasid or 0, one.group) for one in vm.vmm.viommu.page_queue.requests()]
        bound = vm.vmm.viommu.bound.items()
        waiting = [
            (rid, pasid, group)
            for _, host_pasid, group in self.m.kernel.iommu.page_requests.pending.keys()
            for (rid, pasid), known in bound
            if known.host_pasid == host_pasid or self.r.random() < 0.2
        ]
        if (found := self.any_of(asked + waiting)) is None:
            self.work(vm)
            return
        code = self.r.choice((0, 1, 15, 15, 5))
        self.seen["answered by hand"] += 1
        fields = {"RID": found[0], "PASID": found[1], "PRGI": found[2]}
        self.submit(vm, QI_PAGE_GROUP_RESP.encode(TYPE=9, PP=1, LPIG=1, RC=code, **fields))

    def pasid_entry(self, vm):
        """Write any PASID entry into the guest's table, and invalidate it most of the time."""
        r, driver = self.r, vm.kernel.iommu
        if (rid := self.any_of(driver.tables.keys())) is None:
            return
        pasid = r.choice((1, 1, 1, 2, 3, r.getrandbits(20)))
        root = r.choice(
            [self.frame(), self.number() & -PAGE_SIZE & (1 << 64) - 1, *(a.process.mm.root for a in vm.apps)]
        )
        words = PASID_ENTRY.encode(
            P=r.choice((0, 1, 1, 1)), PGTT=r.choice((1, 1, 1, 2, 3, 4, 7)), DID=1, FLPTPTR=root, WPE=r.getrandbits(1)
        )
        self.said += f" {rid:#x} PASID {pasid} root {root:#x}"
        driver.tables[rid].write(pasid, words)
        if r.random() < 0.8:
            driver.queue.submit(driver.queue.pasid_cache(1, pasid), driver.queue.pasid_iotlb(1, pasid))

    def context_entry(self, vm):
        """Turn one bit of a context entry over, and perhaps back."""
        driver, r = vm.kernel.iommu, self.r
        if (rid := self.any_of(driver.tables.keys())) is None:
            return
        at, bit = driver._context_slot(rid) + 8 * r.randrange(4), 1 << r.randrange(64)
        for _ in range(r.choice((1, 2, 2))):
            driver.memory.store(at, driver.memory.load(at) ^ bit)
            driver.queue.submit(driver.queue.context_cache(rid))

    def virtual_command(self, vm):
        """Allocate or free numbers, its own and others, or something that does not exist."""
        command = self.r.choice((1, 1, 2, 3))
        self.write(vm, VIRTUAL_COMMAND, command | self.r.choice((1, 1, 2, 3, 4, self.r.getrandbits(20))) << 8)
