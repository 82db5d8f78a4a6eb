"""The options of the network, and the ports of the guest that the host has."""

from __future__ import annotations

import argparse

from gasang.config import Forward, Network
from gasang.machine import Machine


def add_options(options: argparse._ActionsContainer) -> None:
    """--net and --publish."""
    options.add_argument(
        "--net",
        metavar="user[,allow=RULE]|passt",
        help="a network in user mode, from which the guest reaches the Internet, or what the rules allow: "
        "public, any, none, host, ADDRESS/BITS, NAME, *.NAME, with :PORT or without; "
        "or passt, which knows no rules (default: no network)",
    )
    options.add_argument(
        "-p",
        "--publish",
        metavar="HOST:GUEST",
        action="append",
        default=[],
        help="a port of this host's loopback, or ADDRESS:HOST:GUEST, that is one of the guest's; "
        "may be repeated; with no --net user the guest's agent connects it",
    )


def asked_for(options: argparse.Namespace) -> Network | None:
    """The network that is asked for. Raises `ConfigError`."""
    for each in options.publish:
        Forward.parse(each)
    return None if options.net is None else Network.parse(options.net)


def by_agent(options: argparse.Namespace) -> bool:
    """Whether the guest's agent connects the ports. Raises `ConfigError`."""
    network = asked_for(options)
    return bool(options.publish) and (network is None or network.kind != "user")


def published(machine: Machine, options: argparse.Namespace) -> Machine:
    """The machine, with connections to the host's ports from now on. Raises `ConfigError`, and then it is
    stopped."""
    try:
        for each in options.publish:
            forward = Forward.parse(each)
            machine.expose(forward.guest_port, forward.host_port, forward.address)
    except BaseException:
        machine.stop()
        raise
    return machine
