"""What has happened, as status and metrics tell it."""

from entrypoint.core.history import BUCKETS, History
from entrypoint.core.log_lines import line_of
from entrypoint.core.notices import (
    Died,
    FilesApplied,
    FilesRefused,
    Gone,
    Promoted,
    Recovered,
    ReloadFailed,
    StartFailed,
    Starting,
)


def reload(
    history: History, number: int, trigger: str = "SIGUSR1", *, seconds: float = 0.02, good: bool = True
) -> None:
    """Have one reload happen."""
    history.note(Starting(number, trigger), "it starts", 1000.0, 5.0)
    ended = Promoted(number, 16, trigger) if good else ReloadFailed(number, 16, trigger, "exited with status 1")
    history.note(ended, "it has ended", 2000.0, 5.0 + seconds)


def test_a_reload_is_counted_with_its_time() -> None:
    """By trigger and result; the time is of a clock that nobody sets."""
    history = History(900.0)
    reload(history, 2)
    reload(history, 3, "files", seconds=3.0, good=False)
    assert history.reloads == {("SIGUSR1", "success", "reload"): 1, ("files", "failure", "reload"): 1}
    assert history.failures == 1
    assert [round(count) for count in history.buckets] == [bound >= 0.02 and 1 + (bound >= 3) for bound in BUCKETS]
    assert round(history.seconds, 6) == 3.02
    assert history.last is not None
    assert (history.last.success, history.last.trigger, history.last.at) == (False, "files", 2000.0)
    assert history.last_success == 2000.0


def test_a_thousand_reloads_and_deaths_are_not_remembered_one_by_one() -> None:
    """Nothing grows, whichever requests come together, and however generations end."""
    history = History(900.0)
    for number in range(2, 1002):
        reload(history, number, ("SIGUSR1", "SIGHUP", "SIGUSR1, files", "SIGUSR1, SIGHUP")[number % 4])
        history.note(Starting(number + 5000), "it starts", 1.0, 1.0)
        ends = (Gone(number, 16, 0), StartFailed(number, 16, "exited with status 1"), Died(number, 16, number))
        history.note(ends[number % 3], "it has ended", 1.0, 1.0)
        history.note(Gone(number + 5000, 16, 0), "it is gone", 1.0, 1.0)

    assert not history.born
    assert not history.asked_by
    assert set(history.reloads) == {("SIGUSR1", "success", "reload"), ("SIGHUP", "success", "reload")}
    assert len(history.restarts) <= 21


def test_files_that_are_back_end_the_failure() -> None:
    """What failed is no longer what is wanted."""
    history = History(900.0)
    reload(history, 2, good=False)
    history.note(Recovered(1), "it is over", 3000.0, 9.0)
    assert history.last is not None
    assert history.last.success
    assert history.last.number == 1
    assert history.last_success == 3000.0


def test_a_failed_start_is_shown_until_one_from_the_disk_works() -> None:
    """The status of a container that runs the last known good configuration says why."""
    history = History(0.0)
    history.note(StartFailed(1, 16, "exited"), "generation 1 exited with status 1", 1.0, 1.0)
    history.note(Promoted(2, 17, kept=True), "", 2.0, 2.0)
    assert history.last
    assert not history.last.success
    assert "status 1" in history.last.message
    history.note(Promoted(3, 18), "", 3.0, 3.0)
    assert history.last is None


def test_files_that_were_applied_are_counted_apart_from_reloads() -> None:
    """The time of a reload is a generation's: they do not count in its buckets. A refusal is a failure."""
    history = History(0.0)
    history.note(FilesApplied(1, ("a.map",), 0.006, "files", "b"), "applied", 1.0, 1.0)
    assert history.last
    assert (history.last.success, history.last.kind, history.last.seconds) == (True, "applied", 0.006)
    assert history.last_success == 1.0
    history.note(FilesRefused(1, 16, "bad", "files"), "refused", 2.0, 2.0)
    assert (history.last.success, history.last.kind, history.last.message) == (False, "applied", "refused")
    assert history.reloads == {("files", "success", "applied"): 1, ("files", "failure", "applied"): 1}
    assert (history.failures, history.finished, history.last_success) == (1, 0, 1.0)
    again = History.restore(history.serialize())
    assert again.last == history.last
    assert again.reloads == history.reloads


def test_the_log_says_what_was_applied_or_refused() -> None:
    """A few names, the time, and that haproxy goes on."""
    line = line_of(FilesApplied(1, tuple("abcde"), 0.0064, "files", "d"))
    assert line.message == "applied a, b, c and 2 more without a reload (6 ms)"
    assert line.fields == {"generation": 1, "trigger": "files", "sha256": "d", "kind": "applied"}
    assert "a, b, c without" in line_of(FilesApplied(1, tuple("abc"), 0.0, "files", "d")).message
    refused = line_of(FilesRefused(1, 16, "a.pem: inconsistencies", "files"))
    assert (
        refused.message
        == "generation 1 (pid 16) refuses a changed file and goes on with the old one: a.pem: inconsistencies"
    )
    assert (refused.event, refused.fields["kind"]) == ("reload_failed", "applied")
