"""Deviations switched on for one machine, in the way that the later switch will work.

A deviant function stands in for the one at a row's site, for the parts of one machine only (:class:`Switched`).
Deviants and scenarios are registered by the name of their row; the modules beside this one hold them, by subject.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any, NamedTuple

from pasidlab.deviations import DEVIATIONS
from pasidlab.errors import KernelError
from pasidlab.kernel.ioasid.core import IoasidRefused
from pasidlab.timeline import HOST, Verb
from tests.worlds import World

ROWS = {row.name: row for row in DEVIATIONS}
DEVIANTS: dict[str, Any] = {}
SCENARIOS: dict[str, "Scenario"] = {}
USUAL: dict[str, Any] = {}


class Switched:
    """In the place of a method or property: the deviant one for the parts of one timeline, the usual one for others."""

    def __init__(self, usual, deviant, timeline):
        self.usual, self.deviant, self.timeline = usual, deviant, timeline

    def __get__(self, part, owner=None):
        chosen = self.deviant if part is not None and part.timeline is self.timeline else self.usual
        return chosen.__get__(part, owner)


def decider(site):
    """The class and the name at a site."""
    module, _, path = site.partition(":")
    owner, name = path.split(".")
    return getattr(import_module(module), owner), name


@contextmanager
def switched_on(machine, *names) -> Iterator[None]:
    """While active, these rows (and nothing else: not what they need) are switched on for one machine."""
    with ExitStack() as undo:
        for row in names:
            owner, name = decider(ROWS[row].site)
            usual = vars(owner)[name]
            setattr(owner, name, Switched(usual, DEVIANTS[row], machine.timeline))
            undo.callback(setattr, owner, name, usual)
        yield


def deviant(row):
    """Register what the code did at the site of ``row``: a function whose first argument is the part, or a property."""

    def register(function):
        DEVIANTS[row] = function
        owner, name = decider(ROWS[row].site)
        USUAL[row] = getattr(owner, name)
        return function

    return register


class Scenario(NamedTuple):
    """A script and what it answers on the reference model and on the deviating one."""

    script: Callable[["Lab"], object]
    usual: object
    deviating: object
    options: dict[str, Any]


def scenario(row, usual, deviating, **options):
    """Register the script of ``row``; ``options`` are the machine's."""

    def register(script):
        SCENARIOS[row] = Scenario(script, usual, deviating, options)
        return script

    return register


class Lab(World):
    """A machine whose invariants are checked after every operation; ``broken`` collects the numbers of those that
    broke.
    """

    def __init__(self, **options):
        super().__init__(**options)
        self.broken = set()
        self.m.supervisor = self.check

    def check(self):
        """Note which invariants do not hold."""
        self.broken |= {violation.rule.number for violation in self.m.check().violations}

    def do(self, call, *args, **kwargs):
        """Call something as one operation; returns its answer, or the name of the errno."""
        try:
            with self.time.operation(f"{call.__name__}{args}"):
                try:
                    return call(*args, **kwargs)
                except IoasidRefused:
                    return "INVALID_IOASID"
        except KernelError as error:
            return error.name
        finally:
            self.check()

    def bound(self, queue="shared", **options):
        """A VM with an interface, and an application bound to it as guest PASID 1."""
        self.vm1 = self.vm("vm1", queue, **options)
        self.adi = self.vm1.devices[0]
        self.driver = self.vm1.kernel.accelerators[self.adi.name]
        self.app = self.vm1.spawn("app")
        self.app.bind(self.adi)
        self.h = self.vm1.pasids[1]

    def copying(self):
        """As :meth:`bound`, with a descriptor that waits in the shared queue."""
        self.bound()
        self.src, self.dst = self.app.buffer(b"x" * 64), self.app.buffer(64)
        self.app.submit(self.adi, self.src, self.dst, 64)

    def clean_up(self):
        """Run the queued clean-up, oldest first; what waits in devices goes on waiting."""
        while self.core.work.waiting():
            self.m.run(next(action.number for action in self.m.pending if "executes" not in action.label))

    def holders(self, ioasid):
        """Who holds a host PASID; nobody once it is reclaimed."""
        return self.core.ids[ioasid].holders if ioasid in self.core.ids else ()

    def told(self, ioasid):
        """What the subscribers of a host PASID were told."""
        return [
            event.fact("event")
            for event in self.time.events
            if event.verb is Verb.NOTIFY and event.altitude == HOST and event.fact("ioasid") == ioasid
        ]

    def present(self, pasid):
        """Whether the PASID entry of dsa0 is present."""
        return bool(self.entry(pasid)[0] & 1)


class Listener:
    """A subscriber that notes each event and its payload."""

    def __init__(self, name, priority):
        self.path = self.notifier_name = name
        self.notifier_priority = priority
        self.heard = []

    def ioasid_notified(self, event, payload):
        self.heard.append((str(event), payload))
        return True
