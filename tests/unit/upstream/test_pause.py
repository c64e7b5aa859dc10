"""The vendor's pause."""

from __future__ import annotations

from gateway.upstream.pause import Pause


def test_a_pause_goes_through_its_phases() -> None:
    pause = Pause(8)
    assert pause.phase(0) == "none"
    assert pause.begin(10, 10)
    assert [pause.phase(now) for now in (0, 9.99, 10, 100)] == ["paused", "paused", "probe", "probe"]
    assert pause.resume()
    assert (pause.phase(10), pause.allowed) == ("ramp", 2)
    for allowed in range(3, 9):
        assert pause.phase(10) == "ramp"
        pause.succeeded()
        assert pause.allowed == allowed
    assert pause.phase(10) == "none"
    pause.succeeded()
    assert pause.allowed == 8


def test_the_longer_pause_counts() -> None:
    pause = Pause(8)
    assert pause.begin(10, 10)
    assert not pause.begin(9, 9)
    assert not pause.begin(10, 10)
    assert pause.begin(11, 11)
    assert pause.phase(10.5) == "paused"


def test_an_end_is_news_once() -> None:
    pause = Pause(1)
    assert not pause.resume()
    pause.begin(10, 10)
    assert pause.resume()
    assert not pause.resume()
    assert pause.phase(10) == "none"  # one at a time is all there ever is


def test_a_pause_during_the_ramp_begins_anew() -> None:
    pause = Pause(8)
    pause.begin(10, 10)
    pause.resume()
    pause.succeeded()
    pause.begin(20, 20)
    assert pause.phase(15) == "paused"
    pause.resume()
    assert pause.allowed == 2
