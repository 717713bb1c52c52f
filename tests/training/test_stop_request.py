"""What signals do during a run: which are taken, which are left to the program, and what is afterwards."""

import faulthandler
import signal
import sys
import threading
from collections.abc import Callable

import pytest

from snnkd_jax.training.interrupt import SCHEDULER_SIGNALS, Interrupted, StopRequest

STOPPING = (signal.SIGTERM, signal.SIGINT, *SCHEDULER_SIGNALS)


@pytest.fixture(autouse=True)
def default_handlers():
    """What the shell or the test's runner has set up would be left alone."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in STOPPING}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run(train: Callable[[StopRequest], object]) -> None:
    """A run that does this, saves, and stops if it is asked to."""
    with StopRequest() as stop:
        train(stop)
        if stop.poll():
            raise stop.interrupted("student: stopped at step 3 of 20 and saved")


@pytest.mark.parametrize("number", STOPPING, ids=lambda number: number.name)
def test_a_signal_asks_for_a_stop_and_the_handlers_are_restored(number):
    before = {number: signal.getsignal(number) for number in STOPPING}
    with pytest.raises(Interrupted, match="run the same command to resume") as stopped:
        run(lambda _: signal.raise_signal(number))
    assert stopped.value.exit_status == (130 if number == signal.SIGINT else 0)
    assert {number: signal.getsignal(number) for number in STOPPING} == before
    run(lambda _: None)


@pytest.mark.parametrize("number", SCHEDULER_SIGNALS, ids=lambda number: number.name)
def test_schedulers_repeat_their_signals(number):
    """SIGXCPU comes every second, SIGHUP from the shell and from the kernel."""
    with pytest.raises(Interrupted):
        run(lambda _: [signal.raise_signal(number) for _ in range(3)])


def test_a_second_ctrl_c_ends_at_once():
    with pytest.raises(KeyboardInterrupt):
        run(lambda _: [signal.raise_signal(signal.SIGINT) for _ in range(2)])


@pytest.mark.parametrize("number", SCHEDULER_SIGNALS, ids=lambda number: number.name)
def test_what_is_ignored_or_handled_by_the_program_is_left_alone(number):
    """`nohup` has SIGHUP ignored; SIGUSR1 may print a program's state."""
    signal.signal(number, signal.SIG_IGN)
    with StopRequest() as stop:
        signal.raise_signal(number)
        assert not stop.poll()
    assert signal.getsignal(number) == signal.SIG_IGN
    found = []
    signal.signal(number, lambda number, _: found.append(number))
    with StopRequest() as stop:
        signal.raise_signal(number)
        assert not stop.poll()
    assert found == [number]


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_a_handler_in_c_is_left_alone(tmp_path):
    with (tmp_path / "stacks").open("w") as file:
        faulthandler.register(signal.SIGUSR1, file)
        try:
            with StopRequest() as stop:
                signal.raise_signal(signal.SIGUSR1)
                assert not stop.poll()
        finally:
            faulthandler.unregister(signal.SIGUSR1)
    assert "most recent call first" in (tmp_path / "stacks").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_programs_own_handler_is_called_when_everything_is_saved(number):
    order = []

    def leave(*_):
        order.append("handler")
        raise SystemExit(3)

    def train(_):
        signal.raise_signal(number)
        order.append("saved")

    signal.signal(number, leave)
    with pytest.raises(SystemExit) as left:
        run(train)
    assert (order, left.value.code) == (["saved", "handler"], 3)
    assert signal.getsignal(number) is leave


def test_a_signal_after_the_last_step_is_not_lost():
    """A program that trains one network after another does not begin with the next."""
    with pytest.raises(Interrupted, match="finished and saved"), StopRequest():
        signal.raise_signal(signal.SIGUSR1)


def test_in_another_thread_no_signal_is_touched():
    found = []

    def work():
        with StopRequest() as stop:
            found.append(stop.poll())
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False, signal.SIG_DFL]


def test_lost_output_stops_and_another_error_does_not_pass_for_it():
    def write(stop: StopRequest, error: OSError) -> None:
        with stop.saved_if_output_is_lost():
            raise error

    for lost in (BrokenPipeError(32, "Broken pipe"), OSError(5, "Input/output error")):
        with pytest.raises(OSError, match=lost.strerror) as raised:
            run(lambda stop, lost=lost: write(stop, lost))
        assert raised.value is lost
    with StopRequest() as stop, pytest.raises(PermissionError):
        write(stop, PermissionError(13, "Permission denied"))
    assert not stop.poll()
