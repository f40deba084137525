"""Archives that lie: nothing of them is unpacked, and nothing outside the folder is touched."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.datasets import LAYOUTS, Member
from orchestrator.errors import DatasetError
from orchestrator.unpack import unpack
from tests.archives import FOLDER, RECORD, contents, pack, records, sha256

SOURCE = LAYOUTS["cifar10-binary"].source
assert SOURCE is not None
MEMBERS = SOURCE.members


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


@pytest.fixture
def refused(tmp_path: Path):
    """Return a function that tries to unpack what must be refused, and returns the complaint."""

    def attempt(content: bytes) -> str:
        archive = tmp_path / "archive.tar.gz"
        archive.write_bytes(content)
        folder = tmp_path / "into"
        folder.mkdir()
        with pytest.raises(DatasetError) as caught:
            unpack(archive, MEMBERS, folder)
        assert "\n" not in str(caught.value)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["archive.tar.gz", "into"]
        assert all(path.is_dir() or path.is_file() for path in folder.rglob("*"))
        assert not [path for path in folder.rglob("*") if path.is_symlink()]
        return str(caught.value)

    return attempt


def test_the_members_go_where_the_layout_says(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(pack(contents(), entry(FOLDER, tarfile.DIRTYPE)))
    digests = unpack(archive, MEMBERS, tmp_path / "into")
    files = {str(path.relative_to(tmp_path / "into")) for path in (tmp_path / "into").rglob("*") if path.is_file()}
    assert files == set(digests) == {member.path for member in MEMBERS.values()}
    for name, member in MEMBERS.items():
        assert (tmp_path / "into" / member.path).read_bytes() == contents()[name]
        assert digests[member.path] == sha256(contents()[name])


def test_names_with_a_leading_dot_are_the_same_names(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(pack({f"./{name}": content for name, content in contents().items()}))
    assert len(unpack(archive, MEMBERS, tmp_path / "into")) == len(MEMBERS)


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", f"{FOLDER}/../../outside", ".."])
def test_a_name_that_leads_out_is_refused(refused, name: str) -> None:
    assert "lead out of the folder" in refused(pack({**contents(), name: b"x"}))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize("name", [f"{FOLDER}/data_batch_1.bin", "unrelated"])
def test_a_link_or_a_device_is_refused(refused, kind: bytes, name: str) -> None:
    files = {known: content for known, content in contents().items() if known != name}
    assert "no plain file" in refused(pack(files, entry(name, kind, "/etc/passwd")))


def test_a_folder_in_the_place_of_a_file_is_refused(refused) -> None:
    name = f"{FOLDER}/data_batch_1.bin"
    files = {known: content for known, content in contents().items() if known != name}
    assert "is a folder" in refused(pack(files, entry(name, tarfile.DIRTYPE)))


@pytest.mark.parametrize("content", [b"", b"x", records(1)[:-1], bytes(10_001 * RECORD)])
def test_a_member_of_a_size_that_it_cannot_have_is_refused(refused, content: bytes) -> None:
    assert f"{len(content):,} bytes, which it cannot have" in refused(
        pack({**contents(), f"{FOLDER}/data_batch_3.bin": content})
    )


def test_a_member_that_is_there_twice_is_refused(refused) -> None:
    assert "is there twice" in refused(pack({**contents(), f"./{FOLDER}/data_batch_1.bin": records(1)}))


def test_a_member_that_is_missing_is_named(refused) -> None:
    files = contents()
    del files[f"{FOLDER}/test_batch.bin"]
    assert f"lacks {FOLDER}/test_batch.bin" in refused(pack(files))


def test_a_bomb_is_stopped(refused) -> None:
    bomb = pack({**contents(), "zeros": bytes(300_000_000)})
    assert len(bomb) < 3_000_000
    assert "far more than what is wanted" in refused(bomb)


def test_a_crowd_of_members_is_refused(refused) -> None:
    assert "more than 1000 members" in refused(pack({f"file{number}": b"" for number in range(1001)}))


def test_headers_upon_headers_are_refused(refused) -> None:
    out = io.BytesIO()
    for _ in range(3000):  # each says that the name of the next entry follows
        header = tarfile.TarInfo("././@LongLink")
        header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1
        out.write(header.tobuf(tarfile.GNU_FORMAT) + b"x".ljust(512, b"\0"))
    assert "damaged" in refused(gzip.compress(out.getvalue()))


@pytest.mark.parametrize(
    "content", [b"", b"<html>", b"\x1f\x8b", gzip.compress(b"", mtime=0), gzip.compress(b"x" * 2000, mtime=0)]
)
def test_what_is_no_archive_is_refused(refused, content: bytes) -> None:
    assert "archive" in refused(content)


def test_a_damaged_end_is_found_though_all_members_came_before(refused) -> None:
    whole = pack(contents())
    assert "damaged" in refused(whole[:-4] + b"\0\0\0\0")


@given(st.data())
def test_an_archive_with_any_byte_changed_or_cut_is_unpacked_as_it_was_or_refused(tmp_path_factory, data) -> None:
    whole = bytearray(pack({"a": b"A" * 700, "b": b"B" * 100}))
    where = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        del whole[where:]
    else:
        whole[where] ^= data.draw(st.integers(1, 255))
    folder = tmp_path_factory.mktemp("any")
    (folder / "archive").write_bytes(whole)
    members = {name: Member(f"out/{name}", most_bytes=1000) for name in "ab"}
    try:
        digests = unpack(folder / "archive", members, folder)
    except DatasetError:
        return
    assert digests == {"out/a": sha256(b"A" * 700), "out/b": sha256(b"B" * 100)}
