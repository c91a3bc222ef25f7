"""The five users of a PASID: each is read where the number takes effect, and only while it does."""

import pytest

from pasidlab import Machine
from pasidlab.views.table import table_text
from pasidlab.views.users import USERS, kept, users


def bound(kind, policy=None):
    """A machine with a VM and a process bound to an interface of this kind of queue, or to a whole function."""
    m = Machine()
    dsa, vm = m.plug_accelerator("dsa0"), m.create_vm("vm1", policy=policy)
    device = m.assign_pf(dsa, vm) if kind == "function" else m.assign_adi(dsa, vm, queue=kind)
    app = vm.spawn("app")
    app.bind(device, queue="dedicated" if kind == "function" else None)
    return m, vm, app, device


def test_a_dedicated_interface_has_all_five_and_two_registers():
    """The guest's number in the CPU and in the emulated register, the host's everywhere else."""
    m, vm, _, _ = bound("dedicated")
    found = kept(m, vm, 1)
    assert [one.user for one in found] == [*USERS, "device"]
    assert [one.number for one in found] == [1, 2, 2, 2, 1, 2]


def test_a_shared_interface_has_no_register_with_the_number():
    """It comes with each ENQCMD."""
    m, vm, _, _ = bound("shared")
    assert [one.user for one in kept(m, vm, 1)] == ["cpu", "vfio", "iommu", "kvm"]
    assert "does not know it now" in table_text(users(m, vm, 1)).splitlines()[-1]


@pytest.mark.parametrize(("policy", "number"), [("identity", 1), ("refuse", 1), ("unenforced", 1)])
def test_a_function_has_one_register_with_the_number_that_it_sends(policy, number):
    """The guest's; nobody was in between."""
    m, vm, _, _ = bound("function", policy)
    registers = [one for one in kept(m, vm, number) if one.user == "device"]
    assert [one.number for one in registers] == [number]
    assert registers[0].place.startswith("WQCFG of dsa0 wq")


def test_the_msr_is_the_cpus_while_the_process_runs_and_the_kernels_before():
    """A process that has not run since its bind has it in its saved state."""
    m, vm, app, device = bound("shared")
    assert kept(m, vm, 1)[0].place == "saved state of app"
    app.copy(device, app.buffer(b"x"), app.buffer(1), 1)
    assert kept(m, vm, 1)[0].place == "IA32_PASID of vm1's CPU"
    assert kept(m, vm, 1)[0].raw == 1 << 31 | 1


def test_what_is_shown_is_what_lies_in_memory():
    """The words at the named addresses."""
    m, vm, _, _ = bound("shared")
    words = {one.user: one for one in kept(m, vm, 1)}
    address = int(words["kvm"].place.rpartition(" ")[2], 16)
    assert m.memory.load32(address) == words["kvm"].raw == 1 << 31 | vm.pasids[1]
    entry = int(words["iommu"].place.split()[3].rstrip(","), 16)
    assert m.memory.load(entry) == words["iommu"].raw


def test_after_unbind_nobody_keeps_anything():
    """Five rows that say so."""
    m, vm, app, device = bound("dedicated")
    app.unbind(device)
    assert kept(m, vm, 1) == []
    assert [row.cells[1] for row in users(m, vm, 1).rows] == ["nowhere"] * 5
