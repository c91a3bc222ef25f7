"""Be the hypervisor: traps wait in one list, are served, refused or altered, and what follows is computed."""

import pytest

from pasidlab.errors import KernelError
from pasidlab.hardware.accelerator.descriptor import CompletionStatus
from pasidlab.hardware.iommu.vtd.register_file import BASE as IOMMU_BASE
from pasidlab.hardware.iommu.vtd.register_file import GCMD
from pasidlab.timeline import Verb
from pasidlab.virt.traps import Answer, Decision, TrapKind
from tests.worlds import World


class Desk(World):
    """Two VMs with one interface each, a program in each."""

    def __init__(self, queue="shared"):
        super().__init__()
        self.vms = [self.vm(name, queue) for name in ("vm1", "vm2")]
        self.devices = [vm.devices[0] for vm in self.vms]
        self.apps = [vm.spawn("app") for vm in self.vms]

    def call(self, who, verb, *args):
        """A call that must come to a trap."""
        with pytest.raises(KernelError) as error:
            getattr(self.apps[who], verb)(*args)
        assert error.value.name == "EINPROGRESS"
        return self.m.trap_now

    def bind(self, who):
        """A bind that must come to a trap."""
        return self.call(who, "bind", self.devices[who])

    def serve_all(self):
        """Serve until the call is done; returns what it returned."""
        while (found := self.m.decide("serve")).trap:
            pass
        return found.result

    def copy(self, who):
        """One copy of three bytes, as it ends."""
        app = self.apps[who]
        src, dst = app.buffer(b"abc"), app.buffer(3)
        return app.copy(self.devices[who], src, dst, 3), app.read(dst, 3)


@pytest.fixture
def desk():
    """Two VMs on a shared queue."""
    return Desk()


def test_a_held_trap_stops_the_call_at_its_step_and_nothing_after_it_has_happened(desk):
    """The timeline stands right behind the TRAP event; the host has allocated nothing."""
    before = len(desk.core.ids)
    desk.m.hold_traps()
    waiting = desk.bind(0)
    assert waiting.trap.kind is TrapKind.VIRTUAL_COMMAND
    assert desk.time.events[-1].verb is Verb.TRAP
    assert desk.time.now == waiting.step < desk.time.last
    assert len(desk.core.ids) == before
    assert desk.vms[0].pasids == {}


def test_serving_every_trap_ends_where_a_call_without_traps_held_ends():
    """The digests are the same, and so is the line that the run records."""
    held, plain = Desk(), Desk()
    held.m.hold_traps()
    held.bind(0)
    assert held.serve_all() == plain.apps[0].bind(plain.devices[0]) == 1
    assert held.time.digest() == plain.time.digest()
    assert held.time.operations[-1].line == plain.time.operations[-1].line
    assert held.m.traps == []


def test_traps_of_two_vms_wait_in_one_list_and_are_decided_in_any_order(desk):
    """What was asked last may be served first; each call goes on by itself."""
    desk.m.hold_traps()
    first, second = desk.bind(0), desk.bind(1)
    assert [one.trap.vm for one in desk.m.traps] == ["vm1", "vm2"]
    assert desk.m.trap_now == second
    desk.m.decide("serve", number=first.number)
    assert desk.vms[0].pasids
    assert not desk.vms[1].pasids
    desk.serve_all()
    assert [one.trap.vm for one in desk.m.traps] == ["vm2"]
    desk.serve_all()
    assert [vm.pasids for vm in desk.vms] == [{1: 3}, {1: 4}]
    assert desk.m.check().ok


def test_a_call_that_waits_has_not_happened_when_another_one_is_made(desk):
    """The other call comes first, in the world before; the call that waits keeps its answers."""
    desk.m.hold_traps()
    desk.bind(0)
    desk.m.decide("serve")
    assert desk.vms[0].pasids == {1: 3}
    desk.m.hold_traps(True)
    desk.vms[1].spawn("other")
    assert desk.vms[0].pasids == {}
    assert [list(map(str, one.answers)) for one in desk.m.traps] == [["serve"]]
    assert desk.serve_all() == 1
    assert desk.copy(0)[1] == b"abc"


def test_a_refused_virtual_command_means_that_there_is_no_pasid(desk):
    """The guest's bind fails with the errno of a used-up quota; nothing is left behind."""
    before = len(desk.core.ids)
    with desk.m.hypervisor("refuse"), pytest.raises(KernelError) as error:
        desk.apps[0].bind(desk.devices[0])
    assert error.value.name == "ENOSPC"
    assert len(desk.core.ids) == before
    assert desk.m.check().ok


def test_an_altered_virtual_command_hands_out_a_number_that_nobody_stands_behind(desk):
    """The guest binds it in good faith; the host refuses, and ENQCMD is never accepted."""
    with desk.m.hypervisor("alter 77"):
        assert desk.apps[0].bind(desk.devices[0]) == 77
    assert desk.vms[0].pasids == {}
    with pytest.raises(KernelError) as error:
        desk.copy(0)
    assert error.value.name == "EAGAIN"
    assert desk.m.check().ok


def test_a_refused_flush_leaves_the_guest_with_a_bind_that_the_host_never_made(desk):
    """The guest believes in its entry; there is no translation for ENQCMD and no entry on the host."""
    with desk.m.hypervisor("serve", "refuse"):
        assert desk.apps[0].bind(desk.devices[0]) == 1
    host_pasid = desk.vms[0].pasids[1]
    assert desk.vms[0].vmm.kvm.entry(1) is None
    assert desk.entry(host_pasid)[0] & 1 == 0
    with pytest.raises(KernelError, match="ZF=1"):
        desk.copy(0)


def test_a_refused_exit_is_a_general_protection_fault_and_an_altered_one_an_entry_by_hand(desk):
    """#GP ends the program's call. An entry by hand sends it into the memory of another program: rule 7 names it."""
    other = desk.vms[0].spawn("other")
    other.bind(desk.devices[0])
    with desk.m.hypervisor("serve", "refuse"):
        desk.apps[0].bind(desk.devices[0])
    with desk.m.hypervisor("refuse"), pytest.raises(KernelError) as error:
        desk.copy(0)
    assert error.value.name == "EFAULT"
    assert "injected" in error.value.reason
    host_pasid = desk.vms[0].pasids[other.pasid]
    with desk.m.hypervisor(f"alter {host_pasid}"):
        outcome, _ = desk.copy(0)
    assert outcome.completion is None
    assert {one.rule.number for one in desk.m.check().violations} >= {7}
    desk.vms[0].crash()
    assert desk.m.check().ok


@pytest.mark.parametrize("number", [0, 1, 2, 77, 1 << 20, 1 << 70])
def test_no_entry_by_hand_leads_to_a_number_that_is_not_the_vms_own(desk, number):
    """Another VM's PASID, a default one, none at all: KVM refuses, and the program is told to try again."""
    desk.apps[1].bind(desk.devices[1])
    with desk.m.hypervisor("serve", "refuse"):
        desk.apps[0].bind(desk.devices[0])
    for wrong in (number, desk.vms[1].pasids[1]):
        with desk.m.hypervisor(*[f"alter {wrong}"] * 4), pytest.raises(KernelError) as error:
            desk.copy(0)
        assert error.value.name == "EAGAIN"
    assert desk.m.check().ok
    assert desk.copy(1)[1] == b"abc"


def test_a_refused_or_altered_write_of_a_dedicated_queue_is_what_hardware_gets():
    """Refused: the register keeps its value, the queue runs with the default PASID. Altered: unknown, PASID_EN."""
    desk = Desk("dedicated")
    desk.m.hold_traps()
    desk.bind(0)
    seen = []
    while (found := desk.m.decide("serve")).trap:
        seen.append(found.trap.trap.kind)
    assert TrapKind.REGISTER in seen
    assert TrapKind.COMMAND in seen
    answers = ["serve"] * (1 + seen.index(TrapKind.REGISTER))
    desk.m.hold_traps(False)
    with desk.m.hypervisor(*answers, "alter 9"), pytest.raises(KernelError) as error:
        desk.apps[1].bind(desk.devices[1])
    assert error.value.name == "ENXIO"
    assert "PASID_EN" in error.value.reason
    assert desk.m.check().ok
    with desk.m.hypervisor(*answers, "refuse"):
        desk.apps[1].bind(desk.devices[1])
    assert desk.copy(1)[0].status is not CompletionStatus.SUCCESS
    assert desk.m.check().ok


def test_a_decision_is_part_of_the_recorded_line_which_repeats_it(desk):
    """Evaluated on a machine of the same past, the line leads to the same digest."""
    desk.m.hold_traps()
    desk.bind(0)
    desk.m.decide("serve")
    desk.m.decide("refuse")
    while desk.m.traps:
        desk.m.decide("serve")
    line = desk.time.operations[-1].line
    assert line == 'with m.hypervisor("serve", "refuse", "serve"): m.vm("vm1").app("app").bind("adi0")' or (
        line.startswith('with m.hypervisor("serve", "refuse"')
    )
    other = Desk()
    exec(compile(line, "line", "exec"), {"m": other.m})  # The lines of a run are Python.
    assert other.time.digest() == desk.time.digest()


def test_answers_that_are_none_change_nothing(desk):
    """Unknown words, numbers without a place, traps that do not wait: -EINVAL, and the trap waits on."""
    desk.m.hold_traps()
    waiting = desk.bind(0)
    for answer, value, number in (
        ("maybe", None, None),
        ("alter", None, None),
        ("alter", -1, None),
        ("serve", 3, None),
    ):
        with pytest.raises(KernelError) as error:
            desk.m.decide(answer, value, number)
        assert error.value.name == "EINVAL"
    with pytest.raises(KernelError):
        desk.m.decide("serve", number=99)
    assert desk.m.trap_now == waiting
    with pytest.raises(KernelError), desk.m.hypervisor("nonsense"):
        pass
    assert Decision.parse("alter 0x10") == Decision(Answer.ALTER, 16)


def test_switching_off_gives_up_what_waits_and_forgetting_gives_up_one(desk):
    """What waited has not happened."""
    digest = desk.time.digest()
    desk.m.hold_traps()
    one, _ = desk.bind(0), desk.bind(1)
    desk.m.forget_trap(one.number)
    assert [waiting.trap.vm for waiting in desk.m.traps] == ["vm2"]
    desk.m.hold_traps(False)
    assert desk.m.traps == []
    assert desk.time.digest() == digest


def test_going_on_by_hand_to_the_end_counts_as_served(desk):
    """Who steps the timeline past the trap to the end of the call has let it happen."""
    desk.m.hold_traps()
    desk.bind(0)
    desk.time.forward_over()
    assert desk.m.traps == []
    with pytest.raises(KernelError, match="no trap waits"):
        desk.m.decide("serve")
    desk.vms[1].spawn("other")
    assert desk.vms[0].pasids == {1: 3}


def test_a_call_made_in_the_middle_of_an_older_one_waits_at_its_own_trap(desk):
    """The older call is completed first; leaving the trap goes back to the end of that."""
    desk.vms[0].spawn("older")
    desk.time.back(1)
    desk.m.hold_traps()
    desk.bind(0)
    desk.vms[1].spawn("other")
    assert [app.name for app in desk.vms[0].apps] == ["app", "older"]
    assert desk.vms[0].pasids == {}
    assert desk.serve_all() == 1


def test_what_waits_outlives_a_journey_and_answers_in_the_world_where_it_is_decided(desk):
    """Back before the call and on in another future: the call is carried out there."""
    desk.m.hold_traps()
    start = desk.time.now
    waiting = desk.bind(0)
    desk.time.go(start - 1)
    desk.vms[1].spawn("other")
    assert desk.m.trap_now is None
    assert [one.number for one in desk.m.traps] == [waiting.number]
    assert desk.serve_all() == 1
    assert desk.m.check().ok


def test_a_call_that_waits_for_a_vm_that_is_gone_ends_with_its_error(desk):
    """Nothing waits any more; nothing has happened."""
    desk.m.hold_traps()
    desk.bind(0)
    desk.vms[0].crash()
    with pytest.raises(KernelError) as error:
        desk.m.decide("serve")
    assert error.value.name in ("ESRCH", "ENODEV", "EINVAL")
    assert desk.m.traps == []
    assert desk.m.check().ok


def test_a_portal_can_be_emulated_and_each_submission_is_then_a_trap(desk):
    """Refused, it is retried and given up; served, the bytes arrive; given back, nothing traps any more."""
    desk.apps[0].bind(desk.devices[0])
    desk.devices[0].emulate_portal()
    with desk.m.hypervisor(*["refuse"] * 4), pytest.raises(KernelError) as error:
        desk.copy(0)
    assert error.value.name == "EAGAIN"
    desk.m.hold_traps()
    app = desk.apps[0]
    src, dst = app.buffer(b"abc"), app.buffer(3)
    waiting = desk.call(0, "copy", desk.devices[0], src, dst, 3)
    assert waiting.trap.kind is TrapKind.PORTAL
    assert desk.serve_all().ok
    desk.m.hold_traps(False)
    desk.devices[0].emulate_portal(False)
    desk.m.hold_traps()
    assert app.copy(desk.devices[0], src, dst, 3).ok
    assert desk.m.check().ok


def test_only_the_portal_of_a_shared_interface_can_be_emulated():
    """A dedicated queue's descriptors carry no PASID: -EINVAL."""
    desk = Desk("dedicated")
    assert desk.refused(desk.devices[0].emulate_portal).name == "EINVAL"


def ending_at_its_trap(desk):
    """A call that waits at a trap which is its last step: a page goes whose PASID the host was never asked to bind."""
    with desk.m.hypervisor("serve", "refuse"):
        desk.apps[0].bind(desk.devices[0])
    page = desk.apps[0].buffer(8)
    desk.m.hold_traps()
    waiting = desk.call(0, "free", page)
    assert desk.time.last == waiting.step
    return page, waiting


@pytest.mark.parametrize("answer", ["serve", "refuse"])
def test_a_call_whose_trap_is_its_last_step_is_carried_out_once(desk, answer):
    """Standing at the end is not the same as having gone there."""
    page, _ = ending_at_its_trap(desk)
    desk.m.decide(answer)
    assert desk.m.traps == []
    assert page not in desk.apps[0].process.mm.areas
    assert [".free(" in one.line for one in desk.time.operations].count(True) == 1


def test_a_call_whose_trap_is_its_last_step_has_not_happened_before_it_is_decided(desk):
    """Another call comes before it; given up, it never was."""
    page, waiting = ending_at_its_trap(desk)
    desk.vms[1].spawn("other")
    assert page in desk.apps[0].process.mm.areas
    assert desk.m.traps == [waiting]
    desk.m.forget_trap(waiting.number)
    assert page in desk.apps[0].process.mm.areas


def test_answers_given_beforehand_serve_the_rest_also_while_traps_are_held(desk):
    """Inside the block nothing waits; behind it everything does again."""
    desk.m.hold_traps()
    with desk.m.hypervisor("serve"):
        assert desk.apps[0].bind(desk.devices[0]) == 1
        assert desk.apps[1].bind(desk.devices[1]) == 1
    with desk.m.hypervisor():
        desk.apps[1].unbind(desk.devices[1])
    assert desk.bind(1).trap.vm == "vm2"


@pytest.mark.parametrize("nonsense", [7, None, b"serve", ["refuse"]])
def test_an_answer_that_is_no_text_is_refused(desk, nonsense):
    """-EINVAL, and nothing happens."""
    desk.m.hold_traps()
    desk.bind(0)
    with pytest.raises(KernelError) as error:
        desk.m.decide(nonsense)
    assert error.value.name == "EINVAL"
    with pytest.raises(KernelError), desk.m.hypervisor(nonsense):
        pass


def test_an_interface_whose_probe_fails_inside_another_operation_is_no_trap_door():
    """The guest cannot take its new device into use; its stores and an emulated portal are answered all the same."""
    desk = Desk()
    vm, m = desk.vms[0], desk.m
    with m.timeline.operation("the guest switches its invalidation queue off, and gets an interface"):
        vm.kernel.platform.mmio.write(IOMMU_BASE + GCMD, 0, 4)
        with pytest.raises(KernelError):
            m.assign_adi(desk.dsa, vm, queue="shared")
    m.vm("vm1").vmm.mdevs["adi2"].emulate_portal(True)
    vm.crash()
    assert m.check().ok
