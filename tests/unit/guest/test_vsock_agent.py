"""The agent's client behind vsock, with a thread in place of the guest."""

import socket
import threading

import pytest

from gasang.errors import GasangError, GuestAgentError
from gasang.guest.protocol import ConnectionEnded, Frames, Kind, text
from gasang.guest.vsock_agent import VsockAgent


class Guest:
    """Answers every request as the agent does; hangs up behind a repair if it is of those that do."""

    def __init__(self, *, hangs_up=False, refuses=False):
        self.connections = 0
        self.hangs_up, self.refuses = hangs_up, refuses
        self.hung_up = threading.Event()

    def dial(self, port, timeout):
        self.connections += 1
        ours, theirs = socket.socketpair()
        threading.Thread(target=self.serve, args=(Frames(theirs),), daemon=True).start()
        return ours

    def serve(self, frames):
        try:
            while True:
                kind, _ = frames.receive()
                if kind == Kind.REPAIR and self.refuses:
                    frames.send(Kind.ERROR, bytes(4) + text("no"))
                frames.send(Kind.OK if kind == Kind.REPAIR else Kind.END)
                if kind != Kind.REPAIR or self.hangs_up:
                    return
        except ConnectionEnded:
            pass
        finally:
            frames.close()
            self.hung_up.set()


def test_the_request_behind_a_repair_needs_no_connection_of_its_own():
    guest = Guest()
    agent = VsockAgent(guest.dial)
    agent.repair()
    assert agent.processes() == []
    assert guest.connections == 1
    assert agent.processes() == []
    assert guest.connections == 2


def test_a_connection_that_is_gone_meanwhile_is_made_anew():
    guest = Guest(hangs_up=True)
    agent = VsockAgent(guest.dial)
    agent.repair()
    assert guest.hung_up.wait(60)
    assert agent.processes() == []
    assert guest.connections == 2


def test_what_is_kept_ends_with_the_machine():
    guest = Guest()
    agent = VsockAgent(guest.dial)
    agent.repair()
    agent.close(GasangError("over"))
    assert guest.hung_up.wait(60)


def test_a_repair_that_is_refused_is_said():
    guest = Guest(refuses=True)
    with pytest.raises(GuestAgentError, match="cannot be repaired: no"):
        VsockAgent(guest.dial).repair()
    assert guest.hung_up.wait(60)


def test_a_port_of_a_guest_that_is_gone_is_an_error_of_ours():
    def dial(port, timeout):
        ours, theirs = socket.socketpair()
        theirs.close()
        return ours

    with pytest.raises(GuestAgentError, match="the guest's agent does not answer"):
        VsockAgent(dial).proxy(80)
