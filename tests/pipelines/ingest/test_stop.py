"""Stopping by signals."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from pipelines.ingest.stop import StopFlag, stopping_on_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_flag_and_the_old_handler_comes_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    stop = StopFlag()
    with stopping_on_signals(stop):
        assert not stop
        os.kill(os.getpid(), number)
        assert stop
    assert stop.signal == number.name
    assert signal.getsignal(number) is before


def test_a_second_interrupt_interrupts() -> None:
    stop = StopFlag()
    with stopping_on_signals(stop):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_outside_the_main_thread_signals_stay_as_they_are() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def work() -> None:
        with stopping_on_signals(StopFlag()):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_failure_stops_without_a_signal_and_the_first_signal_is_named_once() -> None:
    stop = StopFlag()
    said: list[str] = []
    stop.set()
    stop.announce(said.append)
    assert stop
    assert (stop.signal, said) == (None, [])
    stop.set("SIGTERM")
    stop.set("SIGINT")
    stop.announce(said.append)
    stop.announce(said.append)
    assert said == ["SIGTERM"]
