import hashlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from normscope.data.download import DataFile, download, sha256

BODY = bytes(range(256)) * 1000


def file_at(*urls: str) -> DataFile:
    return DataFile(name="set.bin", sha256=hashlib.sha256(BODY).hexdigest(), bytes=len(BODY), urls=urls)


def test_sha256_of_the_published_example(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_bytes_arrive_and_progress_ends_at_the_size(tmp_path, mirror, cache):
    mirror.files["/set.bin"] = BODY
    told = []
    failures = download(
        file_at(f"{mirror.address}/set.bin"), tmp_path / "a" / "set.bin", progress=lambda *now: told.append(now)
    )
    assert failures == []
    assert (tmp_path / "a" / "set.bin").read_bytes() == BODY
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["set.bin"]
    assert told[-1] == ("set.bin", len(BODY), len(BODY))
    assert [now[1] for now in told] == sorted(now[1] for now in told)


def test_a_file_that_nobody_has_seen_is_fetched_whole_or_not_at_all(tmp_path, mirror, cache):
    mirror.files["/set.bin"] = BODY
    file = DataFile(name="set.bin", sha256=None, urls=(f"{mirror.address}/set.bin",))
    told = []
    assert download(file, tmp_path / "set.bin", progress=lambda *now: told.append(now)) == []
    assert (tmp_path / "set.bin").read_bytes() == BODY
    # The size is the one that the mirror announced.
    assert told[-1] == ("set.bin", len(BODY), len(BODY))
    mirror.cut["/set.bin"] = 1000
    (failure,) = download(file, tmp_path / "again.bin")
    assert "IncompleteRead" in failure
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["set.bin"]


def test_the_second_mirror_is_asked_after_the_first_fails(tmp_path, mirror, cache):
    mirror.files["/good"] = BODY
    assert download(file_at(f"{mirror.address}/absent", f"{mirror.address}/good"), tmp_path / "set.bin") == []
    assert mirror.asked == ["/absent", "/good"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("absent", "404"),
        ("cut", "IncompleteRead"),
        ("altered", "served 256000 bytes with sha256"),
        ("short", "served 99"),
    ],
)
def test_nothing_is_left_by_a_mirror_that_fails(tmp_path, mirror, cache, fault, words):
    if fault == "cut":
        mirror.files["/set.bin"], mirror.cut["/set.bin"] = BODY, len(BODY) // 2
    if fault == "altered":
        mirror.files["/set.bin"] = BODY[:-1] + b"x"
    if fault == "short":
        mirror.files["/set.bin"] = BODY[:99]
    (failure,) = download(file_at(f"{mirror.address}/set.bin"), tmp_path / "set.bin")
    assert words in failure
    assert failure.startswith(f"{mirror.address}/set.bin: ")
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_address_is_a_reason_not_a_crash(tmp_path, cache):
    # Port 9 of this machine: nothing listens there.
    (failure,) = download(file_at("http://127.0.0.1:9/set.bin"), tmp_path / "set.bin")
    assert "ConnectionError" in failure


def test_a_killed_download_leaves_nothing_under_the_files_name(tmp_path, mirror, cache):
    # Promises more than it sends and keeps the line open long enough for the kill.
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        line, _ = listener.accept()
        line.recv(4096)
        line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY[: len(BODY) // 2])
        line.recv(1)
        line.close()

    thread = threading.Thread(target=serve)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/set.bin"
    program = (
        "import pathlib; from normscope.data.download import DataFile, download;"
        f"file = DataFile(name='set.bin', sha256='0', bytes={len(BODY)}, urls=({url!r},));"
        f"download(file, pathlib.Path({str(tmp_path / 'set.bin')!r}))"
    )
    child = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + 1800
    while not any(path.stat().st_size for path in tmp_path.glob(".set.bin.*.part")):
        assert time.monotonic() < deadline, "the download did not begin within half an hour"
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    thread.join()
    listener.close()
    assert not (tmp_path / "set.bin").exists()
