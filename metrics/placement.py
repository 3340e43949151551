"""When the uptimes of a boot were, in the hub's time. Pure: integers of milliseconds, no Django, no clock."""

from bisect import bisect_left
from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

SLOW = 10  # time that was ahead is given back by a tenth, so that rates are hardly off meanwhile
AHEAD = 30_000  # of now: further than this is too far for what was read just now
MOST_SQUEEZED = 1000  # uptimes of a second apart keep a millisecond between them
BENDS = 500  # kept; behind them only a reading could lie that is very late indeed


class Line(NamedTuple):
    """`start + uptime`; and before, where the start turned out to be off, what it was thought to be.

    The hub's clock may be set, and an agent's run fast. The line is then bent, and what lies behind the bend keeps
    its instant, so that of two readings of a boot the one of the higher uptime is always the later one: totals stay
    exact. Bends are points of uptime and instant. The line runs straight from one to the next, and from the last on.
    """

    start: int
    bends: Sequence[Sequence[int]] = ()

    def at(self, uptime: int) -> int:
        """Return when the boot had been up for `uptime`."""
        if not self.bends or uptime >= self.bends[-1][0]:
            return self.start + uptime
        index = bisect_left(self.bends, uptime, key=itemgetter(0))
        next_uptime, next_at = self.bends[index]
        if index == 0:
            return next_at - (next_uptime - uptime)
        last_uptime, last_at = self.bends[index - 1]
        return last_at + (next_at - last_at) * (uptime - last_uptime) // (next_uptime - last_uptime)

    def moved(self, start: int, *, after: int, sent: int) -> "Line":
        """Return the line that leads to another `start` for uptimes above `after`; `sent` is the uptime by now.

        A later start is taken at once. An earlier one is approached, a tenth of the time left out until it is reached;
        where that would be far in the future, and there is room before now, it is taken at once, too.
        """
        at, now = self.at(after), start + sent
        ahead = at - (start + after)
        if ahead <= 0:
            return self._bent(after, after + 1, start + after + 1)
        joined = after + SLOW * ahead
        slowed = self._bent(after, joined, start + joined)
        if 0 < sent - after <= MOST_SQUEEZED * (now - at) and now < slowed.at(sent) - AHEAD:
            return self._bent(after, sent, now)
        return slowed

    def squeezed(self, into: int, *, after: int, longest: int) -> "Line":
        """Return the line that has room for uptimes up to `longest` above `after` in `into` milliseconds."""
        return self._bent(after, after + longest, self.at(after) + into)

    def _bent(self, after: int, uptime: int, at: int) -> "Line":
        kept = [list(bend) for bend in self.bends if bend[0] < after]
        return Line(at - uptime, [*kept, [after, self.at(after)], [uptime, at]][-BENDS:])
