"""Binding a guest's page tables to host PASIDs, one by one.

Models ``drivers/iommu/intel/svm.c`` of the guest SVA series, on top of what all drivers do (:mod:`..bindings`): after
the entry and the reference comes the SPID, which is what notifies the other users (KVM, mediated devices); on the way
back they are told when it is detached. Only the first device of a PASID notifies, only its last one undoes that. Users
are counted on devices with auxiliary domains only: there several interfaces of one parent share its table.

A bind with HPASID_DEF is for the domain's default PASID, whose second-level entry it replaces by a nested one. Nobody
is told (there is no SPID), and unbind leaves no entry: the second-level one does not come back (a reading of the code).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.errors import KernelError
from pasidlab.hardware.pcie import PASID_LIMIT, format_rid
from pasidlab.kernel.iommu.bindings import Bindings, SvmBinding
from pasidlab.kernel.iommu.checks import refuse
from pasidlab.kernel.iommu.device import enable_pasid
from pasidlab.kernel.iommu.uapi import HPASID_DEF, GuestPasidBind
from pasidlab.kernel.iommu.vtd import entries
from pasidlab.kernel.iommu.vtd.guest_bind import DEVICE_CHECKS, PASID_CHECKS, GuestBind
from pasidlab.kernel.iommu.vtd.nested import NestedEntry
from pasidlab.timeline import Verb

if TYPE_CHECKING:
    from pasidlab.kernel.ioasid.sets import IoasidSet
    from pasidlab.kernel.iommu.domain import Domain
    from pasidlab.kernel.iommu.vtd.driver import VtdDriver

__all__ = ["Svm"]


class Svm(Bindings):
    """The PASID bindings of one VT-d driver."""

    def __init__(self, driver: VtdDriver) -> None:
        super().__init__(driver)
        self.vtd = driver

    # --- a guest's page table -----------------------------------------------------------------------------------------

    def bind_guest(self, rid: int, domain: Domain, data: GuestPasidBind | None, the_set: IoasidSet) -> None:
        """Nest a guest's page table over its VM's domain, under a host PASID.

        Errors, in the order of facts/ioasid.md 4.2: no data ``-EINVAL`` (row 1); the request and the device
        (:data:`.guest_bind.DEVICE_CHECKS`, rows 2 to 6); HPASID_DEF without a default PASID on this device ``-EINVAL``
        (7, UNVERIFIED which errno); host PASID out of range, unknown device (:data:`.guest_bind.PASID_CHECKS`, 8, 9);
        PASID not allocated or dying ``-ENOENT``, owned by another set ``-EACCES`` (10; a default PASID is the host's);
        bound on no device ``-EINVAL`` (11); already bound on this device ``-EBUSY`` (12), unless it has auxiliary
        domains; ``-ENOMEM`` (13); PASIDs cannot be enabled on the device (14); :data:`.nested.NESTED_CHECKS` (15).
        Last, which the code ignores: ``-EINVAL`` the guest's number already stands for another host PASID.

        On a device that carries the guest's numbers (:class:`.device.Numbering`) the entry is that of the guest's
        number; ``-EINVAL`` a bind that names none.
        """
        if data is None:
            raise KernelError("EINVAL", "a bind must have bind data")
        device = self.vtd.devices.get(rid)
        refuse(DEVICE_CHECKS, GuestBind(rid, device, data))
        if data.flags & HPASID_DEF:
            data = data._replace(hpasid=self._default_pasid(domain, rid), gpasid=None)
        refuse(PASID_CHECKS, GuestBind(rid, device, data))
        self._look_up(data.hpasid, None if data.flags & HPASID_DEF else the_set)
        binding = self._with_devices(data.hpasid)
        if binding is not None and rid in binding.devices:
            self._bind_again(binding, rid, domain)
            return
        if binding is None:
            self._bind_first(rid, domain, data)
        else:
            self._add_device(binding, rid, domain, data)
        pasid = data.hpasid
        refs = self.core.refs(pasid)
        self.emit(Verb.BIND, f"PASID {pasid} on {format_rid(rid)}", rid=rid, pasid=pasid, gpasid=data.gpasid, refs=refs)

    def _default_pasid(self, domain: Domain, rid: int) -> int:
        """The default PASID with which a device reaches a domain. ``-EINVAL``: it is not an auxiliary one there."""
        if domain.default_pasid is None or rid not in domain.aux:
            raise KernelError("EINVAL", f"the domain of {domain.name} must have a default PASID on {format_rid(rid)}")
        return domain.default_pasid

    def _look_up(self, pasid: int, the_set: IoasidSet | None) -> None:
        self.core.living(pasid, the_set)

    def _with_devices(self, pasid: int) -> SvmBinding | None:
        """The binding of a PASID; one without any device is a mistake of this driver, which the code warns of."""
        binding = self._binding(pasid)
        if binding is not None and not len(binding.devices):
            raise KernelError("EINVAL", f"PASID {pasid} has a binding, which must be on some device")
        return binding

    def _bind_again(self, binding: SvmBinding, rid: int, domain: Domain) -> None:
        """The PASID is bound on this device: refused, or on a device with auxiliary domains one more user.

        What the new request asks for is not looked at: the interfaces of one parent share its entry.
        """
        if rid not in domain.aux:
            raise KernelError("EBUSY", f"PASID {binding.pasid} is already bound on {format_rid(rid)}")
        binding.devices[rid] += 1

    def _bind_first(self, rid: int, domain: Domain, data: GuestPasidBind) -> None:
        """The first device of a PASID: entry, reference, and only then the SPID, which tells the others."""
        number = self._number(rid, data)
        binding = self._first(
            data.hpasid,
            lambda: self._write_nested(rid, domain, data),
            lambda: self.vtd.clear_entry(rid, number, ioasid=data.hpasid),
            guest=True,
        )
        self._record(binding, rid, domain, data)
        self._announce(binding, rid, data)

    def _add_device(self, binding: SvmBinding, rid: int, domain: Domain, data: GuestPasidBind) -> None:
        """A further device: an entry of its own, no reference, nobody is told."""
        self._write_nested(rid, domain, data)
        self._record(binding, rid, domain, data)

    def _record(self, binding: SvmBinding, rid: int, domain: Domain, data: GuestPasidBind) -> None:
        """A device's first count of users (only devices with auxiliary domains count), and its number."""
        binding.devices[rid] = int(rid in domain.aux)
        number = self._number(rid, data)
        if number != binding.pasid:
            binding.numbers[rid] = number

    def _number(self, rid: int, data: GuestPasidBind) -> int:
        """The PASID under which requests of ``rid`` will mean what is bound."""
        if rid not in self.vtd.numbering:
            return data.hpasid
        if data.gpasid is None or not 0 < data.gpasid < PASID_LIMIT:
            raise KernelError(
                "EINVAL", f"a bind on {format_rid(rid)} must name the guest's PASID, by which the device will ask"
            )
        return data.gpasid

    def _write_nested(self, rid: int, domain: Domain, data: GuestPasidBind) -> None:
        """Memory for the device's record, PASIDs on, then the entry. What is in its place now is torn down first."""
        self.core.slab.alloc("struct intel_svm_dev")
        enable_pasid(self.vtd.function(rid))
        number = self._number(rid, data)
        words, meaning = self._nested(rid, number, domain, data)
        if entries.is_present(self.vtd.table_of(rid).read(number)):
            self.vtd.clear_entry(rid, number, ioasid=data.hpasid)
        self.vtd.set_entry(rid, number, words, meaning, ioasid=data.hpasid)

    def _nested(self, rid: int, number: int, domain: Domain, data: GuestPasidBind) -> tuple[tuple[int, ...], str]:
        """The words of a nested entry, and what they mean. Errors: :data:`.nested.NESTED_CHECKS`."""
        current = self.vtd.table_of(rid).read(number)
        words = NestedEntry(data, domain, self.vtd.unit, current).words()
        return words, f"nested: guest table at {data.gpgd:#x} over memory of {domain.name}"

    def _announce(self, binding: SvmBinding, rid: int, data: GuestPasidBind) -> None:
        """Attach the SPID, which notifies BIND; if it is refused, take everything back."""
        if data.gpasid is None:
            return
        try:
            self.core.attach_spid(data.hpasid, data.gpasid)
        except KernelError:
            self._take_back(binding, rid)
            raise

    def _take_back(self, binding: SvmBinding, rid: int) -> None:
        """Undo what a first bind did before it failed: entry, SPID (if they are there), record, reference."""
        if rid in binding.devices:
            self._clear(binding, rid)
            self._leave(binding, rid)
        if self.core.ids[binding.pasid].spid is not None:
            self.core.detach_spid(binding.pasid)
        self._forget(binding)

    def unbind_guest(self, rid: int, pasid: int, the_set: IoasidSet, *, entirely: bool = False) -> None:
        """Undo one :meth:`bind_guest`, or with ``entirely`` all of them: the domain leaves the device.

        Errors: ``-ENOENT``/``-EACCES`` as for bind. A PASID that is allocated but not bound on this device is no error
        and nothing happens (a late unbind after FREE finds it so).
        """
        self.core.living(pasid, the_set)
        self._unbind(rid, pasid, entirely=entirely)

    def unbind_default(self, rid: int, domain: Domain) -> None:
        """Undo a :meth:`bind_guest` with HPASID_DEF. ``-EINVAL``: the domain has no default PASID on this device."""
        pasid = self._default_pasid(domain, rid)
        self.core.living(pasid)
        self._unbind(rid, pasid, entirely=False)

    def _unbind(self, rid: int, pasid: int, *, entirely: bool) -> None:
        binding = self._binding(pasid)
        if binding is None or rid not in binding.devices:
            return
        if binding.devices[rid] > 1 and not entirely:
            binding.devices[rid] -= 1
            return
        self._clear(binding, rid)
        self._release_device(binding, rid)
