"""A second IOASID core in plain lists and dicts: naive, slow, and written from the rules (facts 1.1 to 1.10) alone.

Names and numbers stand for everything: sets are known by a *handle* (the how-manieth that was made), mms, private data,
subscribers and custom allocators by their names. Where documents and code of the patches differ, the documents are
followed: a dying ID is -ENOENT and gives no reference, free always succeeds, a quota is held until its set ends, FREE
goes out by priority over both chains, and the allocator's own reference is dropped last.

What handlers, work items and custom allocators do is not the core's affair: ``habits`` says it, for both cores alike.
"""

from __future__ import annotations

import pickle
from contextlib import suppress
from typing import Any, Protocol

INVALID = 0xFFFFFFFF


class Refused(Exception):
    """An errno, or INVALID_IOASID."""


class Habits(Protocol):
    """What the users of a core do. ``core`` is the core they talk to: this one, or the clever one behind its face."""

    def priority(self, who: str) -> int:
        """The priority of a subscriber."""

    def hear(self, core: Any, who: str, event: str, payload: tuple) -> None:
        """The handler of a subscriber."""

    def work(self, core: Any, who: str, what: str) -> None:
        """A work item of a subscriber."""

    def choose(self, core: Any, allocator: str) -> int | None:
        """The next number of a custom allocator."""


class NaiveIoasid:
    """Everything in the open. Methods without a leading underscore are the API; ``observe`` shows the state."""

    def __init__(self, capacity: int, habits: Habits) -> None:
        self.habits = habits
        self.total = self.available = capacity
        self.reserved = 0
        self.installed = False
        self.sets: list[dict[str, Any]] = []
        self.ids: dict[int, dict[str, Any]] = {}
        self.everyone: list[str] = []
        self.by_mm: list[tuple[str, str]] = []
        self.customs: list[list[str]] = []
        self.waiting: list[tuple[str, str]] = []
        self.running = False
        self.handler: str | None = None
        self.heard: list[tuple] = []

    def _lock(self) -> None:
        if self.handler:
            raise Refused("EDEADLK")

    # --- capacity

    def install(self, total):
        self._lock()
        if total < 1:
            raise Refused("EINVAL")
        used = self.total - self.available
        if self.installed or used > total:
            return False
        self.installed, self.total, self.available = True, total, total - used
        return True

    def reserve(self, count):
        self._lock()
        if count < 0:
            raise Refused("EINVAL")
        if count > self.available:
            raise Refused("ENOSPC")
        count = count or self.available
        self.available -= count
        self.reserved += count
        return count

    def cancel(self, count):
        self._lock()
        if count < 0 or count > self.reserved:
            raise Refused("EINVAL")
        self.available += count
        self.reserved -= count
        return self.available

    # --- sets

    def set_alloc(self, name, token, quota, kind=None):
        self._lock()
        kind = kind if kind is not None else 2 if token else 1
        if kind not in (1, 2):
            raise Refused("EINVAL")
        if quota is not None and quota < 0:
            raise Refused("EINVAL")
        if quota == 0:
            quota = self.available
        if quota is not None and quota > self.available:
            raise Refused("ENOSPC")
        if (kind == 2) != (token is not None):
            raise Refused("EINVAL")
        if token and self._of(token) is not None:
            raise Refused("EEXIST")
        used = [one["number"] for one in self.sets if one["alive"]]
        number = next(number for number in range(len(used) + 1) if number not in used)
        chain = sorted((who for mm, who in self.by_mm if mm == token), key=self._order)
        self.sets.append(
            {"number": number, "name": name, "token": token, "kind": kind, "quota": quota}
            | {"ending": False, "alive": True, "chain": chain}
        )
        self.available -= quota or 0
        return number

    def set_free(self, handle):
        self._lock()
        self._require(handle)
        if self._members(handle):
            self.sets[handle]["ending"] = True
            raise Refused("EBUSY")
        self._end(handle)

    def _end(self, handle):
        one = self.sets[handle]
        one["alive"] = False
        self.available += one["quota"] or 0

    def adjust(self, handle, quota):
        self._lock()
        self._require(handle)
        one = self.sets[handle]
        if one["quota"] is None or quota < 1 or len(self._members(handle)) > quota:
            raise Refused("EINVAL")
        if quota - one["quota"] > self.available:
            raise Refused("ENOSPC")
        self.available -= quota - one["quota"]
        one["quota"] = quota

    def find_mm(self, token):
        self._lock()
        handle = self._of(token)
        return None if handle is None else self.sets[handle]["number"]

    def for_each(self, handle, visit):
        self._require(handle)
        visited = []
        for number in self._members(handle):
            if number in self.ids:
                visited.append(number)
                visit(self, handle, number)
        return visited

    def _require(self, handle):
        if not self.sets[handle]["alive"]:
            raise Refused("EINVAL")

    def _of(self, token):
        return next((at for at, one in enumerate(self.sets) if one["alive"] and one["token"] == token), None)

    def _members(self, handle):
        return sorted(number for number, row in self.ids.items() if row["set"] == handle)

    # --- IDs

    def alloc(self, handle, minimum, maximum, holder, data=None):
        self._lock()
        one = self.sets[handle]
        if not one["alive"] or one["ending"]:
            raise Refused("INVALID")
        if one["quota"] is not None and len(self._members(handle)) >= one["quota"]:
            raise Refused("INVALID")
        if self.customs:
            number = self.habits.choose(self, self.customs[0][0])
        else:
            number = next((at for at in range(minimum, maximum + 1) if at not in self.ids), None)
        if number is None or number in self.ids:
            raise Refused("INVALID")
        row = {"set": handle, "refs": [holder], "owned": True, "dying": False, "spid": None, "data": data}
        self.ids[number] = row
        self._tell("ALLOC", number)
        return number

    def free(self, handle, number):
        self._lock()
        row = self.ids.get(number)
        if row is None or row["dying"] or (handle is not None and row["set"] != handle):
            return
        if len(row["refs"]) > 1:
            row["dying"] = True
            self._tell("FREE", number)
        row["refs"].pop(0)
        row["owned"] = False
        self._reclaim_unused(number)

    def free_all(self, handle):
        self._lock()
        for number in self._members(handle):
            self.free(handle, number)

    def get(self, number, holder, handle=None):
        self._lock()
        self.get_locked(number, holder, handle)

    def get_locked(self, number, holder, handle=None):
        if number not in self.ids:
            raise Refused("EINVAL")
        self._living(number, handle)["refs"].append(holder)

    def get_if_owned(self, number, holder, current):
        self._lock()
        one = self.sets[self._known(number)["set"]]
        if one["kind"] != 2:
            raise Refused("EINVAL")
        if one["token"] != current:
            raise Refused("EPERM")
        self.get_locked(number, holder)

    def put(self, number, holder, handle=None):
        self._lock()
        return self.put_locked(number, holder, handle)

    def put_locked(self, number, holder, handle=None):
        row = self.ids.get(number)
        if row is None or (handle is not None and row["set"] != handle):
            return False
        at = row["refs"].index(holder, 1 if row["owned"] else 0)
        row["refs"].pop(at)
        return self._reclaim_unused(number)

    def _reclaim_unused(self, number):
        if self.ids[number]["refs"]:
            return False
        handle = self.ids.pop(number)["set"]
        if self.sets[handle]["ending"] and not self._members(handle):
            self._end(handle)
        return True

    def find(self, number, handle=None, getter=None):
        data = self._living(number, handle)["data"]
        return data if data is None or getter is None or getter(data) else None

    def set_of(self, number):
        return self.sets[self._known(number)["set"]]["number"]

    def _known(self, number):
        if number not in self.ids:
            raise Refused("ENOENT")
        return self.ids[number]

    def _living(self, number, handle=None):
        row = self._known(number)
        if row["dying"]:
            raise Refused("ENOENT")
        if handle is not None and row["set"] != handle:
            raise Refused("EACCES")
        return row

    # --- private data and SPIDs

    def attach_data(self, number, data):
        self._lock()
        if self._living(number)["data"] is not None:
            raise Refused("EBUSY")
        self.ids[number]["data"] = data

    def detach_data(self, number):
        self._lock()
        if number in self.ids:
            self.ids[number]["data"] = None

    def attach_spid(self, number, spid):
        self._lock()
        if not 0 <= spid < INVALID:
            raise Refused("EINVAL")
        row = self._living(number)
        if row["spid"] is not None or any(self.ids[at]["spid"] == spid for at in self._members(row["set"])):
            raise Refused("EINVAL")
        row["spid"] = spid
        self._tell("BIND", number)

    def detach_spid(self, number):
        self._lock()
        row = self.ids.get(number)
        if row is None or row["spid"] is None:
            return
        if not row["dying"]:
            self._tell("UNBIND", number)
        row["spid"] = None

    def find_by_spid(self, handle, spid, holder=None):
        self._lock()
        for number in self._members(handle):
            if self.ids[number]["spid"] == spid:
                if holder is not None and self.ids[number]["dying"]:
                    return None
                if holder is not None:
                    self.get_locked(number, holder)
                return number
        return None

    # --- notifiers

    def register(self, who, handle=None):
        self._lock()
        chain = self._chain(handle)
        if who in chain:
            raise Refused("EEXIST")
        self._join(chain, who)

    def unregister(self, who, handle=None):
        self._lock()
        chain = self._chain(handle)
        if who in chain and who not in [known for _, known in self.by_mm]:
            chain.remove(who)

    def register_mm(self, token, who):
        self._lock()
        handle = self._of(token)
        if (token, who) in self.by_mm or (handle is not None and self._members(handle)):
            raise Refused("EBUSY")
        if handle is not None:
            if who in self.sets[handle]["chain"]:
                raise Refused("EEXIST")
            self._join(self.sets[handle]["chain"], who)
        self.by_mm.append((token, who))

    def unregister_mm(self, token, who):
        self._lock()
        if (token, who) in self.by_mm:
            self.by_mm.remove((token, who))
            handle = self._of(token)
            if handle is not None:
                self.sets[handle]["chain"].remove(who)

    def _chain(self, handle):
        if handle is None:
            return self.everyone
        self._require(handle)
        return self.sets[handle]["chain"]

    def _join(self, chain, who):
        chain.append(who)
        chain.sort(key=self._order)

    def _order(self, who):
        return -self.habits.priority(who)

    def _tell(self, event, number):
        row = self.ids[number]
        one = self.sets[row["set"]]
        payload = (number, row["spid"], one["number"], row["data"])
        for who in sorted((self.everyone if event == "FREE" else []) + one["chain"], key=self._order):
            self.heard.append((who, event, payload))
            self.handler = who
            with suppress(Refused):
                self.habits.hear(self, who, event, payload)
            self.handler = None

    # --- custom allocators

    def register_allocator(self, name):
        self._lock()
        if any(name in group for group in self.customs):
            raise Refused("EEXIST")
        if not self.customs and self.ids:
            raise Refused("EAGAIN")
        for group in self.customs:
            if group[0][0] == name[0]:  # the same first letter: the same functions
                group.append(name)
                return
        self.customs.append([name])

    def unregister_allocator(self, name):
        self._lock()
        for group in list(self.customs):
            if group == [name] and group is self.customs[0] and self.ids:
                raise Refused("EBUSY")
            if name in group:
                group.remove(name)
            if not group:
                self.customs.remove(group)

    # --- deferred work

    def queue(self, who, what):
        if (who, what) in self.waiting:
            return False
        self.waiting.append((who, what))
        return True

    def cancel_work(self, who, what=None):
        gone = [item for item in self.waiting if item[0] == who and what in (None, item[1])]
        self.waiting = [item for item in self.waiting if item not in gone]
        return len(gone)

    def run_work(self):
        if self.waiting:
            who, what = self.waiting.pop(0)
            self.running = True
            with suppress(Refused):  # it is told, and over
                self.habits.work(self, who, what)
            self.running = False

    def flush(self):
        self._lock()
        if self.running:
            raise Refused("EDEADLK")
        count = len(self.waiting)
        for _ in range(count):
            self.run_work()
        return count

    # --- looking at it from outside

    def holds(self, number, who):
        """How many references somebody has."""
        return self.ids[number]["refs"].count(who) if number in self.ids else 0

    def observe(self) -> dict[str, Any]:
        """All that anybody could know, as plain data."""
        alive = [(one["number"], handle, one) for handle, one in enumerate(self.sets) if one["alive"]]
        return {
            "capacity": (self.total, self.available, self.reserved, self.installed),
            "sets": {
                number: (*(one[key] for key in ("name", "token", "kind", "quota", "ending")), tuple(one["chain"]))
                for number, _, one in alive
            },
            "members": {number: tuple(self._members(handle)) for number, handle, _ in alive},
            "spids": {
                number: {self.ids[at]["spid"]: at for at in self._members(handle) if self.ids[at]["spid"] is not None}
                for number, handle, _ in alive
            },
            "ids": {
                number: (self.set_of(number), tuple(row["refs"]), row["dying"], row["spid"], row["data"])
                for number, row in self.ids.items()
            },
            "states": {
                number: "free-pending" if row["dying"] else "active" if len(row["refs"]) > 1 else "idle"
                for number, row in self.ids.items()
            },
            "everyone": tuple(self.everyone),
            "by mm": sorted((token, who, self._of(token) is not None) for token, who in self.by_mm),
            "free goes to": {number: sorted(self.everyone + one["chain"], key=self._order) for number, _, one in alive},
            "allocators": [list(group) for group in self.customs],
            "waiting": list(self.waiting),
            "enabled": [what for _, what in self.waiting[:1]],
        }

    def save(self):
        """The whole state, to come back to."""
        return pickle.dumps({name: value for name, value in vars(self).items() if name != "habits"})

    def load(self, saved):
        """Come back to it."""
        vars(self).update(pickle.loads(saved))
