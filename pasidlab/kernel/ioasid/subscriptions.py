"""Who hears of which IOASID, in which order: the global chain, the sets' chains, and registrations by mm.

Models the notifier part of ``ioasid.c`` (V4). ALLOC, BIND and UNBIND go to the chain of the ID's set; FREE goes to the
global chain as well. Users of one VM find its set by their common token, the hypervisor's mm; they may register before
the set exists and are connected when it is made. Past events are not replayed, so who comes after the first ID is
refused.

**Order across chains.** The code ran the whole global chain before the set's chain, so the IOMMU heard of FREE before
KVM, whatever the priorities said; the documents show KVM first, and so does this model: subscribers of both chains are
merged by priority (:meth:`Subscriptions.listeners`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.errors import KernelError
from pasidlab.kernel.ioasid.notifier import Chain, IoasidEvent, NotifyFlag, Payload, Subscriber
from pasidlab.timeline import Actor, Part, Table, Verb

if TYPE_CHECKING:
    from pasidlab.kernel.ioasid.lock import AllocatorLock
    from pasidlab.kernel.ioasid.record import IoasidRecord
    from pasidlab.kernel.ioasid.sets import IoasidSet
    from pasidlab.kernel.slab import Slab
    from pasidlab.timeline import Timeline

__all__ = ["Registration", "Subscriptions"]

_ALL: Final = int(NotifyFlag.ALL)
_SET: Final = int(NotifyFlag.SET)


class Registration(NamedTuple):
    """One registration by mm. ``active``: its set exists and has it on the chain; else it waits for a set."""

    token: Part
    subscriber: Subscriber
    active: bool


class Subscriptions(Actor):
    """The chains of one core. ``sets`` is the core's table of sets, for whoever registers by mm."""

    actor = "ioasid"

    def __init__(
        self,
        timeline: Timeline,
        path: str,
        altitude: str,
        lock: AllocatorLock,
        slab: Slab,
        sets: Table[int, IoasidSet],
    ) -> None:
        super().__init__(timeline, path, altitude)
        self.global_chain = Chain(timeline, f"{path}.global")
        self._lock = lock
        self._slab = slab
        self._sets = sets
        self._by_mm = Table[int, tuple[Part, Subscriber]](timeline, f"{path}.by_mm")

    # --- on a chain ---------------------------------------------------------------------------------------------------

    def register(self, subscriber: Subscriber, the_set: IoasidSet | None = None) -> None:
        """Subscribe to the global chain (every set's FREE), or to the chain of ``the_set``.

        Errors: ``-EINVAL`` the set is gone, ``-EEXIST`` registered already.
        """
        self._lock.take("ioasid_register_notifier")
        self._chain(the_set).register(subscriber)
        where = "global chain" if the_set is None else f"chain of set {the_set.set_id}"
        self.emit(Verb.REGISTER, subscriber.notifier_name, after=where, priority=subscriber.notifier_priority.name)

    def unregister(self, subscriber: Subscriber, the_set: IoasidSet | None = None) -> None:
        """Undo :meth:`register`. Ignored, with an event: not on that chain, or registered by mm
        (:meth:`unregister_mm`).
        """
        self._lock.take("ioasid_unregister_notifier")
        chain, name = self._chain(the_set), subscriber.notifier_name
        if any(known is subscriber for _, known in self._by_mm.values()):
            self.emit(Verb.IGNORE, f"{name} must be unregistered by the mm under which it registered")
        elif subscriber not in chain:
            self.emit(Verb.IGNORE, f"{name} is not on this chain")
        else:
            chain.unregister(subscriber)
            self.emit(Verb.UNREGISTER, name)

    def _chain(self, the_set: IoasidSet | None) -> Chain:
        if the_set is None:
            return self.global_chain
        if self._sets.get(the_set.set_id) is not the_set:
            raise KernelError("EINVAL", f"{the_set.name} has no ioasid_set any more")
        return the_set.chain

    # --- by mm --------------------------------------------------------------------------------------------------------

    def register_mm(self, token: Part | None, subscriber: Subscriber) -> None:
        """Subscribe to the set of ``token``, which need not exist yet.

        Errors: ``-EINVAL`` no token (v2, v3); ``-EBUSY`` registered twice, or the set already has IDs (events are not
        replayed); ``-EEXIST`` on the set's chain already, by :meth:`register`; ``-ENOMEM``.
        """
        self._lock.take("ioasid_register_notifier_mm")
        if token is None:
            raise KernelError("EINVAL", f"{subscriber.notifier_name} must name an mm to register by")
        if self._find(token, subscriber) is not None:
            raise KernelError("EBUSY", f"{subscriber.notifier_name} is already registered for this VM")
        the_set = self._set_of(token)
        if the_set is not None and the_set.count:
            raise KernelError(
                "EBUSY",
                f"{subscriber.notifier_name} must register before {the_set.name} allocates its first PASID: "
                "past events are not replayed",
            )
        self._slab.alloc("struct ioasid_set_nb")
        if the_set is not None:
            the_set.chain.register(subscriber)
        self._by_mm[max(self._by_mm.keys(), default=-1) + 1] = (token, subscriber)
        where = f"chain of set {the_set.set_id}" if the_set else "pending: no set yet"
        self.emit(Verb.REGISTER, subscriber.notifier_name, after=where, priority=subscriber.notifier_priority.name)

    def unregister_mm(self, token: Part, subscriber: Subscriber) -> None:
        """Undo :meth:`register_mm`; ignored, with an event, when there is nothing to undo."""
        self._lock.take("ioasid_unregister_notifier_mm")
        key = self._find(token, subscriber)
        if key is None:
            self.emit(Verb.IGNORE, f"{subscriber.notifier_name} is not registered for this VM")
            return
        del self._by_mm[key]
        the_set = self._set_of(token)
        if the_set is not None:
            self._leave(the_set, subscriber)
        self.emit(Verb.UNREGISTER, subscriber.notifier_name)

    def _leave(self, the_set: IoasidSet, subscriber: Subscriber) -> None:
        the_set.chain.unregister(subscriber)

    def connect(self, the_set: IoasidSet) -> None:
        """A set was made: whoever waited for its token is on its chain now, in order of priority, then of arrival."""
        for token, subscriber in self._by_mm.values():
            if the_set.token is not None and self._same(token, the_set.token):
                the_set.chain.register(subscriber)

    def registrations(self) -> list[Registration]:
        """Everyone who registered by mm. When a set ends they wait for the next set of that token."""
        return [
            Registration(token, subscriber, self._set_of(token) is not None)
            for token, subscriber in self._by_mm.values()
        ]

    def _find(self, token: Part, subscriber: Subscriber) -> int | None:
        """The registration of one subscriber for one mm. The mm itself is the key: another process may get its path."""
        for number, (known, other) in self._by_mm.items():
            if self._same(known, token) and other is subscriber:
                return number
        return None

    @staticmethod
    def _same(known: Part, token: Part) -> bool:
        return known is token

    def _set_of(self, token: Part) -> IoasidSet | None:
        return next((known for known in self._sets.values() if known.token is token), None)

    # --- delivery -----------------------------------------------------------------------------------------------------

    def listeners(self, the_set: IoasidSet, flags: NotifyFlag) -> list[Subscriber]:
        """Who hears an event of ``the_set``, in order of delivery: one order over both chains, by priority.

        Errors: ``-EINVAL`` a flag that does not exist.
        """
        wanted = int(flags)
        if wanted & ~(_ALL | _SET):
            raise KernelError("EINVAL", f"the flags must be ALL, SET or both, not {wanted:#x}")
        everywhere = self.global_chain.subscribers() if wanted & _ALL else []
        here = the_set.chain.subscribers() if wanted & _SET else []
        return self._one_order(everywhere, here)

    def _one_order(self, everywhere: list[Subscriber], here: list[Subscriber]) -> list[Subscriber]:
        """The subscribers of the global chain and those of the set, merged."""
        return sorted(everywhere + here, key=self._turn)

    @staticmethod
    def _turn(subscriber: Subscriber) -> int:
        """Whose turn comes first: the lowest number."""
        return -subscriber.notifier_priority

    def deliver(self, record: IoasidRecord, event: IoasidEvent, flags: NotifyFlag) -> None:
        """Tell everyone, one by one. What a handler answers, or is refused (``KernelError``), changes nothing for the
        others. Any other exception is a mistake in the handler, and comes out.
        """
        if not len(record.owner.chain) and not len(self.global_chain):
            return
        listeners = self.listeners(record.owner, flags)
        if not listeners:
            return
        payload = Payload(record.ioasid, record.spid, record.owner.set_id, record.private)
        told = self.emit(
            Verb.NOTIFY,
            f"{event} of IOASID {record.ioasid}",
            event=event.value,
            ioasid=record.ioasid,
            spid=record.spid,
            refs=record.refs,
        )
        with self.timeline.because(told):
            for subscriber in listeners:
                self._tell(subscriber, event, payload)

    def _tell(self, subscriber: Subscriber, event: IoasidEvent, payload: Payload) -> None:
        try:
            with self._lock.held_for(subscriber):
                subscriber.ioasid_notified(event, payload)
        except KernelError as error:
            self.emit(
                Verb.REFUSE,
                f"{subscriber.notifier_name}, {event} of IOASID {payload.ioasid}: {error.reason}",
                after=f"-{error.name}",
            )
