from lmx.train.stop import STOP_FILE, StopRequest, look_at_stop_file


def test_a_stop_file_asks_once_for_the_end(tmp_path, monkeypatch):
    flag = tmp_path / "stop"
    monkeypatch.setenv(STOP_FILE, str(flag))
    with StopRequest() as stop:
        look_at_stop_file()
        assert stop.reason(1, out_of_time=False) is None
        flag.touch()
        look_at_stop_file()
        assert stop.reason(2, out_of_time=False) == "SIGTERM"
        look_at_stop_file()  # a second SIGTERM would end this process
        assert stop.reason(3, out_of_time=False) == "SIGTERM"
