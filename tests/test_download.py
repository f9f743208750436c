"""Fetching the files of brutus, from a server of our own."""

import hashlib
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from brutax.cli import main
from brutax.data import download, fetch_grids, fetch_isos, fetch_nns, fetch_offsets, find_nn_file
from brutax.data.download import FILES, Published, fetch, find_file

CONTENT = bytes(range(256)) * 4000
NAME = "offsets_mist_v9.txt"


class Server(ThreadingHTTPServer):
    """Serves `content`; `cut` ends an answer early, `whole` ignores ranges."""

    content, cut, whole, broken_range = CONTENT, None, False, False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        start = int(re.match(r"bytes=(\d+)-", wanted)[1]) if wanted and not server.whole else 0
        if start >= len(server.content):
            self.send_response(416)
            self.end_headers()
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            said = start + 1 if server.broken_range else start
            self.send_header("Content-Range", f"bytes {said}-{len(server.content) - 1}/*")
        self.end_headers()
        cut, server.cut = server.cut, None
        self.wfile.write(body[:cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    pytest.importorskip("pooch")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setattr(download, "BASE_URL", f"http://127.0.0.1:{server.server_port}/")
        known = Published("doi", hashlib.sha256(CONTENT).hexdigest(), "offsets")
        monkeypatch.setitem(FILES, NAME, known)
        monkeypatch.setattr(download, "CHUNK", 50_000)
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("BRUTAX_DATA_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("ASTRO_BRUTUS_DATA_DIR", str(tmp_path / "brutus"))
    (tmp_path / "here").mkdir()
    return tmp_path / "cache"


def test_fetched_once(server, cache, tmp_path):
    path = fetch_offsets(tmp_path / "here")
    assert path == tmp_path / "here" / NAME and path.is_symlink()
    assert path.read_bytes() == CONTENT and (cache / NAME).read_bytes() == CONTENT
    assert fetch_offsets(tmp_path / "here") == path and len(server.asked) == 1
    assert find_file(NAME) == cache / NAME
    assert not list(cache.glob("*.part"))


def test_a_cut_download_goes_on(server, cache, tmp_path):
    server.cut = 300_000
    assert fetch(NAME, tmp_path / "here").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-"]


def test_a_stopped_download_goes_on_in_another_run(server, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "RETRIES", 1)
    server.cut = 300_000
    with pytest.raises(ConnectionError, match="what has come is kept"):
        fetch(NAME, tmp_path / "here")
    assert (cache / f"{NAME}.part").stat().st_size == 300_000
    assert fetch(NAME, tmp_path / "here").read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=300000-"


def test_a_server_without_ranges(server, cache, tmp_path):
    server.cut, server.whole = 300_000, True
    assert fetch(NAME, tmp_path / "here").read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_a_server_that_sends_another_part(server, cache, tmp_path):
    server.cut, server.broken_range = 300_000, True
    assert fetch(NAME, tmp_path / "here").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-", None]


def test_a_complete_part(server, cache, tmp_path):
    cache.mkdir()
    (cache / f"{NAME}.part").write_bytes(CONTENT)
    assert fetch(NAME, tmp_path / "here").read_bytes() == CONTENT


def test_other_content_is_refused(server, cache, tmp_path):
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(ValueError, match="SHA-256"):
        fetch(NAME, tmp_path / "here")
    assert not (cache / NAME).exists() and not (tmp_path / "here" / NAME).exists()
    server.content = CONTENT
    assert fetch(NAME, tmp_path / "here").read_bytes() == CONTENT


def test_a_damaged_copy_is_fetched_again(server, cache, tmp_path):
    fetch(NAME, tmp_path / "here")
    (cache / NAME).write_bytes(b"damaged")
    assert fetch(NAME, tmp_path / "here").read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_without_a_network(cache, tmp_path, monkeypatch):
    pytest.importorskip("pooch")
    monkeypatch.setattr(download, "BASE_URL", "http://127.0.0.1:9/")
    with pytest.raises(ConnectionError, match="put it there as") as error:
        fetch_grids("mist_v8", tmp_path / "here")
    assert str(cache / "grid_mist_v8.h5") in str(error.value)


def test_files_of_brutus_are_used(server, cache, tmp_path):
    (tmp_path / "brutus").mkdir()
    (tmp_path / "brutus" / NAME).write_bytes(CONTENT)
    assert fetch(NAME, tmp_path / "here").resolve() == tmp_path / "brutus" / NAME
    assert not server.asked and find_file(NAME) == tmp_path / "brutus" / NAME
    (tmp_path / "brutus" / NAME).write_bytes(b"damaged")
    assert fetch(NAME, tmp_path / "here").resolve() == cache / NAME


def test_folders_that_cannot_be_used(server, cache, tmp_path, monkeypatch):
    with pytest.raises(NotADirectoryError, match="no folder"):
        fetch(NAME, tmp_path / "nowhere")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("BRUTAX_DATA_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(OSError, match="BRUTAX_DATA_DIR"):
        fetch(NAME, tmp_path / "here")


def test_what_lies_at_the_target(server, cache, tmp_path, monkeypatch):
    here = tmp_path / "here" / NAME
    here.symlink_to(tmp_path / "gone")
    assert fetch(NAME, tmp_path / "here").read_bytes() == CONTENT
    here.unlink()
    here.write_bytes(b"short")
    assert fetch(NAME, tmp_path / "here").is_symlink()
    here.unlink()
    here.write_bytes(CONTENT[::-1])  # the same size: the user's own
    assert not fetch(NAME, tmp_path / "here").is_symlink()
    here.unlink()

    def no_links(*_):
        raise OSError("no links here")

    monkeypatch.setattr("pathlib.Path.symlink_to", no_links)
    path = fetch(NAME, tmp_path / "here")
    assert not path.is_symlink() and path.read_bytes() == CONTENT


def test_options():
    with pytest.raises(ValueError, match="mist_v9"):
        fetch_grids("mist_v7")
    with pytest.raises(ValueError, match="vvcrit0.4"):
        fetch_isos(iso="PARSEC")
    with pytest.raises(ValueError, match="did you mean 'c3k'"):
        fetch_nns(model="c3")
    with pytest.raises(ValueError, match="did you mean"):
        fetch("grid_mist_v9")


def test_the_registry():
    assert len(FILES) == 11
    assert FILES["nn_c3k.h5"].doi == "10.7910/DVN/MSCY2O/XHU1VJ"
    assert FILES["grid_mist_v9.h5"].sha256.startswith("7d128a5caded78ca9d1788a8e6551b43")
    assert all(re.fullmatch("[0-9a-f]{64}", one.sha256) for one in FILES.values())
    assert len({one.doi for one in FILES.values()}) == 11


def test_networks_are_found(cache):
    with pytest.raises(FileNotFoundError, match="brutax data fetch nn_c3k.h5"):
        find_nn_file()
    cache.mkdir()
    (cache / "nnMIST_BC.h5").write_bytes(b"networks")
    assert find_nn_file() == cache / "nnMIST_BC.h5"


def test_command_line(server, cache, tmp_path, capsys):
    assert main(["data", "list"]) == 0
    assert capsys.readouterr().out.count("not fetched") == 11
    assert main(["data", "fetch", NAME, "--to", str(tmp_path / "here")]) == 0
    assert str(tmp_path / "here" / NAME) in capsys.readouterr().out
    main(["data", "list"])
    assert capsys.readouterr().out.count("not fetched") == 10
    assert main(["data", "fetch"]) == 2
    assert "needs the name" in capsys.readouterr().err
    assert main(["data", "fetch", "grid_mist_v7.h5"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_two_at_a_time_do_not_mix(cache):
    cache.mkdir()
    part = cache / "file.part"
    with download._exclusively(part) as mine, download._exclusively(part) as other:
        assert mine == part and other != part and str(os.getpid()) in other.name
