"""T10: the caveat. A whole function beside interfaces, with nobody to enforce anything: what goes wrong, and for whom.

The scene is that of :mod:`.mixture`: a VM with both kinds of devices and four processes, and a neighbour with an
interface and one process, eve. Three things look a number up without asking which device it is for: the host, when a
device asks for a page; the CPU, when it translates ENQCMD; the unit's IOTLB, whose tags are domain and PASID (that the
requester is no part of the tag is UNVERIFIED, see :mod:`pasidlab.hardware.iommu.vtd.caches`). Then the same under the
policies that prevent it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pasidlab.hardware.accelerator.descriptor import CompletionStatus
from pasidlab.machine import Machine
from pasidlab.stories.mixture import MEANINGS, SIZE, Scene, bind_all, end_scene, mix, set_scene
from pasidlab.stories.story import Story, expect
from pasidlab.stories.wire import accepted
from pasidlab.timeline import HARDWARE, Event, Verb

if TYPE_CHECKING:
    from pasidlab.handles import App, AssignedDevice

__all__ = ["CONFLICT"]


def _tell(m: Machine) -> Iterator[str]:
    yield "Nobody enforces anything: a VM has a whole function and an interface, and numbers of its own. All bind."
    scene = set_scene(m, "unenforced")
    function, interface = _devices(scene)
    bind_all(scene)
    ann, ben, cat, dan = scene.apps
    eve = scene.victim
    hosts = [scene.vm.pasids[guest] for guest in (1, 2, 3, 4)]
    eves = next(iter(scene.neighbour.pasids.values()))
    expect((ben.pasid, eves) == (2, 2), "ben has PASID 2 in his guest; IOASID 2 of the host is eve's, in another VM")
    expect((hosts[0], dan.pasid) == (4, 4), "ann has host PASID 4; guest PASID 4 is dan's")

    yield "As long as the function only reads and writes what is there, all goes well: its table is its own."
    for app, letter in zip((ann, ben, cat), (b"a", b"b", b"c"), strict=True):
        expect(app.copy(function, scene.place.src, scene.place.dst, SIZE).ok, f"the function copies for {app.name}")
        expect(app.read(scene.place.dst, SIZE) == letter * SIZE, "its own letters")

    yield "ben's work comes to a page that is not there yet. The function asks for it: requester, PASID 2, address."
    start, fresh = m.timeline.now, scene.place.for_function
    outcome = ben.copy(function, scene.place.src, fresh, SIZE, block_on_fault=True)
    told = m.timeline.since(start)
    asked = next(event for event in told if event.verb is Verb.PAGE_REQUEST and event.altitude == HARDWARE)
    expect((asked.fact("rid"), asked.fact("pasid")) == (function.rid, 2), "as the guest numbers it")

    yield "The host takes 2 for one of its own numbers. That is eve's. Her guest is asked, and kindly brings a page."
    expect(_asked(told) == {scene.neighbour.name}, "the request went to the wrong VM's hypervisor")
    expect(_present(eve, fresh), "eve has a page now that nobody of hers has touched")
    expect(outcome.status is CompletionStatus.PAGE_FAULT_IR, "ben's copy failed, however often the function asked")
    expect(not _present(ben, fresh), "he never got his page")
    expect(eve.read(fresh, SIZE) == bytes(SIZE), "no byte of his went to eve: the tables were right all the time")

    yield "Within one VM it is no better: what dan's work asks for under PASID 4 is brought to ann, whose IOASID 4 is."
    dan.copy(function, scene.place.src, fresh, SIZE, block_on_fault=True)
    expect(_present(ann, fresh) and not _present(dan, fresh), "ann has the page, dan has not")

    yield "One MSR value, two meanings. ann submits by ENQCMD to the interface: 1 becomes 4, and all is well."
    for app in scene.apps:
        app.unbind(function)
    _erase(scene)
    start = m.timeline.now
    expect(ann.copy(interface, scene.place.src, scene.place.dst, SIZE).ok, "the interface copies for ann")
    expect(accepted(m, start) == [hosts[0]], "the queue accepted it with the host's number")
    expect(_written(scene) == {"ann": b"a" * SIZE}, "ann's letters, in ann's memory")

    yield "She submits the same to the function. The CPU does not know whose portal that is: 1 becomes 4 again."
    for app in scene.apps:
        app.bind(function, queue="shared")
    _erase(scene)
    start = m.timeline.now
    outcome = ann.copy(function, scene.place.src, scene.place.dst, SIZE)
    expect(accepted(m, start) == [hosts[0]], "it arrives with the host's number, which this table does not know")
    expect(hosts[0] == dan.pasid, "or rather it does: here 4 is what the guest calls dan")

    yield "So ann's copy is carried out in dan's memory: his letters are copied over what he had, she hears nothing."
    expect(_written(scene) == {"dan": b"d" * SIZE}, "read from dan, written to dan")
    expect(outcome.completion is None, "ann's completion record was written to dan's memory, too")

    yield "ben's ENQCMD leaves as 5, which nobody is on the function: it faults. No guest can repair that."
    outcome = ben.copy(function, scene.place.src, scene.place.dst, SIZE)
    fault = m.translate(function.rid, hosts[1], scene.place.src).fault
    expect(fault is not None and fault.code == 0x59, "the PASID entry is not present")
    expect(outcome.completion is None, "not even the completion record could be written")

    yield "Even the interface errs now. The unit keeps translations by domain and PASID: 4 is dan's, from the function."
    src, dst = _more_room(scene)
    ann.copy(function, src, dst, SIZE)
    expect(dan.read(dst, SIZE) == b"d" * SIZE and not any(ann.read(dst, SIZE)), "as before: the function works for dan")
    dan.write(dst, bytes(SIZE))
    expect(ann.copy(interface, src, dst, SIZE).completion is None, "the same copy by the interface: ann hears nothing")
    expect(dan.read(dst, SIZE) == b"d" * SIZE and not any(ann.read(dst, SIZE)), "it was made in dan's memory")
    expect(13 in {one.rule.number for one in m.check().violations}, "what is cached is not what the table says")

    yield "check() names all of it: what would be asked of whom, what ENQCMD would send, which cached lines are shared."
    said = [one.where for one in m.check().violations if one.rule.number == MEANINGS]
    for words in ("is taken for one of IOASID 2 of neighbour", "has two meanings", "share their tag in the IOTLB"):
        expect(any(words in one for one in said), f"it says: {words}")

    yield "When the processes have ended, so has the conflict. No memory of the other VM was ever read or written."
    expect(eve.read(scene.place.src, SIZE) == b"e" * SIZE, "eve's letters are as they were")
    end_scene(scene)
    expect(m.check().ok, "every invariant holds")

    yield "identity: the same devices and processes, and the host's numbers everywhere. Nothing of this can be reached."
    one = mix(m, "identity")
    expect(one.function is not None and one.interface is not None and not one.conflicts, "both devices, no conflict")
    if one.function is not None:
        expect(all(asked.brought for asked in one.function.asked), "every page came to who asked for it")
        expect(all(reached.own for reached in one.function.reached), "every ENQCMD reached its own memory")

    yield "translated: a whole function is refused with -EPERM. What is left is mediated, and is right."
    one = mix(m, "translated")
    expect([given.errno for given in one.given] == ["EPERM", ""] and not one.conflicts, "no function, no conflict")

    yield "refuse: the kind that comes second is refused, -EPERM. Alone, a function is right with the guest's numbers."
    for first, kind in (("function", 0), ("interface", 1)):
        one = mix(m, "refuse", first)
        expect([given.errno for given in one.given] == ["", "EPERM"] and not one.conflicts, "one kind, no conflict")
        side = (one.function, one.interface)[kind]
        expect(side is not None and all(reached.own for reached in side.reached), "ENQCMD reaches its own memory")
        expect(side is not None and all(asked.brought for asked in side.asked), "pages come to who asked for them")


def _devices(scene: Scene) -> tuple[AssignedDevice, AssignedDevice]:
    expect(scene.function is not None and scene.interface is not None, "nothing was refused")
    assert scene.function is not None
    assert scene.interface is not None
    return scene.function, scene.interface


def _asked(events: list[Event]) -> set[str]:
    """Whose hypervisor was given a page request."""
    given = (str(event.after) for event in events if event.actor == "vfio" and event.verb is Verb.PAGE_FAULT)
    return {words.removeprefix("to the hypervisor of ") for words in given}


def _more_room(scene: Scene) -> tuple[int, int]:
    """Letters and an empty place, at addresses that no device has seen yet, in every process."""
    places = {(app.buffer(app.name[0].encode() * SIZE), app.buffer(SIZE)) for app in scene.apps}
    expect(len(places) == 1, "the same addresses in all of them")
    return places.pop()


def _present(app: App, address: int) -> bool:
    return app.process.mm.table.find(address) is not None


def _erase(scene: Scene) -> None:
    for app in (*scene.apps, scene.victim):
        app.write(scene.place.dst, bytes(SIZE))


def _written(scene: Scene) -> dict[str, bytes]:
    """Where something has arrived, and what."""
    found = {app.name: app.read(scene.place.dst, SIZE) for app in (*scene.apps, scene.victim)}
    return {name: data for name, data in found.items() if any(data)}


CONFLICT: Final = Story(
    "conflict", "A function beside interfaces, unenforced", ("T7", "T10"), _tell, leaves=frozenset({13, MEANINGS})
)
