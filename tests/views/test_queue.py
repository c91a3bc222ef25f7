"""A work queue drawn: whose each descriptor is, how much room is left, what the engine has begun."""

from __future__ import annotations

import pytest

from pasidlab import Machine
from pasidlab.errors import KernelError
from pasidlab.handles import App, AssignedDevice
from pasidlab.views import Figure, text, topology
from pasidlab.views.queue_figure import work_queue
from pasidlab.views.queue_slots import clients_of, in_flight, waiting


def three_vms() -> tuple[Machine, list[tuple[App, AssignedDevice]]]:
    """Three VMs on one shared queue, a bound process in each."""
    machine = Machine()
    dsa = machine.plug_accelerator("dsa0")
    users = []
    for at in range(3):
        vm = machine.create_vm(f"vm{at + 1}")
        adi = machine.assign_adi(dsa, vm)
        app = vm.spawn("app")
        app.bind(adi)
        users.append((app, adi))
    return machine, users


def submit(user: tuple[App, AssignedDevice], size: int = 64) -> None:
    """One copy that waits."""
    app, adi = user
    at = app.buffer(size)
    app.submit(adi, at, at, size)


def test_each_descriptor_names_its_vm_and_both_of_its_numbers() -> None:
    """In the order in which they came; each VM has a glyph of its own."""
    machine, users = three_vms()
    for user in (*users, users[1]):
        submit(user)
    works = waiting(machine, "dsa0", 0)
    assert [work.owner for work in works] == ["vm1", "vm2", "vm3", "vm2"]
    assert [work.pasid for work in works[:3]] == [machine.vm(f"vm{at}").pasids[1] for at in (1, 2, 3)]
    assert {work.guest for work in works} == {1}
    figure = work_queue(machine, "dsa0", 0)
    assert [figure.node(f"slot:{at}").word for at in range(4)] == ["vm1", "vm2", "vm3", "vm2"]
    assert len({figure.node(f"slot:{at}").state for at in range(3)}) == 3
    assert figure.node("slot:1").lines[2].startswith("no. 1, ")
    assert figure.node("slot:4").lines[1] == "empty"
    assert figure.node("client:1").lines == ("adi1", "ADI of vm2", "2 waiting")


def _ticket(figure: Figure, slot: int) -> int:
    """The number of the descriptor in a place."""
    return int(figure.node(f"slot:{slot}").lines[2].removeprefix("no. ").split(",")[0])


def test_a_descriptor_keeps_its_place_until_it_leaves() -> None:
    """Also when an older one is done, and when more come than there are places."""
    machine, users = three_vms()
    for _ in range(10):
        submit(users[0])
    machine.run(machine.pending[4].number)
    figure = work_queue(machine, "dsa0", 0)
    assert [_ticket(figure, at) for at in (3, 5)] == [3, 5]
    assert figure.node("slot:4").lines[1] == "empty"
    for _ in range(7):
        submit(users[1])
    figure = work_queue(machine, "dsa0", 0)
    tickets = sorted(_ticket(figure, at) for at in range(16))
    assert tickets == [0, 1, 2, 3, *range(5, 17)]


def test_a_full_queue_says_so_and_nothing_moves() -> None:
    """The limited portal takes no more; the layout is that of the empty queue."""
    machine, users = three_vms()
    empty = topology(work_queue(machine, "dsa0", 0))
    for _ in range(16):
        submit(users[0], 8)
    with pytest.raises(KernelError, match="EAGAIN"):
        submit(users[0], 8)
    figure = work_queue(machine, "dsa0", 0)
    assert figure.node("portals").word == "full"
    assert figure.node("queue").lines[1] == "16 of 16 wait"
    assert topology(figure) == empty


def test_work_in_flight_is_beside_the_queue_with_its_progress() -> None:
    """One step is a page; the descriptor has left its slot."""
    machine, users = three_vms()
    submit(users[2], 9000)
    machine.run(machine.pending[0].number)
    assert [(work.owner, work.done, work.size) for work in in_flight(machine, "dsa0", 0)] == [("vm3", 4096, 9000)]
    figure = work_queue(machine, "dsa0", 0)
    assert figure.node("moving:0").lines == (
        "MEMMOVE",
        f"host {machine.vm('vm3').pasids[1]} = guest 1",
        "4096 of 9000 bytes",
    )
    assert figure.node("slot:0").lines[1] == "empty"
    assert figure.node("engine").lines[1] == "1 in flight"
    assert "4096 of 9000 bytes" in text(figure)


def test_the_queue_of_a_guests_function_has_the_guests_processes_and_numbers() -> None:
    """On the wire is the guest's number; the VM's name is found all the same."""
    machine = Machine()
    dsa = machine.plug_accelerator("dsa0")
    vm = machine.create_vm("vm1", policy="refuse")
    pf, app = machine.assign_pf(dsa, vm), vm.spawn("app")
    app.bind(pf)
    submit((app, pf))
    queue = app.kernel.accelerators["dsa0"].queue_of(app.process)
    assert queue is not None
    wq = queue.index
    assert [(client.name, client.owner, client.adi) for client in clients_of(machine, "dsa0", wq)] == [
        ("app", "vm1", False)
    ]
    work = waiting(machine, "dsa0", wq)[0]
    assert (work.owner, work.pasid, work.guest) == ("vm1", 1, 1)
    assert work_queue(machine, "dsa0", wq).node("slot:0").word == "vm1"


def test_a_dedicated_queue_shows_the_number_in_its_register() -> None:
    """It comes from WQCFG; descriptors carry none that counts."""
    machine = Machine()
    dsa = machine.plug_accelerator("dsa0")
    vm = machine.create_vm("vm1")
    adi, app = machine.assign_adi(dsa, vm, queue="dedicated"), vm.spawn("app")
    app.bind(adi)
    host, wq = vm.pasids[1], vm.vmm.mdevs[adi.name].queue.index
    assert work_queue(machine, "dsa0", wq).node("queue").lines[2] == f"WQCFG.pasid = {host}"


@pytest.mark.parametrize(
    ("device", "number", "name"), [("dsa9", 0, "ENODEV"), ("dsa0", 9, "EINVAL"), ("dsa0", -1, "EINVAL")]
)
def test_a_queue_that_is_not_there_is_refused(device: str, number: int, name: str) -> None:
    """By the kernel's number, and with a sentence that says what there is."""
    machine, _ = three_vms()
    with pytest.raises(KernelError, match=r"must be that of an accelerator|from 0 to \d+, not") as refused:
        work_queue(machine, device, number)
    assert refused.value.name == name
