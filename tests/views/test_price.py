"""What operations cost: counts of events, and of words in tables that hardware reads."""

from pasidlab import Machine
from pasidlab.views.price import kvm_pages, price


def test_a_bind_costs_a_number_an_entry_and_a_word_of_kvms():
    """And a table page of KVM's, the first time: the directory entry that points to it is a word, too."""
    m = Machine()
    dsa, vm = m.plug_accelerator("dsa0"), m.create_vm("vm1")
    adi = m.assign_adi(dsa, vm)
    first, second = vm.spawn("first"), vm.spawn("second")
    assert len(kvm_pages(vm.vmm.kvm)) == 2
    start = m.timeline.now
    first.bind(adi)
    one = price(m, start)
    between = m.timeline.now
    second.bind(adi)
    other = price(m, between)
    assert (one.ioasids, one.kvm_words, other.ioasids, other.kvm_words) == (1, 2, 1, 1)
    assert one.traps == other.traps == 3
    assert len(kvm_pages(vm.vmm.kvm)) == 3
    assert price(m, start) == one + other
    assert price(m, start, between) == one


def test_what_processes_write_costs_nothing():
    """Only tables count."""
    m = Machine()
    m.plug_accelerator("dsa0")
    app = m.spawn("app")
    start = m.timeline.now
    app.buffer(b"data" * 100)
    assert str(price(m, start)) == "nothing"


def test_a_vm_without_translation_pays_no_words_of_kvms():
    """As a function under the policy refuse."""
    m = Machine()
    vm = m.create_vm("vm1", policy="refuse")
    function = m.assign_pf(m.plug_accelerator("dsa0"), vm)
    app, start = vm.spawn("app"), m.timeline.now
    app.bind(function, queue="shared")
    assert price(m, start).kvm_words == 0
    assert price(m, start).host_words > 0
