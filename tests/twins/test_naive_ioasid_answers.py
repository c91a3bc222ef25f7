"""Every answer that a call of the IOASID core can give is really given, by the core and by its twin.

A long random course of calls, good and bad; for each call the answers are counted and printed (``pytest -s``), and
compared with the table of those that the rules know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

from tests.twins.ioasid_pair import ALLOCATORS, DATA, SUBSCRIBERS, TOKENS, Pair
from tests.twins.naive_ioasid import INVALID
from tests.twins.test_naive_ioasid import free_it, free_the_rest

STEPS = 24_000

ANSWERS = {
    "install": "True False -EINVAL",
    "reserve": "number -ENOSPC -EINVAL",
    "cancel": "number -EINVAL",
    "set_alloc": "number -EINVAL -ENOSPC -EEXIST",
    "set_free": "ok -EINVAL -EBUSY",
    "adjust": "ok -EINVAL -ENOSPC",
    "find_mm": "number nothing",
    "for_each": "list -EINVAL",
    "alloc": "number no-ID",
    "free": "ok",
    "free_all": "ok",
    "get": "ok -EINVAL -ENOENT -EACCES",
    "get_locked": "ok -EINVAL -ENOENT -EACCES",
    "get_if_owned": "ok -ENOENT -EINVAL -EPERM",
    "put": "True False a-mistake-of-the-caller",
    "put_locked": "True False a-mistake-of-the-caller",
    "find": "data nothing -ENOENT -EACCES",
    "set_of": "number -ENOENT",
    "attach_data": "ok -ENOENT -EBUSY",
    "detach_data": "ok",
    "attach_spid": "ok -EINVAL -ENOENT",
    "detach_spid": "ok",
    "find_by_spid": "number nothing",
    "register": "ok -EINVAL -EEXIST",
    "unregister": "ok -EINVAL",
    "register_mm": "ok -EBUSY -EEXIST",
    "unregister_mm": "ok",
    "register_allocator": "ok -EEXIST -EAGAIN",
    "unregister_allocator": "ok -EBUSY",
    "queue": "True False",
    "cancel_work": "number",
    "run_work": "ok",
    "flush": "number",
}
"""Call by call, without -ENOMEM (``test_ioasid_faults``) and -EDEADLK in handlers and work (``test_lock``)."""

QUOTAS = (3, 5, 5, 5, 5, 0, 99, -1, None)
VOID = {"find_mm", "find", "find_by_spid"}
"""Where no answer means that nothing was found."""


class Course:
    """Random arguments: mostly such that a call can succeed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.pair = Pair(capacity=40)
        self.weights = dict.fromkeys(ANSWERS, 2) | {"alloc": 16, "set_alloc": 6, "get": 6, "attach_spid": 4}
        self.weights |= {"put": 4, "put_locked": 4, "unregister_mm": 6, "cancel": 4, "run_work": 6}
        self.weights |= {"register_allocator": 1, "flush": 1, "set_free": 1, "free_all": 1}

    def one(self, *choices: Any) -> Any:
        """One of these."""
        return self.random.choice(choices)

    def arguments(self, call: str) -> tuple:
        """What a call is called with."""
        one, twin = self.one, self.pair.twin
        out = sorted(twin.ids)
        number = one(*out) if out and self.random.random() < 0.85 else one(0, 1, 30)
        made = len(twin.sets)
        alive = [at for at in range(made) if twin.sets[at]["alive"]]
        handle = one(*alive) if alive and self.random.random() < 0.9 else self.random.randrange(made or 1)
        some, token, who = one(None, handle), one(*TOKENS), one(*SUBSCRIBERS)
        holder = one(*(twin.ids[number]["refs"] if number in twin.ids else "a"), "a", "b")
        drawn: dict[str, Callable[[], tuple]] = {
            "install": lambda: (one(0, 3, 40, 41),),
            "reserve": lambda: (one(-1, 0, 1, 1, 2, 2, 99),),
            "cancel": lambda: (one(-1, 0, 1, 2, 99),),
            "set_alloc": lambda: (
                "set",
                one(None, *TOKENS),
                one(3, 5, 5, 5, 5, 0, 99, -1, None),
                one(None, None, 1, 2, 3),
            ),
            "set_free": lambda: (handle,),
            "adjust": lambda: (handle, one(0, 1, 3, 5, 99)),
            "find_mm": lambda: (token,),
            "for_each": lambda: (handle, one(free_it, free_the_rest)),
            "alloc": lambda: (handle, one(0, 1), one(3, 8), one("owner", "a"), one(None, *DATA)),
            "free": lambda: (some, number),
            "free_all": lambda: (handle,),
            "get_if_owned": lambda: (number, "bind", one(None, *TOKENS)),
            "find": lambda: (number, some, one(None, "data1".__eq__)),
            "set_of": lambda: (number,),
            "attach_data": lambda: (number, one(*DATA)),
            "detach_data": lambda: (number,),
            "attach_spid": lambda: (number, one(1, 2, 3, INVALID)),
            "detach_spid": lambda: (number,),
            "find_by_spid": lambda: (handle, one(1, 2, 3), one(None, "a")),
            "register": lambda: (who, some),
            "unregister": lambda: (who, some),
            "register_mm": lambda: (token, who),
            "unregister_mm": lambda: (token, who),
            "register_allocator": lambda: (one(*ALLOCATORS),),
            "unregister_allocator": lambda: (one(*ALLOCATORS),),
            "queue": lambda: (who, one("1", "2")),
            "cancel_work": lambda: (who, one(None, "1")),
            "run_work": tuple,
            "flush": tuple,
        }
        for what in ("get", "get_locked", "put", "put_locked"):
            drawn[what] = lambda: (number, holder, some)
        return drawn[call]()

    def step(self) -> tuple[str, str]:
        """One call; returns it and its answer, as a word."""
        made = bool(self.pair.twin.sets)
        calls = [call for call in ANSWERS if made or call in ("set_alloc", "register_mm", "register_allocator")]
        (call,) = self.random.choices(calls, [self.weights[call] for call in calls])
        answer = self.pair.do(call, *self.arguments(call))
        self.pair.compare()
        if answer is None:
            word = "nothing" if call in VOID else "ok"
        elif isinstance(answer, str):
            word = "data" if answer in DATA else answer.replace(" ", "-")
        else:
            word = str(answer) if isinstance(answer, bool) else "number" if isinstance(answer, int) else "list"
        return call, word


def test_every_answer_of_every_call_is_given_and_no_other():
    """Twenty-four thousand calls, compared one by one: the answers seen are those in the table, exactly."""
    seen: Counter[tuple[str, str]] = Counter()
    for seed in range(4):
        course = Course(seed)
        seen.update(course.step() for _ in range(STEPS // 4))
    print()
    for call in ANSWERS:
        words = ", ".join(f"{word} {count}" for (what, word), count in sorted(seen.items()) if what == call)
        print(f"{call:<22}{words}")
    assert {(call, word) for call, words in ANSWERS.items() for word in words.split()} == set(seen)
