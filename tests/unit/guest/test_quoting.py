"""Shell words: whatever goes in, a shell gives back."""

import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gasang.errors import GuestAgentError
from gasang.guest.quoting import quote, script

# Bash reads $'...' as busybox does; dash, which may be sh here, does not.
SHELL = ["bash", "-c"]


def shell(code):
    return subprocess.run([*SHELL, code], capture_output=True, check=True, env={"LC_ALL": "C"}).stdout


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("uname", "uname"),
        ("--color=auto", "--color=auto"),
        ("", "''"),
        ("a b", "'a b'"),
        ('$HOME `x` "y" \\ *', "'$HOME `x` \"y\" \\ *'"),
        ("it's", r"$'it\'s'"),
        ("back\\and'", r"$'back\\and\''"),
        ("line\nnext", r"$'line\012next'"),
        ("가상", r"$'\352\260\200\354\203\201'"),
        (os.fsdecode(b"\xff"), r"$'\377'"),
    ],
)
def test_word(text, word):
    assert quote(text) == word


@given(st.binary(max_size=60).filter(lambda data: b"\0" not in data))
def test_shell_gives_back_the_bytes(data):
    word = quote(data.decode("utf-8", "surrogateescape"))
    assert word.isascii()
    assert word.isprintable()
    assert shell(f"printf %s {word}") == data


@given(st.binary(max_size=30).filter(lambda data: b"\0" not in data))
def test_quoted_quotes_unfold(data):
    inner = "printf %s " + quote(data.decode("utf-8", "surrogateescape"))
    assert shell(f"eval {quote(inner)}") == data


def test_nul_is_refused():
    with pytest.raises(GuestAgentError, match="NUL"):
        quote("a\0b")


def test_string_is_for_sh_and_words_are_themselves():
    assert script("echo $0; exit 7", None, None) == "exec setsid sh -c 'echo $0; exit 7'"
    assert script(["uname", "-a"], None, None) == "exec setsid uname -a"


def test_environment_and_directory_come_first():
    code = script(["env"], {"A": "x y"}, "/tmp/a b")
    assert code == "cd -- '/tmp/a b' || exit 126; export A='x y'; exec setsid env"


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A=B", "É"])
def test_name_that_no_shell_exports_is_refused(name):
    with pytest.raises(GuestAgentError, match="environment variable"):
        script(["env"], {name: "x"}, None)


def test_empty_command_is_refused():
    with pytest.raises(GuestAgentError, match="empty"):
        script([], None, None)
