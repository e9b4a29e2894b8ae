"""How far the partitions of sessions reach."""

from datetime import timedelta

from tamatar_auth.migrator.connection import connect

_REACH = "SELECT day, day >= now() + %s FROM session_days_end('sessions') AS day"


def examine_partitions(url: str, lifetime: timedelta) -> tuple[str, bool]:
    """Return how far the partitions reach, and whether a session of this lifetime fits."""
    with connect(url) as connection:
        day, is_enough = connection.execute(_REACH, [lifetime]).fetchone() or (None, False)
    if day is None:
        return "there are none: run `tamatar-auth sweep`", False
    text = f"for sessions that expire before {day:%Y-%m-%d}"
    advice = "new ones live longer: restart the servers, or run `tamatar-auth sweep`"
    return (text, True) if is_enough else (f"{text}; {advice}", False)
