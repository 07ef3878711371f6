"""Drives a procedure of effects against the world."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from tables.effects import Effect, Procedure

T = TypeVar("T")


async def drive(procedure: Procedure[T], perform: Callable[[Effect], Awaitable[Any]]) -> T:
    """Performs effect after effect, in the procedure's order; returns what the procedure returns.

    What an effect raises is thrown into the procedure at that place, and comes out again: nothing is tried twice.
    """
    result: Any = None
    failure: BaseException | None = None
    while True:
        try:
            effect = procedure.throw(failure) if failure is not None else procedure.send(result)
        except StopIteration as done:
            value: T = done.value
            return value
        failure = result = None
        try:
            result = await perform(effect)
        except BaseException as error:
            failure = error
