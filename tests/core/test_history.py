"""What has happened, as status and metrics tell it."""

from entrypoint.core.events import Level, Log
from entrypoint.core.history import BUCKETS, History


def line(event: str, **fields: object) -> Log:
    """Return a line of the log."""
    return Log(Level.INFO, event, f"it is {event}", fields)


def reload(
    history: History, number: int, trigger: str = "SIGUSR1", *, seconds: float = 0.02, good: bool = True
) -> None:
    """Have one reload happen."""
    history.note(line("starting", generation=number), 1000.0, 5.0)
    event = "current" if good else "reload_failed"
    history.note(line(event, generation=number, trigger=trigger), 2000.0, 5.0 + seconds)


def test_a_reload_is_counted_with_its_time() -> None:
    """By trigger and result; the time is of a clock that nobody sets."""
    history = History(900.0)
    reload(history, 2)
    reload(history, 3, "files", seconds=3.0, good=False)

    assert history.reloads == {("SIGUSR1", "success"): 1, ("files", "failure"): 1}
    assert history.failures == 1
    assert [round(count) for count in history.buckets] == [bound >= 0.02 and 1 + (bound >= 3) for bound in BUCKETS]
    assert round(history.seconds, 6) == 3.02
    assert history.last is not None
    assert (history.last.success, history.last.trigger, history.last.at) == (False, "files", 2000.0)
    assert history.last_success == 2000.0


def test_a_thousand_reloads_and_deaths_are_not_remembered_one_by_one() -> None:
    """Nothing grows, whoever asks together with whom, and in whatever way generations end."""
    history = History(900.0)
    for number in range(2, 1002):
        reload(history, number, ("SIGUSR1", "SIGHUP", "SIGUSR1, files", "SIGUSR1, SIGHUP")[number % 4])
        history.note(line("starting", generation=number + 5000), 1.0, 1.0)
        event = ("gone", "start_failed", "died")[number % 3]
        history.note(line(event, generation=number, how=f"exited with status {number}"), 1.0, 1.0)
        history.note(line("gone", generation=number + 5000), 1.0, 1.0)

    assert not history.born
    assert not history.asked_by
    assert set(history.reloads) == {("SIGUSR1", "success"), ("SIGHUP", "success")}
    assert len(history.restarts) <= 21


def test_files_that_are_back_end_the_failure() -> None:
    """What failed is no longer what is wanted."""
    history = History(900.0)
    reload(history, 2, good=False)
    history.note(line("back", generation=1), 3000.0, 9.0)

    assert history.last is not None
    assert history.last.success
    assert history.last.number == 1
    assert history.last_success == 3000.0


def test_a_start_that_failed_is_told_until_one_from_the_disk_works() -> None:
    """Whoever looks at a container that runs the last known good configuration finds out why."""
    history = History(0.0)
    history.note(Log(Level.ERROR, "start_failed", "generation 1 exited with status 1", {"generation": 1}), 1.0, 1.0)
    history.note(Log(Level.INFO, "current", "", {"generation": 2, "last_known_good": True}), 2.0, 2.0)
    assert history.last
    assert not history.last.success
    assert "status 1" in history.last.message
    history.note(Log(Level.INFO, "current", "", {"generation": 3}), 3.0, 3.0)
    assert history.last is None
