import bz2
import gzip
import hashlib
import zipfile

import numpy as np
import pytest

from normscope.data.readers import characters
from normscope.data.readers.characters import load_bytes, read_packed, read_zipped
from normscope.data.registry import SETS
from normscope.data.store import DataUnverified, locate


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize(("name", "size"), [("enwiki-xml-small", 6_089_746), ("text-small", 1_115_394)])
def test_texts_are_whole_and_cut_at_90_and_95_per_cent(name, size):
    check_cuts(name, size)


@pytest.mark.parametrize(
    ("name", "size", "distinct"),
    [
        pytest.param(name, size, distinct, marks=pytest.mark.real_data(name))
        for name, size, distinct in (("enwiki-xml-small", 6_089_746, 201), ("text-small", 1_115_394, 65))
    ],
)
def test_the_published_texts_have_their_size_and_characters(name, size, distinct):
    assert len(np.unique(check_cuts(name, size))) == distinct


def check_cuts(name, size):
    (path,) = locate(SETS[name]).values()
    text = load_bytes(name)
    sizes = [len(part) for part in (text.train, text.valid, text.test)]
    assert sizes == [size * 90 // 100, size * 95 // 100 - size * 90 // 100, size - size * 95 // 100]
    whole = np.concatenate([text.train, text.valid, text.test])
    assert whole.dtype == np.uint8
    unpack = bz2.decompress if path.suffix == ".bz2" else gzip.decompress
    assert whole.tobytes() == unpack(path.read_bytes())
    assert text.hashes == SETS[name].hashes
    return whole


def test_unknown_texts_are_refused():
    with pytest.raises(ValueError, match=r"no text 'text8', expected one of enwik8, enwiki-xml-small, text-small"):
        load_bytes("text8")


@pytest.mark.parametrize(("name", "pack"), [("a", bytes), ("a.gz", gzip.compress), ("a.bz2", bz2.compress)])
def test_a_text_of_another_size_is_refused(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(b"abcdef"))
    assert read_packed(tmp_path / name, 6).tobytes() == b"abcdef"
    with pytest.raises(ValueError, match=f"{name} unpacks to 6 bytes, expected 7"):
        read_packed(tmp_path / name, 7)
    with pytest.raises(ValueError, match=f"{name} unpacks to more than the expected 5 bytes"):
        read_packed(tmp_path / name, 5)


def test_a_bomb_is_not_unpacked(tmp_path, peak):
    with bz2.BZ2File(tmp_path / "a.bz2", "wb") as file:
        for _ in range(100):
            file.write(bytes(1_000_000))
    assert (tmp_path / "a.bz2").stat().st_size < 1_000

    def read():
        with pytest.raises(ValueError, match="more than the expected 1000000 bytes"):
            read_packed(tmp_path / "a.bz2", 1_000_000)

    assert peak(read) < 8_000_000


def test_memory_is_the_text_and_a_little(tmp_path, peak):
    (tmp_path / "a.bz2").write_bytes(bz2.compress(np.random.default_rng(0).bytes(1_000_000) + bytes(19_000_000)))
    # bz2 itself needs four megabytes to unpack its largest blocks.
    assert peak(lambda: read_packed(tmp_path / "a.bz2", 20_000_000)) < 20_000_000 + 6_000_000


def zipped(path, *members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members:
            archive.writestr(name, body)
    return path


def test_a_zip_holds_the_one_text_with_the_published_md5(tmp_path):
    # RFC 1321, appendix A.5.
    abc = "900150983cd24fb0d6963f7d28e17f72"
    path = zipped(tmp_path / "a.zip", ("enwik8", b"abc"))
    assert read_zipped(path, "enwik8", 3, md5=abc).tobytes() == b"abc"
    with pytest.raises(ValueError, match=r"a\.zip unpacks to more than the expected 2 bytes"):
        read_zipped(path, "enwik8", 2, md5=abc)
    with pytest.raises(ValueError, match=r"a\.zip unpacks to 3 bytes, expected 4"):
        read_zipped(path, "enwik8", 4, md5=abc)
    with pytest.raises(ValueError, match=rf"a\.zip: enwik8 has md5 [0-9a-f]{{32}}, expected {abc}"):
        read_zipped(zipped(tmp_path / "a.zip", ("enwik8", b"abd")), "enwik8", 3, md5=abc)
    for members in ([("enwik8", b"abc"), ("more", b"")], [("../enwik8", b"abc")], [("enwik9", b"abc")]):
        with pytest.raises(ValueError, match=r"a\.zip (holds|has the member)"):
            read_zipped(zipped(tmp_path / "a.zip", *members), "enwik8", 3, md5=abc)


def test_enwik8_is_cut_read_and_recorded(tmp_path, cache, monkeypatch):
    body = np.random.default_rng(0).bytes(1000)
    monkeypatch.setenv("NORMSCOPE_DATA", str(tmp_path))
    monkeypatch.setitem(characters.SIZES, "enwik8", 1000)
    (tmp_path / "enwik8").mkdir()
    path = zipped(tmp_path / "enwik8" / "enwik8.zip", ("enwik8", body))
    with (
        pytest.warns(DataUnverified),
        pytest.raises(ValueError, match="expected a1fa5ffddb56f4953e226637dabbb36a"),
    ):
        load_bytes("enwik8")
    monkeypatch.setattr(characters, "ENWIK8_MD5", hashlib.md5(body).hexdigest())
    with pytest.warns(DataUnverified, match=hashlib.sha256(path.read_bytes()).hexdigest()):
        text = load_bytes("enwik8")
    assert [len(part) for part in (text.train, text.valid, text.test)] == [900, 50, 50]
    assert text.test.tobytes() == body[950:]
    assert text.hashes == {"enwik8.zip": f"unverified: {hashlib.sha256(path.read_bytes()).hexdigest()}"}
