"""What a hostile guest can do on every machine: memory, page tables, devices, portals, configuration space, calls.

What it does to its IOMMU stands beside this: :mod:`.hostile_vtd`, :mod:`.hostile_tables`. Everything is drawn from one
generator of numbers. Each move is a method that takes the VM.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

from pasidlab.errors import KernelError
from pasidlab.hardware.accelerator import register_map as device_registers
from pasidlab.hardware.accelerator.descriptor import Descriptor
from pasidlab.hardware.cpu import IA32_PASID
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.kernel.platform import ECAM_BASE
from pasidlab.machine import Machine

__all__ = ["ALONE", "FRAMES", "MEMORY", "Mischief", "refused_to"]

MEMORY = 1 << 20
FRAMES = MEMORY // PAGE_SIZE


ALONE = ("decided", "held")
"""Moves that are calls on the machine of their own: their traps are decided one by one."""


def refused_to(names, call, *args, **options):
    """What a call answers; ``None`` if it is refused with one of these errors."""
    try:
        return call(*args, **options)
    except KernelError as error:
        if error.name not in names:
            raise
        return None


class Mischief:
    """The moves. ``said`` is the last one in words, ``seen`` counts."""

    m: Machine

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, seed, seen):
        self.r = random.Random(seed)
        self.seen: Counter[str] = seen
        self.said = "nothing yet"
        self.count = 0

    def any_of(self, things):
        """One of them, or ``None``."""
        return self.r.choice(things) if things else None

    def new_name(self):
        """A name that no program has had."""
        self.count += 1
        return f"app{self.count}"

    def number(self):
        """A number as a register might get it."""
        r = self.r
        return r.choice(
            (r.getrandbits(64), r.getrandbits(20), r.choice((0, 1, 2, 0xFFFF_FFFF, (1 << 64) - 1)), self.frame(), 0)
        ) or 1 << r.randrange(64)

    def frame(self):
        """The address of some frame of a guest."""
        return self.r.randrange(FRAMES) << 12

    def place(self, vm):
        """An address: of one of the guest's programs, most often."""
        starts = [start for app in vm.apps for start in app.process.mm.areas.keys()]
        if starts and self.r.random() < 0.7:
            return self.r.choice(starts) + self.r.choice((0, 8, 64, 4000))
        return self.number()

    def write(self, vm, address, value, size=8):
        """A store that traps."""
        self.said += f" {address:#x} = {value:#x}"
        vm.kernel.platform.mmio.write(address, value & (1 << 8 * size) - 1, size)

    def ask(self, vm):
        """A program has its device ask for a page; before its own kernel gets to it, somebody answers by hand."""
        app, device, before = self.any_of(vm.apps), self.any_of(vm.devices), self.m.pending
        if app is None or device is None:
            return
        app.submit(device, app.buffer(8), app.buffer(PAGE_SIZE, populate=False), 8, block_on_fault=True)
        for _ in range(6):
            new = [action for action in self.m.pending if action not in before]
            if vm.vmm.viommu.page_queue.requests() or not new:
                break
            self.m.run(new[0].number)
        self.answer(vm)

    def page_table(self, vm):
        """Write any entry of a program's page table."""
        if not vm.apps:
            return
        memory, table = vm.kernel.platform.memory, self.r.choice(vm.apps).process.mm.root
        at = table | 0xFE * 8
        for _ in range(self.r.randrange(4)):
            below = memory.load(at) & 0x000F_FFFF_FFFF_F000
            if not 0 < below < MEMORY:
                break
            at = below | self.r.randrange(8) * 8
        page = vm.kernel.platform.cpu.architecture.paging.page
        value = self.number() if self.r.random() < 0.5 else self.frame() | page
        self.said += f" {at:#x} = {value:#x}"
        memory.store(at, value)

    def memory(self, vm):
        """Write anywhere into the guest's memory."""
        vm.kernel.platform.memory.store(self.frame() | self.r.randrange(512) * 8, self.number())

    def device_register(self, vm):
        """Commands and queue configuration of a device."""
        regions = [region for region in vm.kernel.platform.mmio.regions.values() if "BAR0" in region.name]
        region, r = self.any_of(regions), self.r
        if region is None:
            return
        queue = device_registers.wqcfg_offset(r.randrange(3), 2)
        permission = device_registers.MSIX_PERM + r.randrange(8) * 4
        message = device_registers.MSIX_TABLE + r.randrange(16) * 4
        anywhere = r.randrange(region.size) & ~3
        offset = r.choice((device_registers.CMD, device_registers.CMD, queue, permission, message, anywhere))
        value = self.number()
        if offset == device_registers.CMD:
            value = r.randrange(1, 13) << 20 | r.choice((0, 1, 2, 3, r.getrandbits(20)))
        elif offset == permission:
            value = self.pasid(vm) << 12 | r.getrandbits(4)
        elif offset == queue:
            value = r.choice((0, 1, 2, r.getrandbits(20))) << 8 | r.getrandbits(2) << 28
        self.write(vm, region.base + offset, value, 4)

    def config_space(self, vm):
        """The device's configuration space: BARs, ATS, PRI, PASID, anything."""
        if rids := vm.vmm.bus.functions.keys():
            offset = self.r.choice((4, 0x104, 0x114, 0x124, 0x12C, self.r.randrange(0x1000) & ~3))
            self.write(vm, ECAM_BASE + (self.r.choice(rids) << 12) + offset, self.number(), 4)

    def portal(self, vm):
        """A descriptor with any addresses and, from the kernel, any PASID."""
        regions = [region for region in vm.kernel.platform.mmio.regions.values() if "portals" in region.name]
        region, r = self.any_of(regions), self.r
        if region is None:
            return
        size = r.choice((1, 64, PAGE_SIZE, 2 * PAGE_SIZE, 1 << 31))
        work = Descriptor(r.choice((3, 3, 3, 4, 6, 9, 1, 1)), src=self.place(vm), dst=self.place(vm), size=size)
        work = work._replace(
            completion_addr=self.place(vm) & ~31,
            flags=r.choice((0, 2, 6, 0xC, 0xE, 0xE, 0x1C, 0x1E)),
            pasid=r.choice((0, 1, 1, 2, 5, r.getrandbits(20))),
            priv=r.getrandbits(1),
            int_handle=r.choice((0, 0, 1, 2, r.getrandbits(8))),
            int_table=r.getrandbits(1),
        )
        send = r.choice((vm.vmm.cpu.movdir64b, vm.vmm.cpu.enqcmds))
        send(vm.kernel.platform.mmio, region.base + (r.randrange(region.size) & ~63), work.to_bytes())

    def msr(self, vm):
        """ENQCMD with any number in IA32_PASID, at any portal of any of its devices."""
        regions = [region for region in vm.kernel.platform.mmio.regions.values() if "portals" in region.name]
        region, r, cpu = self.any_of(regions), self.r, vm.vmm.cpu
        if region is None:
            return
        number = r.choice((*vm.pasids.keys(), *vm.pasids.values(), r.randrange(1, 12), r.getrandbits(20)))
        cpu.write_msr(IA32_PASID, 1 << 31 | number)
        size, flags = r.choice((8, PAGE_SIZE)), r.choice((0xC, 0xE))
        work = Descriptor(r.choice((3, 4)), src=self.place(vm), dst=self.place(vm), size=size, flags=flags)
        work = work._replace(completion_addr=self.place(vm) & ~31)
        cpu.enqcmd(vm.kernel.platform.mmio, region.base + (r.randrange(region.size) & ~63), work.to_bytes())

    def stray(self, vm):
        """The firmware of a function that the VM has as a whole puts any request on the bus."""
        whole = [device for device in vm.devices if not device.mediated]
        if (device := self.any_of(whole)) is None:
            return
        r = self.r
        pasid = r.choice((None, 0, *vm.pasids.values(), r.randrange(1, 12), r.getrandbits(20)))
        address = r.choice((self.place(vm), self.frame())) & (1 << 64) - 8
        self.m.dma(device.parent, pasid, address, r.choice(("read", "write")), tlb=bool(r.getrandbits(1)))

    def pasid(self, vm):
        """A number, of its own most often: as its guest or as the host knows it."""
        r = self.r
        return r.choice((0, *vm.pasids.keys(), *vm.pasids.keys(), *vm.pasids.values(), r.randrange(1, 12)))

    def program_queue(self, vm):
        """A queue gets any number, by the book."""
        driver = self.any_of(list(vm.kernel.accelerators.values()))
        if driver is None or not len(driver.queues):
            return
        queue, pasid = self.any_of(driver.queues.keys()), self.pasid(vm)
        self.said += f" {driver.name} wq{queue} PASID {pasid}"
        driver.disable(queue)
        self.seen[f"enabled: {driver.enable_for(queue, pasid).name}"] += 1

    def kernel_copy(self, vm):
        """The guest's kernel copies in its own memory, under any number or none."""
        if device := self.any_of(vm.devices):
            pasid = self.r.choice((None, None, self.pasid(vm)))
            src, dst = self.frame(), self.r.choice((self.frame(), self.place(vm) & (1 << 64) - 1))
            vm.copy(device, src, dst, self.r.choice((8, 64)), pasid)

    def answers(self):
        """What a person in the hypervisor's place says to its traps."""
        said = ("serve", "serve", "refuse", f"alter {self.r.choice((0, 1, 2, 5, self.r.getrandbits(20)))}")
        return [self.r.choice(said) for _ in range(self.r.randrange(1, 6))]

    def call(self, vm):
        """A call of the guest's that leads to traps: bind, unbind, free, exit."""
        app, device = self.any_of(vm.apps), self.any_of(vm.devices)
        if app is None or device is None:
            vm.spawn(self.new_name())
        elif self.r.random() < 0.6:
            app.bind(device)
        elif self.r.random() < 0.6:
            app.unbind(device)
        else:
            vm.free_pasid(self.pasid(vm))

    def decided(self, vm):
        """Its hypervisor decides its traps wrongly."""
        answers = self.answers()
        self.said += f" {answers}"
        with self.m.hypervisor(*answers):
            self.call(vm)

    def held(self, vm):
        """Its traps wait, and are decided one after the other, or given up."""
        self.m.hold_traps()
        try:
            if refused_to(("EINPROGRESS",), self.call, vm) is None:
                for said in self.answers():
                    answer, _, value = said.partition(" ")
                    if self.m.traps:
                        self.m.decide(answer, int(value) if value else None)
        finally:
            self.m.hold_traps(on=False)

    def free(self, vm):
        """Give a PASID back that is in use."""
        vm.free_pasid(self.r.choice((1, 1, 2)))

    def raw_bind(self, vm):
        """The hypervisor asks for any host PASID."""
        if vm.apps and vm.devices:
            vm.bind_raw(self.r.choice(vm.devices), self.r.randrange(1, 9), self.r.choice(vm.apps))

    def work(self, vm):
        """A program of the guest copies between its buffers."""
        app = self.any_of(vm.apps)
        if app is None or len(starts := app.process.mm.areas.keys()) < 2:
            self.program(vm)
            return
        if not vm.devices:
            return
        src, dst = self.r.sample(starts, 2)
        if self.r.random() < 0.7:
            dst = app.buffer(PAGE_SIZE, populate=False)
        device, size, patient = self.r.choice(vm.devices), self.r.choice((8, 64, PAGE_SIZE)), self.r.random() < 0.8
        if self.r.random() < 0.2:
            app.batch(device, [(src, dst, size), (dst, self.r.choice(starts), 8)], block_on_fault=patient)
        else:
            self.r.choice((app.copy, app.submit, app.submit))(device, src, dst, size, block_on_fault=patient)

    def program_ends(self, vm):
        """A program lets go of memory, of a device, or of everything."""
        if (app := self.any_of(vm.apps)) is None:
            return
        what = self.r.randrange(4)
        starts = app.process.mm.areas.keys()
        if what < 2 and starts:
            app.free(self.r.choice(starts[1:] or starts))
        elif what == 2 and vm.devices:
            app.unbind(self.r.choice(vm.devices))
        else:
            app.exit()

    def program(self, vm):
        """A program of a hostile VM, bound wherever that is possible."""
        app = vm.spawn(self.new_name())
        for device in vm.devices:
            refused_to(("EBUSY", "EIO", "ENOSPC", "ENODEV", "EEXIST", "EINVAL"), app.bind, device)
        for populate in (True, False):
            app.buffer(2 * PAGE_SIZE, populate=populate)
