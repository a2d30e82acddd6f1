"""A clock that stands."""

from datetime import UTC, datetime


def clock_at(moment: str) -> type[datetime]:
    """`datetime`, for which it is that moment, UTC."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.fromisoformat(moment).replace(tzinfo=UTC).astimezone(tz)

    return Clock
