"""A cron line that every scheduler reads alike, and the same times in systemd's words.

cronsim reads it as Debian's cron does. What crontabs and Kubernetes read differently is refused, and so is what only
some of them know, such as `@daily`, `L` and `5/15`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from datetime import UTC, datetime, timedelta
from itertools import islice, product
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from ..data.errors import BadInput

_FIELDS = {
    "minute": (0, 59),
    "hour": (0, 23),
    "day-of-month": (1, 31),
    "month": (1, 12),
    "day-of-week": (0, 7),
}
_ITEM = re.compile(r"(\*|(\d+|[A-Za-z]{3})-(\d+|[A-Za-z]{3}))(/\d+)?|\d+|[A-Za-z]{3}")
_WEEKDAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")


class Cron:
    """Five fields: minute, hour, day of month, month, day of week.

    Raises:
        BadInput: it is not such a line; the field is named.
    """

    def __init__(self, line: str, zone: str | None = None) -> None:
        """Take a line.

        Args:
            zone: an IANA name such as Europe/Berlin; None is the machine's own.
        """
        self.line = " ".join(line.split())
        self.zone = zone
        fields = self.line.split()
        if len(fields) != len(_FIELDS):
            raise BadInput(
                f"--cron '{line}': {len(fields)} fields; expected five: {', '.join(_FIELDS)}, such as '0 3 * * *'"
            )
        for (name, bounds), field in zip(_FIELDS.items(), fields, strict=True):
            if not all(map(_ITEM.fullmatch, field.split(","))):
                raise self._refusal(name, field, bounds)
        try:
            self._times = CronSim(self.line, datetime.now(self._zone()))
        except CronSimError as error:
            name = str(error).removeprefix("Bad ")
            raise self._refusal(name, fields[list(_FIELDS).index(name)], _FIELDS[name]) from None
        self._by_day, self._by_weekday = (field != "*" for field in (fields[2], fields[4]))
        if self._by_day and self._by_weekday and "*" in fields[2][0] + fields[4][0]:
            raise BadInput(
                f"--cron '{line}': crontabs take days that fit both {fields[2]} and {fields[4]}, Kubernetes those that "
                "fit either; write out the one that begins with *"
            )

    @property
    def knows_seven(self) -> bool:
        """Whether Sunday is written 7, which Kubernetes does not know."""
        return "7" in re.split(r"[,/-]", self.line.split()[4].partition("/")[0])

    def next_times(self, count: int) -> Iterator[datetime]:
        """When it is due next."""
        return islice(self._times, count)

    def on_calendar(self) -> list[str]:
        """The same times as systemd's OnCalendar; two where a day of the month or of the week will do.

        Raises:
            BadInput: a change of clocks in the next two years would set them apart.
        """
        if time := self._set_apart():
            raise BadInput(
                f"--cron '{self.line}': {time} is where clocks change in {self.zone}, and systemd would leave out a "
                "run that cron does; choose another hour, or --time-zone Etc/UTC"
            )
        clock = f"{_listed(self._times.hours, range(24))}:{_listed(self._times.minutes, range(60))}:00"
        months, days = _listed(self._times.months, range(1, 13)), _listed(self._times.days, range(1, 32))
        names = ",".join(_WEEKDAYS[day] for day in sorted(self._weekdays)) + " " if self._by_weekday else ""
        either = [("", days), (names, "*")] if self._by_day and self._by_weekday else [(names, days)]
        zone = f" {self.zone}" if self.zone else ""
        return [f"{some}*-{months}-{day} {clock}{zone}" for some, day in either]

    def _set_apart(self) -> str | None:
        """A time that is skipped, which cron makes up for where it is a fixed one; else one that comes twice."""
        zone = self._zone()
        if zone is None:
            return None
        fixed = not any(field.startswith("*") for field in self.line.split()[:2])
        today = datetime.now().replace(hour=0, minute=0, second=0, microsecond=0)
        for date in (today + timedelta(day) for day in range(731)):
            changes = zone.utcoffset(date) != zone.utcoffset(date + timedelta(1))
            if not changes or not self._falls_on(date):
                continue
            for hour, minute in product(sorted(self._times.hours), sorted(self._times.minutes)):
                time = date.replace(hour=hour, minute=minute, tzinfo=zone)
                skipped = time.astimezone(UTC).astimezone(zone).hour != hour
                twice = not skipped and time.utcoffset() != time.replace(fold=1).utcoffset()
                if skipped if fixed else twice:
                    return f"{time:%H:%M}"
        return None

    def _falls_on(self, date: datetime) -> bool:
        day, weekday = date.day in self._times.days, date.isoweekday() % 7 in self._weekdays
        either = self._by_day and self._by_weekday
        return date.month in self._times.months and ((day or weekday) if either else (day and weekday))

    @property
    def _weekdays(self) -> set[int]:
        """0 is Sunday."""
        return {day % 7 for day in self._times.weekdays if isinstance(day, int)}

    def _zone(self) -> ZoneInfo | None:
        try:
            return ZoneInfo(self.zone) if self.zone else None
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise BadInput(f"--time-zone {self.zone}: no such time zone; expected one such as Europe/Berlin") from None

    def _refusal(self, name: str, field: str, bounds: tuple[int, int]) -> BadInput:
        expected = f"{bounds[0]} to {bounds[1]}, a list, a range, or * with a step such as */15"
        return BadInput(f"--cron '{self.line}': {name} cannot be '{field}'; expected {expected}")


def _listed(values: Set[int], every: range) -> str:
    return "*" if len(values) == len(every) else ",".join(f"{value:02d}" for value in sorted(values))
