"""docs/raida-uring.1 says what the command line says, and is sound roff."""

import pytest

from tests.support.command_line import environment, execute
from tests.support.needs import require
from tools import manpage


def test_the_page_is_what_the_command_line_says() -> None:
    made = manpage.page(manpage.TEMPLATE.read_text(encoding="utf-8"))
    assert manpage.PAGE.read_text(encoding="utf-8") == made, "run `make man`"


def test_text_cannot_become_a_command_of_roff() -> None:
    assert manpage.prose(r"a \n of -x, `y z` and 'q'.") == (
        r"a \en of \-x, \fBy z\fP and \(aqq\(aq."
    )
    assert manpage.prose(".socket is its suffix") == r"\&.socket is its suffix"
    assert manpage.value("auto|uring") == r"\fBauto\fP|\fBuring\fP"


@pytest.mark.parametrize("checker", [("mandoc", "-T", "lint"), ("man", "--warnings", "-l")])
def test_checkers_have_nothing_to_say(checker: tuple[str, ...]) -> None:
    require(checker[0])
    # Not with a sanitizer's runtime, which finds faults in groff.
    done = execute(*checker, manpage.PAGE, env=environment(LD_PRELOAD=""))
    said = done.stderr + (done.stdout if checker[0] == "mandoc" else "")
    assert (done.returncode, said) == (0, "")
