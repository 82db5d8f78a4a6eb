"""Records docs/session.svg: a real session of `gasang run`, typed by this program, drawn as on a terminal.

    python docs/record_session.py

Needs the Python that gasang is installed in (`.venv/bin/python` after `make run`), and pexpect.
"""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path

import pexpect

PICTURE = Path(__file__).parent / "session.svg"
PROMPT = r"gasang:[^\r\n]*# "
TYPED = (
    "uname -sr",
    "grep -m1 'model name' /proc/cpuinfo",
    "seq 1 100000 | sha256sum",
    "for n in 3 1 2; do echo $n; done | sort | tr '\\n' ' '; echo",
    "exit 7",
)
COLUMNS = 100
_GASANG = "import sys; from gasang.cli import main; sys.argv[0] = 'gasang'; sys.exit(main())"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_CHARACTER, _LINE, _MARGIN = 8.4, 19, 16


def record() -> list[str]:
    """The lines of the session."""
    child = pexpect.spawn(
        sys.executable, ["-c", _GASANG, "run"], dimensions=(40, COLUMNS), encoding="utf-8", timeout=120
    )
    shown = ""
    for command in TYPED:
        child.expect(PROMPT)
        shown += child.before + child.after
        child.sendline(command)
    child.expect(pexpect.EOF)
    shown += child.before
    child.close()
    text = _ESCAPES.sub("", shown).replace("\r", "")
    lines = ["$ gasang run", *text.split("\n"), "$ echo $?", str(child.exitstatus)]
    wide = [line.expandtabs() for line in lines if line]
    return [line[at : at + COLUMNS] for line in wide for at in range(0, len(line), COLUMNS)]


def draw(lines: list[str]) -> str:
    """The picture of a terminal with these lines."""
    width = round(max(map(len, lines)) * _CHARACTER + 2 * _MARGIN)
    height = len(lines) * _LINE + 2 * _MARGIN
    rows = [
        f'<text x="{_MARGIN}" y="{_MARGIN + 14 + number * _LINE}" fill="{_color(line)}">{_spans(line)}</text>'
        for number, line in enumerate(lines)
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" role="img">',
            "<title>A session of gasang run in a terminal</title>",
            f'<rect width="{width}" height="{height}" rx="8" fill="#1b1f24"/>',
            '<g font-family="ui-monospace, DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="14" '
            'xml:space="preserve">',
            *rows,
            "</g>",
            "</svg>",
            "",
        ]
    )


def _color(line: str) -> str:
    return "#8b949e" if line.startswith("gasang: ") else "#d0d7de"


def _spans(line: str) -> str:
    """What was typed is brighter than what was printed."""
    prompt = re.match(r"\$ |" + PROMPT, line)
    if prompt is None:
        return html.escape(line)
    typed = html.escape(line[prompt.end() :])
    return f'<tspan fill="#7ee787">{html.escape(prompt[0])}</tspan><tspan fill="#ffffff">{typed}</tspan>'


if __name__ == "__main__":
    PICTURE.write_text(draw(record()))
