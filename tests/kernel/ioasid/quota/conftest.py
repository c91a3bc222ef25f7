"""A core with few IDs under one of the policies, and processes by name."""

import pytest

from pasidlab.errors import KernelError
from pasidlab.kernel.ioasid.core import IoasidCore, IoasidRefused
from pasidlab.kernel.ioasid.quota import QUOTA_POLICIES
from pasidlab.timeline import Agenda, Part, Timeline


class Office:
    """A core, and short ways to use it; processes are their mms."""

    def __init__(self, policy, capacity=12):
        self.time = Timeline()
        self.core = IoasidCore(self.time, "k.ioasid", "host", Agenda(self.time), capacity, QUOTA_POLICIES[policy])
        self.policy = self.core.policy
        self.capacity = self.core.capacity
        self.mms = {name: Part(self.time, f"{name}.mm") for name in ("vm1", "vm2", "vm3")}

    def set(self, name="vm1", quota=4):
        """The set of a process."""
        return self.policy.make_set(name, self.mms[name], quota)

    def own_set(self, quota):
        """A kernel's own set."""
        return self.core.sets.alloc("host", None, quota)

    def alloc(self, the_set, count=1, **options):
        """IDs; ``current`` is the caller's mm."""
        found = [self.core.alloc(the_set, 1, 1000, "owner", **options) for _ in range(count)]
        return found[0] if count == 1 else found

    def refused(self, the_set, **options):
        """The words of an allocation that must be refused, and must charge nobody."""
        before = (self.policy.held, self.capacity.available, the_set.count)
        with pytest.raises(IoasidRefused) as refusal:
            self.alloc(the_set, **options)
        assert (self.policy.held, self.capacity.available, the_set.count) == before
        return str(refusal.value)

    def errno(self, call, *args, **kwargs):
        """The errno of a call that must be refused, and must change nothing."""
        before = self.time.digest()
        with pytest.raises(KernelError) as error:
            call(*args, **kwargs)
        assert self.time.digest() == before
        return error.value.name

    def told(self, *verbs):
        """Subject, before and after of the events with these verbs."""
        return [(event.subject, event.before, event.after) for event in self.time.events if event.verb in verbs]

    @property
    def sums(self):
        """Whether what is promised and what is left make up the whole."""
        promised = sum(the_set.quota or 0 for the_set in self.core.sets.values())
        return promised + self.policy.held + self.capacity.reserved + self.capacity.available == self.capacity.total


@pytest.fixture
def office(request):
    """A core under the policy that the test module names."""
    return Office(request.module.POLICY)


@pytest.fixture
def make_office():
    """Cores under any policy."""
    return Office
