"""What a person hands to a call is of the kind that is written and of the same machine, or -EINVAL: nothing happens."""

from typing import Any

import pytest

from pasidlab import KernelError, Machine
from tests.worlds import TwoVms

FOREIGN = {
    "assign_adi, device": lambda w, o: w.m.assign_adi(o.dsa, w.vm1),
    "assign_adi, VM": lambda w, o: w.m.assign_adi(w.dsa, o.vm1),
    "assign_pf, device": lambda w, o: w.m.assign_pf(o.dsa, w.vm1),
    "assign_pf, VM": lambda w, o: w.m.assign_pf(w.dsa, o.vm1),
    "bind": lambda w, o: w.app1.bind(o.adi1),
    "unbind": lambda w, o: w.app1.unbind(o.adi1),
    "copy": lambda w, o: w.app1.copy(o.adi1, 0, 0, 1),
    "dma": lambda w, o: w.m.dma(o.dsa, None, 0),
    "bind_raw, device": lambda w, o: w.vm1.bind_raw(o.adi1, w.h1, w.app1),
    "bind_raw, process": lambda w, o: w.vm1.bind_raw(w.adi1, w.h1, o.app1),
    "request_pasid": lambda w, o: w.vm1.request_pasid(caller=o.app1),
}
WRONG: dict[str, Any] = {
    "create_vm, memory": lambda w, value: w.m.create_vm("late", memory=value),
    "create_vm, name": lambda w, value: w.m.create_vm(value),
    "plug_accelerator": lambda w, value: w.m.plug_accelerator("dsa9", shared=value),
    "assign_adi": lambda w, value: w.m.assign_adi(w.dsa, value),
    "buffer": lambda w, value: w.app1.buffer(value),
    "read": lambda w, value: w.app1.read(value, 3),
    "write": lambda w, value: w.app1.write(w.src, value),
    "dma": lambda w, value: w.m.dma(w.dsa, 1, value),
    "free_pasid": lambda w, value: w.vm1.free_pasid(value),
    "set_quota": lambda w, value: w.vm1.set_quota(value),
    "translate": lambda w, value: w.m.translate(w.dsa.rid, pasid=value, address=0) if value is not None else refuse(),
    "core, quota": lambda w, value: w.core.sets.alloc("x", None, value) if value is not None else refuse(),
    "core, adjust": lambda w, value: w.core.sets.adjust(w.m.kernel.host_set, value),
    "core, reserve": lambda w, value: w.core.capacity.reserve(value),
    "core, cancel": lambda w, value: w.core.capacity.cancel(value),
    "core, install": lambda w, value: w.core.capacity.install(value),
}


def refuse() -> None:
    """``None`` has a meaning there: nothing to see."""
    raise KernelError("EINVAL", "None")


@pytest.fixture(scope="module")
def worlds() -> tuple[TwoVms, TwoVms]:
    """Two machines that look the same."""
    made = TwoVms(), TwoVms()
    for world in made:
        world.src = world.app1.buffer(b"abc")
    return made


@pytest.mark.parametrize("name", FOREIGN)
def test_a_handle_of_another_machine_is_einval_and_changes_neither(worlds: tuple[TwoVms, TwoVms], name: str) -> None:
    """Also where the other machine has something of that name."""
    world, other = worlds
    before = world.time.digest(), other.time.digest(), world.time.last, other.time.last
    with pytest.raises(KernelError, match=r"EINVAL.*another one"):
        FOREIGN[name](world, other)
    assert (world.time.digest(), other.time.digest(), world.time.last, other.time.last) == before


@pytest.mark.parametrize("value", [None, 1.5, "x'<b>\"", [1], {}, True], ids=repr)
@pytest.mark.parametrize("name", WRONG)
def test_a_value_of_another_kind_is_einval_and_changes_nothing(
    worlds: tuple[TwoVms, TwoVms], name: str, value: object
) -> None:
    """An error that names the argument, never one from the depths of Python."""
    world, _ = worlds
    before = world.time.digest()
    with pytest.raises(KernelError, match="EINVAL"):
        WRONG[name](world, value)
    assert world.time.digest() == before


@pytest.mark.parametrize("memory", [None, "1", 1.5, True, 0, 4097, -4096, 1 << 70])
def test_a_machine_has_whole_pages_of_memory(memory: Any) -> None:
    """Between 1 MiB and 64 TiB."""
    with pytest.raises(ValueError, match="memory must be whole pages"):
        Machine(memory=memory)


def test_a_read_of_more_than_there_is_ends_at_the_first_hole(worlds: tuple[TwoVms, TwoVms]) -> None:
    """-EFAULT, at once, however long the range."""
    world, _ = worlds
    for start in (0, world.src):
        with pytest.raises(KernelError, match="EFAULT"):
            world.app1.read(start, 1 << 60)
    with pytest.raises(KernelError, match="EINVAL"):
        world.app1.read(world.src, -1)
