"""Take the pictures of status, top and probe that the documents show: docs/*.png.

usage: unshare --net python -m tools.screenshots

Starts a node with a store on loopback, asks it all kinds of things, runs the commands on a terminal
and has Chromium draw what that shows. Needs root for the network of its own, Chromium, and packages
that nothing else does: `pip install pillow pyte`. Nothing is retouched but the number of colours.
"""

import fcntl
import html
import io
import os
import pty
import random
import select
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyte
from PIL import Image

from raida_uring.client import Client, Coin, calls
from tests.support.browser import browser, find
from tests.support.peers import in_background

DOCS = Path(__file__).resolve().parents[1] / "docs"
PROGRAM = Path(sys.executable).parent / "raida-uring"
RAIDA_ID, PORT = 14, 50014
WARM_UP_S = 25.0
# As many connections as a container or a shell is commonly allowed.
CONFIG = f"""
[server]
raida_id = {RAIDA_ID}
[network]
bind = ["127.0.0.1"]
[limits]
connections_max = 8192
[store]
path = "coins"
"""

COLUMN_PX, LINE_PX, MARGIN_PX = 9, 19, 12
PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: {margin}px; background: #16181d; color: #d7dae0 }}
pre {{ margin: 0; font: 15px/{line}px "DejaVu Sans Mono", monospace }}
b {{ color: #ffffff }} i {{ font-style: normal; background: #d7dae0; color: #16181d }}
</style><pre>{text}</pre>"""


class Terminal:
    """A program on a terminal that remembers what it shows."""

    def __init__(self, command: list[str], place: Path, columns: int, lines: int) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=place,
            env={**os.environ, "TERM": "linux", "LANG": "C.UTF-8"},
        )
        os.close(theirs)

    def look(self, seconds: float) -> None:
        """Take in what is written, until the program ends or for so long."""
        deadline = time.monotonic() + seconds
        while (left_s := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([self._ours], [], [], left_s)
            try:
                data = os.read(self._ours, 65536) if ready else b""
            except OSError:  # Linux: nobody has the other end any more
                return
            self._stream.feed(data)

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def lines(self) -> list[str]:
        """What it shows, as HTML; lines after the last with anything are left out."""
        shown = []
        for row in range(self.screen.lines):
            text = ""
            for column in range(self.screen.columns):
                cell = self.screen.buffer[row][column]
                data = html.escape(cell.data)
                text += (
                    f"<i>{data}</i>" if cell.reverse else f"<b>{data}</b>" if cell.bold else data
                )
            shown.append(text.rstrip())
        while shown and not shown[-1]:
            shown.pop()
        return shown


@contextmanager
def node(place: Path) -> Iterator[None]:
    """A node with an empty store, and clients that keep it lightly busy."""
    (place / "node.toml").write_text(CONFIG)
    subprocess.run(
        [PROGRAM, "store", "init", "--store", "coins", "--seed", "pictures"],
        cwd=place,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    served = subprocess.Popen(
        [PROGRAM, "serve", "--config", "node.toml"], cwd=place, stderr=subprocess.DEVNULL
    )
    try:
        first = Client("127.0.0.1", PORT, raida_id=RAIDA_ID, timeout_s=0.2)
        for _ in range(100):
            try:
                first.ask(calls.echo())
                break
            except OSError:  # refused, or no answer in time
                time.sleep(0.1)
        else:
            sys.exit("screenshots: the node does not answer")
        with in_background(ask, ask, talk, disturb):
            yield
    finally:
        served.terminate()
        served.wait(30)


def ask(stop: threading.Event) -> None:
    """Votes, echoes and commands on coins over UDP."""
    client = Client("127.0.0.1", PORT, raida_id=RAIDA_ID)
    chosen = random.Random(1)
    while not stop.wait(0.002):
        coins = [Coin(0, chosen.randrange(1, 1000), chosen.randbytes(16)) for _ in range(25)]
        try:
            client.ask(calls.echo())
            client.ask(calls.detect(coins))
            client.ask(calls.version())
        except TimeoutError:
            pass
        client.vote(roots=bytes(480))


def talk(stop: threading.Event) -> None:
    """Requests over TCP, a connection for each."""
    client = Client("127.0.0.1", PORT, raida_id=RAIDA_ID, transport="tcp")
    while not stop.wait(0.02):
        client.ask(calls.version())


def disturb(stop: threading.Event) -> None:
    """What is no request, and requests for another RAIDA."""
    other = Client("127.0.0.1", PORT, raida_id=RAIDA_ID + 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        while not stop.wait(0.3):
            udp.sendto(b"junk", ("127.0.0.1", PORT))
            other.ask(calls.echo())


def draw(name: str, lines: list[str], columns: int) -> None:
    """Write docs/NAME."""
    program = find()
    if program is None:
        sys.exit("screenshots: no Chromium on this machine")
    page = PAGE.format(margin=MARGIN_PX, line=LINE_PX, text="\n".join(lines))
    with tempfile.NamedTemporaryFile("w", suffix=".html") as file, browser(program) as shown:
        file.write(page)
        file.flush()
        shown.show(
            f"file://{file.name}",
            width=columns * COLUMN_PX + 5 * MARGIN_PX,
            height=len(lines) * LINE_PX + 2 * MARGIN_PX,
        )
        shown.wait_for(
            "document.readyState === 'complete' && document.querySelector('pre') !== null"
        )
        drawn = Image.open(io.BytesIO(shown.screenshot()))
    drawn.convert("RGB").quantize(32).save(DOCS / name, optimize=True)


def picture(command: str, place: Path, columns: int, lines: int, *, live: bool = False) -> None:
    """Run one and draw it, under the line that was typed; a live one fills the terminal."""
    words = ["raida-uring", *command.split()]
    terminal = Terminal([str(PROGRAM), *words[1:]], place, columns, lines)
    terminal.look(6.5 if live else 20.0)
    if live:
        terminal.type(b"q")
    shown = terminal.lines()
    terminal.process.wait(10)
    prompt = [] if live else [f"<b>$ {' '.join(words)}</b>"]
    draw(f"{words[1]}.png", prompt + shown, columns)


def main() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory(prefix="pictures-") as name:
        place = Path(name)
        with node(place):
            time.sleep(WARM_UP_S)  # so that rates and percentiles are of something
            picture("status --config node.toml", place, 80, 60)
            picture("top --config node.toml", place, 80, 24, live=True)
        picture("probe --config node.toml", place, 100, 80)


if __name__ == "__main__":
    main()
