"""What tests of interrupted runs share."""

import time

import pytest

from meta_train.run import train


@pytest.fixture
def interrupted():
    """Starts a run and stops it, by an exception, when exactly `at` outer steps are done; the steps told."""

    class Enough(Exception):
        pass

    def run(config, directory, at):
        told = []

        def stop(step):
            told.append(step)
            if step == at:
                raise Enough

        with pytest.raises(Enough):
            train.run(config, directory, display=train.Display(step=stop))
        return told

    return run


@pytest.fixture
def kill_second():
    """Kills the second of two processes with -9 once `ready()`; the first must then end, with one line."""

    def kill(both, ready, what, seconds_between_looks):
        deadline = time.time() + 240
        while not ready():
            assert time.time() < deadline and both[0].poll() is None, both[0].communicate()
            time.sleep(seconds_between_looks)
        both[1].kill()
        both[1].communicate()
        began = time.time()
        _, error = both[0].communicate(timeout=120)
        assert both[0].returncode == 1 and time.time() - began < 60, error
        lines = [line for line in error.splitlines() if "meta-train: " in line]
        assert len(lines) == 1, error
        (line,) = lines
        assert f"another process of the {what} is gone" in line and "the last good checkpoint is" in line
        assert "--resume" in line and "Traceback" not in error

    return kill
