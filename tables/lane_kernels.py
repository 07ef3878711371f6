"""Kernels of known ids that end in a counter, as intervals (`schemas/compiled.py`), and of those in the changelog.

Of lane l the intervals `at[l] : at[l] + counts[l]` of starts, stops, times: in order, none over another, each with its bucket
of time. rooms: how many it may have there. used: how far these arrays are used, and how far those of what is fresh.
toil: how many intervals were moved to make way for others, beyond what is easy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.compiled import kernel, part

Letters = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Number = Any
"""An int64; `int` would leave a word one."""
EASY = 4096
"""Intervals that may be moved for each that is put in: some microseconds. Those of counters in order move none."""
TOILSOME = 1 << 24
"""A lane with so much toil is closed: some tenth of a second was spent on it."""


@kernel
def forget_in_lane(
    lane: int, floor: int, at: Integers, counts: Integers, starts: Integers, stops: Integers, times: Integers
) -> None:
    """Takes the intervals out whose time is too late."""
    begin = at[lane]
    kept = 0
    for place in range(begin, begin + counts[lane]):
        if times[place] >= floor:
            starts[begin + kept] = starts[place]
            stops[begin + kept] = stops[place]
            times[begin + kept] = times[place]
            kept += 1
    counts[lane] = kept


@kernel
def _below(counter: int, begin: int, many: int, starts: Integers) -> int:
    """How many of a lane's intervals start at or below a counter."""
    if many == 0 or counter >= starts[begin + many - 1]:
        return many
    low, high = 0, many - 1
    while low < high:
        middle = (low + high) // 2
        if starts[begin + middle] <= counter:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def _put(
    lane: int, below: int, start: int, stop: int, time: int,
    at: Integers, counts: Integers, rooms: Integers, toil: Integers, starts: Integers, stops: Integers, times: Integers,
    used: Integers,
) -> bool:  # fmt: skip
    """An interval that overlaps none, behind `below` others; where it touches one of its time they become one.

    False: there is no room, and nothing was done.
    """
    begin, many = at[lane], counts[lane]
    place = begin + below
    left = below > 0 and times[place - 1] == time and stops[place - 1] + 1 == start
    right = below < many and times[place] == time and starts[place] == stop + 1
    if left and right:
        toil[lane] = max(toil[lane] + many - below - EASY, 0)
        stops[place - 1] = stops[place]
        for moved in range(place, begin + many - 1):
            starts[moved], stops[moved], times[moved] = starts[moved + 1], stops[moved + 1], times[moved + 1]
        counts[lane] -= 1
    elif left:
        stops[place - 1] = stop
    elif right:
        starts[place] = start
    else:
        if many == rooms[lane]:
            room = many + many // 4 + 2
            if used[0] + room > len(starts):
                return False
            for number in range(many):
                starts[used[0] + number] = starts[begin + number]
                stops[used[0] + number] = stops[begin + number]
                times[used[0] + number] = times[begin + number]
            begin = used[0]
            place = begin + below
            at[lane] = begin
            rooms[lane] = room
            used[0] += room
        toil[lane] = max(toil[lane] + many - below - EASY, 0)
        for moved in range(begin + many, place, -1):
            starts[moved], stops[moved], times[moved] = starts[moved - 1], stops[moved - 1], times[moved - 1]
        starts[place], stops[place], times[place] = start, stop, time
        counts[lane] += 1
    return True


@kernel
def count_in_lanes(
    row: int, lanes: Integers, counters: Integers, buckets: Integers, floors: Integers, elsewhere: Integers, fates: Letters,
    at: Integers, counts: Integers, rooms: Integers, toil: Integers, limits: Integers, closed: Flags,
    starts: Integers, stops: Integers, times: Integers, used: Integers, fresh_at: Integers, fresh: Integers,
) -> int:  # fmt: skip
    """Ids in the log's order, from `row` on: fate 2 for a duplicate, 1 for what was put into a lane, 0 for what is the table's.

    That is: an id of no lane (-1) or of one that is closed. limits: of each lane, how many intervals it has at most.
    buckets: of each its time; an id is known while that is not below the floor. elsewhere: the time it has in other places.
    fresh: (m, 4), lane, start, stop and time of what was put in since the last checkpoint, with each lane's last at `fresh_at`.
    Gives the row at which there is no room to go on, or which would take a lane beyond its limit, or their number.
    """
    while row < len(lanes):
        lane, floor = lanes[row], floors[row]
        fates[row] = 0
        if lane < 0:
            row += 1
            continue
        counter, time = counters[row], buckets[row]
        below = _below(counter, at[lane], counts[lane], starts)
        place = at[lane] + below - 1
        if below > 0 and counter <= stops[place]:
            if times[place] >= floor:
                fates[row] = 2
                row += 1
            else:
                forget_in_lane(lane, floor, at, counts, starts, stops, times)
            continue
        if elsewhere[row] >= floor:
            fates[row] = 2
            row += 1
            continue
        if closed[lane]:
            row += 1
            continue
        last = fresh_at[lane]
        if used[1] == len(fresh):
            return row
        if below > 0 and below == counts[lane] and times[place] == time and stops[place] + 1 == counter:
            stops[place] = counter  # as `_put` would, which is not called for most
        else:
            if counts[lane] >= limits[lane]:
                return row
            if not _put(lane, below, counter, counter, time, at, counts, rooms, toil, starts, stops, times, used):
                return row
            closed[lane] = toil[lane] > TOILSOME
        if last >= 0 and fresh[last, 3] == time and fresh[last, 2] + 1 == counter:
            fresh[last, 2] = counter
        else:
            last = used[1]
            fresh[last, 0], fresh[last, 1], fresh[last, 2], fresh[last, 3] = lane, counter, counter, time
            fresh_at[lane] = last
            used[1] += 1
        fates[row] = 1
        row += 1
    return row


@kernel
def find_in_lanes(
    lanes: Integers, counters: Integers, at: Integers, counts: Integers, starts: Integers, stops: Integers, times: Integers,
    found: Integers,
) -> None:  # fmt: skip
    """Raises of each id what is found to the time it has in its lane."""
    for row in range(len(lanes)):
        lane = lanes[row]
        if lane >= 0:
            below = _below(counters[row], at[lane], counts[lane], starts)
            place = at[lane] + below - 1
            if below > 0 and counters[row] <= stops[place] and times[place] > found[row]:
                found[row] = times[place]


@part
def _pushed(row: int, size: int, heap: Integers, buckets: Integers) -> None:
    """Puts a row into a heap of so many, the latest time on top."""
    place = size
    while place > 0 and buckets[heap[(place - 1) // 2]] < buckets[row]:
        heap[place] = heap[(place - 1) // 2]
        place = (place - 1) // 2
    heap[place] = row


@part
def _popped(size: int, heap: Integers, buckets: Integers) -> None:
    """Takes the top off a heap; so many are left."""
    moved = heap[size]
    place = 0
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and buckets[heap[child + 1]] > buckets[heap[child]]:
            child += 1
        if buckets[heap[child]] <= buckets[moved]:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = moved


@kernel
def newest_of(
    lanes: Integers, firsts: Integers, lasts: Integers, buckets: Integers, heap: Integers, found: Integers
) -> int:
    """Intervals in the order of lanes and starts, of which some may lie over others: of each counter the latest time.

    heap: as many words. found: (4, 2n), of each interval that comes of it its lane, start, stop and time, in the same order;
    none over another. Gives how many those are.
    """
    many, row = 0, 0
    while row < len(lanes):
        lane, at, size = lanes[row], firsts[row], 0
        while size > 0 or (row < len(lanes) and lanes[row] == lane):
            if size == 0:
                at = firsts[row]
            while row < len(lanes) and lanes[row] == lane and firsts[row] <= at:
                _pushed(row, size, heap, buckets)
                size += 1
                row += 1
            while size > 0 and lasts[heap[0]] < at:
                size -= 1
                _popped(size, heap, buckets)
            if size == 0:
                continue
            time, last = buckets[heap[0]], lasts[heap[0]]
            if row < len(lanes) and lanes[row] == lane and firsts[row] <= last:
                last = firsts[row] - 1
            if many > 0 and found[0, many - 1] == lane and found[3, many - 1] == time and found[2, many - 1] + 1 == at:
                found[2, many - 1] = last
            else:
                found[0, many], found[1, many], found[2, many], found[3, many] = lane, at, last, time
                many += 1
            at = last + 1
    return many


@kernel
def forget_in_lanes(
    floor: int, at: Integers, counts: Integers, starts: Integers, stops: Integers, times: Integers, emptied: Integers
) -> int:
    """Takes every interval out whose time is too late. emptied: the lanes that have none left. Gives their number."""
    many = 0
    for lane in range(len(at)):
        forget_in_lane(lane, floor, at, counts, starts, stops, times)
        if counts[lane] == 0:
            emptied[many] = lane
            many += 1
    return many


@kernel
def room_for(many: int) -> int:
    """Room of a lane that has so many intervals; none for one that has none."""
    return many + many // 8 + 1 if many else 0


@kernel
def move_lanes(
    at: Integers, counts: Integers, rooms: Integers, starts: Integers, stops: Integers, times: Integers,
    into_starts: Integers, into_stops: Integers, into_times: Integers,
) -> int:  # fmt: skip
    """Moves all intervals into other arrays, with room for some more of each lane: `room_for`. Gives how far those are used."""
    used = 0
    for lane in range(len(at)):
        for number in range(counts[lane]):
            into_starts[used + number] = starts[at[lane] + number]
            into_stops[used + number] = stops[at[lane] + number]
            into_times[used + number] = times[at[lane] + number]
        at[lane] = used
        rooms[lane] = room_for(counts[lane])
        used += rooms[lane]
    return used


# --- intervals in the changelog -----------------------------------------------------------------------------------------

COUNTERS: Number = np.int64(10**18)
"""A counter is below (`schemas.ids`)."""
_TIMES: Number = np.int64(1 << 53)
"""No bucket of time is as far away."""


@kernel
def _write(number: int, piece: Letters, size: int) -> int:
    """A number from 0 on, seven bits a byte, the low ones first. Gives where it ends."""
    while number >= 128:
        piece[size] = np.uint8((number & 127) | 128)
        number >>= 7
        size += 1
    piece[size] = np.uint8(number)
    return size + 1


@kernel
def _read(piece: Letters, at: Integers) -> Number:
    """What `_write` wrote; -1 where the piece ends before it does, or no number is written so long."""
    number: Number = np.int64(0)
    shift: Number = np.int64(0)
    while at[0] < len(piece) and shift < 63:
        byte: Number = np.int64(piece[at[0]])
        at[0] += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number
        shift += 7
    return np.int64(-1)


@kernel
def _folded(number: int) -> int:
    """A number of either sign as one from 0 on, near ones as small ones."""
    return (number << 1) ^ (number >> 63)


@kernel
def _unfolded(number: int) -> int:
    return (number >> 1) ^ -(number & 1)


@kernel
def pack(
    row: int, lanes: Integers, names: Letters, firsts: Integers, lasts: Integers, buckets: Integers, piece: Letters,
    most: int, bounds: Integers,
) -> int:  # fmt: skip
    """Intervals from `row` on into a piece, until it has `most` bytes. bounds[0]: where it begins, then where it ends.

    Of each: how far its time is from that of the one before, and whether another lane begins, whose name (n, 16) follows;
    how far it starts from where that one stops; how long it is. Gives the row to go on with.
    """
    size = bounds[0]
    lane, last, time = -1, 0, 0
    while row < len(lanes) and size < most:
        another = 1 if lanes[row] != lane else 0
        size = _write((_folded(buckets[row] - time) << 1) | another, piece, size)
        time = buckets[row]
        if another != 0:
            lane = lanes[row]
            for at in range(16):
                piece[size + at] = names[lane, at]
            size += 16
            last = 0
        size = _write(_folded(firsts[row] - last), piece, size)
        size = _write(lasts[row] - firsts[row], piece, size)
        last = lasts[row]
        row += 1
    bounds[0] = size
    return row


@kernel
def unpack(
    piece: Letters, begin: int, names: Letters, lanes: Integers, firsts: Integers, lasts: Integers, buckets: Integers
) -> tuple[int, int]:
    """What `pack` wrote. lanes: numbers within `names`. Gives how many intervals and how many names there are.

    -1 of them where the piece is cut off, or says what no lane has; `names` and the others have room for what one can say.
    """
    at = np.array([begin], np.int64)
    many, named = 0, 0
    last, time = 0, 0
    while at[0] < len(piece):
        head = _read(piece, at)
        if head < 0:
            return -1, named
        time += _unfolded(head >> 1)
        if head & 1:
            if at[0] + 16 > len(piece):
                return -1, named
            for place in range(16):
                names[named, place] = piece[at[0] + place]
            at[0] += 16
            named += 1
            last = 0
        step, length = _read(piece, at), _read(piece, at)
        first = last + _unfolded(step)
        if named == 0 or step < 0 or not 0 <= length < COUNTERS or not 0 <= first < COUNTERS - length:
            return -1, named
        if not -_TIMES < time < _TIMES:
            return -1, named
        last = first + length
        lanes[many], firsts[many], lasts[many], buckets[many] = named - 1, first, last, time
        many += 1
    return many, named
