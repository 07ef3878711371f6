"""Drives a procedure of effects against the world."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from tables.effects import Effect, Procedure, Turn

T = TypeVar("T")


async def drive(
    procedure: Procedure[T],
    perform: Callable[[Effect], Awaitable[Any]],
    turn: Callable[[], Awaitable[None]] | None = None,
) -> T:
    """Performs effect after effect, in the procedure's order; returns what the procedure returns.

    turn: lets others have their turn, where long work allows it (`tables.effects.Turn`); without it, none is given.
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
            if isinstance(effect, Turn):
                if turn is not None:
                    await turn()
            else:
                result = await perform(effect)
        except BaseException as error:
            failure = error
