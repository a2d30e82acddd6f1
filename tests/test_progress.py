from finsent.logging_setup import track


def test_it_yields_everything_and_is_silent_in_a_pipe(capfd: object) -> None:
    assert list(track(range(5), description="working")) == [0, 1, 2, 3, 4]
    out, err = capfd.readouterr()  # type: ignore[attr-defined]
    assert out == err == ""
