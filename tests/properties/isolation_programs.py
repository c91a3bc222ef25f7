"""Honest programs: they use the public calls, and a plain Python model says what every byte of their memory must be.

They run on the host and in one of the guests. Whatever the others do, their work succeeds (or the queue is full), and
nobody else changes what they keep; each begins with a secret that must not turn up anywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pasidlab.handles.work import Outcome
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.kernel import user
from tests.properties.hostile import Mischief, refused_to

__all__ = ["HONEST_MOVES", "HOST_SIDE", "MARK", "Honesty", "IsolationFailure", "Program"]

HOST_SIDE = "host"
SECRET = b"a secret"
MARK = int.from_bytes(SECRET, "little")
"""The word with which every secret begins."""
HONEST_MOVES = {
    "honest_copy": 4,
    "honest_batch": 1.5,
    "honest_submit": 5,
    "honest_write": 2,
    "honest_buffer": 1,
    "honest_end": 1,
    "honest_rebind": 0.7,
}
"""What honest programs do, and how often, against each other."""


class IsolationFailure(AssertionError):
    """Somebody was harmed by somebody else."""


class Flight(NamedTuple):
    """Work that a device has not finished: its completion record, source, destination, and what was in both."""

    record: int
    src: int
    dst: int
    before: bytes
    data: bytes


class Program(NamedTuple):
    """What an honest program knows of itself: where it runs, its device, the content of its memory, work on its way."""

    where: str
    device: str
    content: Mapping[int, bytes]
    flights: tuple[Flight, ...] = ()

    def holding(self, start, data):
        """The same with other bytes in a buffer."""
        return self._replace(content={**self.content, start: data})

    def idle(self):
        """Buffers that no work on its way needs."""
        busy = {place for flight in self.flights for place in (flight.src, flight.dst)}
        return [start for start in self.content if start not in busy]


class Honesty(Mischief):
    """Their moves, and what they find. ``programs`` is the model."""

    programs: dict[str, Program]

    def device(self, name):
        """A physical function."""
        return self.m.device(name)

    def app(self, name):
        """The handle of an honest program."""
        where = self.programs[name].where
        return self.m.app(name) if where == HOST_SIDE else self.m.vm(where).app(name)

    def honest_program(self, where):
        """A program that nobody may harm: secrets, room for copies, a device if one is to be had."""
        place = self.m if where == HOST_SIDE else self.m.vm(where)
        if where == HOST_SIDE:
            names = [name for name in ("dsa0", "dsa1") if self.m.owner_of(self.device(name)) is None]
        else:
            names = [device.name for device in self.m.vm(where).devices]
        app, device = place.spawn(self.new_name()), self.any_of(names) or ""
        secret = b"".join((SECRET + b" of %s" % app.name.encode()).ljust(24) for _ in range(4))
        content = {app.buffer(secret): secret}
        size = self.r.choice((64, 128, PAGE_SIZE + 64))
        content[app.buffer(size)] = bytes(size)
        self.programs[app.name] = Program(where, device, content)
        self.bind(app, device)

    def bind(self, app, device):
        """Bound if there is a number and a queue for it; else it tries again some time."""
        if device:
            self.seen["honest bind"] += 1
            if refused_to(("EBUSY", "ENOSPC", "ENODEV", "EEXIST"), app.bind, device) is None:
                self.seen["honest bind refused"] += 1

    def bound(self, name):
        """Whether an honest program has its device open."""
        program, app = self.programs[name], self.app(name)
        driver = app.kernel.accelerators.get(program.device)
        return driver is not None and driver.queue_of(app.process) is not None

    def forget(self, where):
        """A place is gone with all its programs."""
        self.programs = {name: program for name, program in self.programs.items() if program.where != where}

    # --- honest moves -------------------------------------------------------------------------------------------------

    def honest(self, ready=False):
        """Any honest program (with its device open)."""
        return self.any_of([name for name in self.programs if not ready or self.bound(name)])

    def places(self, name):
        """A source, a destination, how many bytes to copy; ``None`` if all its memory is in use."""
        program = self.programs[name]
        if len(free := program.idle()) < 2:
            return None
        src, dst = self.r.sample(free, 2)
        size = min(len(program.content[src]), len(program.content[dst]))
        return src, dst, self.r.choice((8, size, size, max(1, size - 5)))

    def honest_copy(self):
        """An honest copy succeeds, or its queue is full."""
        if (name := self.honest(ready=True)) is None or (found := self.places(name)) is None:
            return
        program, (src, dst, size) = self.programs[name], found
        outcome = refused_to(("EAGAIN",), self.app(name).copy, program.device, src, dst, size, self.asks(program))
        if outcome is not None:
            if not outcome.ok:
                raise IsolationFailure(f"the copy of {name} ended with {outcome}")
            data = program.content[src][:size] + program.content[dst][size:]
            self.programs[name] = program.holding(dst, data)
            self.seen["honest bytes"] += size

    def honest_batch(self):
        """Two copies by one submission both succeed, or the queue is full."""
        if (name := self.honest(ready=True)) is None or (found := self.places(name)) is None:
            return
        program, (src, dst, size) = self.programs[name], found
        half = max(1, size // 2)
        copies = [(src, dst, half), (src + size - half, dst + size - half, half)]
        outcome = refused_to(("EAGAIN",), self.app(name).batch, program.device, copies, self.asks(program))
        if outcome is not None:
            if not outcome.ok:
                raise IsolationFailure(f"the batch of {name} ended with {outcome}: {outcome.copies}")
            old, new = program.content[dst], program.content[src]
            data = new[:half] + old[half : size - half] + new[size - half : size] + old[size:]
            self.programs[name] = program.holding(dst, data)
            self.seen["honest bytes"] += 2 * half

    def asks(self, program):
        """Whether its device can ask for pages."""
        if program.where == HOST_SIDE:
            return self.device(program.device).hardware.config.ats_enabled
        return self.m.vm(program.where).device(program.device).parent.hardware.config.ats_enabled

    def honest_submit(self):
        """Work that is left to the device; sometimes into memory that is not there yet."""
        if (name := self.honest(ready=True)) is None or (found := self.places(name)) is None:
            return
        (src, dst, size), app, asks = found, self.app(name), self.asks(self.programs[name])
        program = self.programs[name]
        if self.r.random() < 0.5:
            dst, size = app.buffer(PAGE_SIZE, populate=not asks), min(size, PAGE_SIZE)
            program = self.programs[name] = program.holding(dst, bytes(PAGE_SIZE))
        before = program.content[dst]
        ticket = refused_to(("EAGAIN",), app.submit, program.device, src, dst, size, asks)
        if ticket is not None:
            self.seen["honest submission"] += 1
            flight = Flight(ticket.record, src, dst, before, program.content[src][:size] + before[size:])
            self.programs[name] = program._replace(flights=(*program.flights, flight))

    def honest_write(self):
        """The CPU writes into memory that no device works on."""
        if (name := self.honest()) is None or not (free := self.programs[name].idle()):
            return
        program, start = self.programs[name], self.r.choice(free)
        old = program.content[start]
        at = self.r.randrange(len(old))
        data = self.r.randbytes(min(16, len(old) - at))
        self.app(name).write(start + at, data)
        self.programs[name] = program.holding(start, old[:at] + data + old[at + len(data) :])

    def honest_buffer(self):
        """Memory comes and goes."""
        if (name := self.honest()) is None:
            return
        program, app = self.programs[name], self.app(name)
        free = program.idle()
        if len(program.content) > 3 and free:
            start = self.r.choice(free)
            app.free(start)
            content = {at: data for at, data in program.content.items() if at != start}
            self.programs[name] = program._replace(content=content)
        else:
            there = not (program.device and self.asks(program)) or self.r.random() < 0.5
            start = app.buffer(64, populate=there)
            self.programs[name] = program.holding(start, bytes(64))

    def honest_end(self):
        """An honest program goes, and another one comes."""
        if (name := self.honest()) is not None:
            where = self.programs[name].where
            self.app(name).exit()
            del self.programs[name]
            self.honest_program(where)

    def honest_rebind(self):
        """An honest program lets go of its device, or takes it again."""
        if (name := self.honest()) is None or self.programs[name].flights:
            return
        if self.bound(name):
            self.app(name).unbind(self.programs[name].device)
        else:
            self.bind(self.app(name), self.programs[name].device)

    # --- what they find -----------------------------------------------------------------------------------------------

    def settle(self, name):
        """What devices have finished is finished well, and now belongs to the content."""
        program = self.programs[name]
        for flight in program.flights:
            done = self.record(name, flight)
            if done is None:
                continue
            if not done.ok:
                raise IsolationFailure(f"work of {name} ended with {done}")
            self.seen["honest bytes"] += len(flight.data)
            left = tuple(other for other in program.flights if other is not flight)
            program = self.programs[name] = program.holding(flight.dst, flight.data)._replace(flights=left)

    def record(self, name, flight):
        """How work ended; ``None`` while it has not."""
        completion = user.poll(self.app(name).process, flight.record)
        return None if completion is None else Outcome(completion)

    def read_back(self, name):
        """Every byte of an honest program is what it put there; of a copy on its way each byte is old or new."""
        program, app = self.programs[name], self.app(name)
        flying = {flight.dst: flight for flight in program.flights}
        for start, data in program.content.items():
            found = app.read(start, len(data))
            if found != data and start in flying:
                flight = flying[start]
                strange = [at for at in range(len(data)) if found[at] not in (flight.before[at], flight.data[at])]
                if not strange:
                    continue
            if found != data:
                raise IsolationFailure(f"{name} finds {found!r} at {start:#x} instead of {data!r}")
