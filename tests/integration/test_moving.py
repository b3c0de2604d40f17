"""docs/moving.md's commands, run unchanged: there, check, and back, byte for byte."""

import re
import shlex
from pathlib import Path

import pytest

from raida_uring.store import PAGE_SIZE, page_of
from tests.support.command_line import PROGRAM, REPOSITORY, output_of
from tests.support.page_files import tree, write_page_files

pytestmark = pytest.mark.any_backend

GUIDE = (REPOSITORY / "docs" / "moving.md").read_text(encoding="utf-8")
SIZES = {page_of(-8, 0): PAGE_SIZE, page_of(0, 256): PAGE_SIZE + 1, page_of(6, 17): 17}

# As the reference server wants it.
CONFIG = """\
[server]
raida_id = 14
coin_id = 6
port = 50014
admin_key = "00112233445566778899aabbccddeeff"
proxy_key = "00112233445566778899aabbccddeeff"
threads = 8
synchronization_enabled = true
raida_servers = [{servers}]
""".format(servers=", ".join(f'"raida{number}.example:{50000 + number}"' for number in range(25)))


def test_there_and_back(tmp_path: Path) -> None:
    reference, state = tmp_path / "srv", tmp_path / "lib"
    state.mkdir()
    data = write_page_files(reference / "Data", SIZES)
    (reference / "config.toml").write_text(CONFIG)
    before = tree(data)
    blocks = re.findall(r"^```sh\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    # Below the current directory, whose name may hold blanks.
    lines = "".join(blocks).replace("/srv/raida", "srv").replace("/var/lib/raida-uring", "lib")
    lines = lines.replace("raida-uring ", f"{shlex.join(PROGRAM)} ")
    output_of("bash", "-euxc", lines, cwd=tmp_path)
    assert tree(data) == before == tree(reference / "Data.before")
    assert not (state / "check").exists()
