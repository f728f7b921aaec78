#!/usr/bin/env python3
"""Send NMIs to a guest from outside, again and again.

Through Stillpoint's debug line (--port or --device): each time the machine is
stopped, `monitor nmi CPU` owes the guest on a CPU one NMI, and the machine goes
on.  Nobody else may use the line meanwhile.

Through QEMU's machine protocol (--qmp HOST:PORT): `inject-nmi`, for a guest under
QEMU, with Stillpoint in it or without.  QEMU sends each to all CPUs.

    inject_nmi.py --port 1234 --cpus 0,1 --interval 0.1 --count 100
    inject_nmi.py --device /dev/ttyUSB0 --cpus 0
    inject_nmi.py --qmp localhost:4444 --interval 0
"""

import argparse
import json
import os
import random
import select
import socket
import sys
import termios
import time
import tty

# Seconds within which an answer must begin to come.
PATIENCE = 30


class Failure(Exception):
    """What went wrong, in one line for a person."""


class Stream:
    """Bytes to and from a socket or a serial device."""

    def __init__(self, descriptor):
        self.descriptor = descriptor

    def send(self, data):
        while data:
            data = data[os.write(self.descriptor, data):]

    def receive(self):
        ready, _, _ = select.select([self.descriptor], [], [], PATIENCE)
        if not ready:
            raise Failure(f"no answer in {PATIENCE} seconds")
        data = os.read(self.descriptor, 4096)
        if not data:
            raise Failure("the other side closed the connection")
        return data


class DebugLine:
    """GDB's remote serial protocol, as little of it as is needed."""

    def __init__(self, open_stream):
        self.open_stream = open_stream

    def inject(self, cpu):
        """Stops the machine, owes one NMI, lets the machine go."""
        stream = self.open_stream()
        try:
            self.stream, self.pending = stream, b""
            # The first packet stops the machine.
            self.request("qSupported:swbreak+")
            self.monitor(f"nmi {cpu}")
            if self.request("D") != "OK":
                raise Failure("the stub did not detach")
        finally:
            close(stream)

    def monitor(self, command):
        """Runs a monitor command; its output."""
        output = ""
        answer = self.request("qRcmd," + command.encode().hex())
        while answer.startswith("O") and answer != "OK":
            output += bytes.fromhex(answer[1:]).decode(errors="replace")
            answer = self.packet()
        if answer != "OK":
            output += bytes.fromhex(answer).decode(errors="replace") if is_hex(answer) else answer
        if output.startswith("error"):
            raise Failure(output.strip())
        return output

    def request(self, contents):
        body = contents.encode()
        self.stream.send(b"$%s#%02x" % (body, sum(body) & 0xFF))
        return self.packet()

    def packet(self):
        """The next packet's contents, acknowledged, run lengths expanded."""
        while True:
            start = self.pending.find(b"$")
            end = self.pending.find(b"#", start + 1) if start >= 0 else -1
            if end >= 0 and len(self.pending) >= end + 3:
                break
            self.pending += self.stream.receive()
        body = self.pending[start + 1:end]
        self.pending = self.pending[end + 3:]
        self.stream.send(b"+")
        text = ""
        codes = iter(body)
        for code in codes:
            if code == ord("*") and text:
                text += text[-1] * (next(codes, 29) - 29)
            else:
                text += chr(code)
        return text


def is_hex(text):
    return len(text) % 2 == 0 and all(c in "0123456789abcdefABCDEF" for c in text)


class Qmp:
    """QEMU's machine protocol: JSON, a line each way."""

    def __init__(self, open_stream):
        self.stream, self.pending = open_stream(), b""
        greeting = self.line()
        if "QMP" not in greeting:
            raise Failure(f"this is no QMP server: it greets with {json.dumps(greeting)}")
        self.execute("qmp_capabilities")

    def inject(self, _cpu):
        self.execute("inject-nmi")

    def execute(self, command):
        self.stream.send(json.dumps({"execute": command}).encode() + b"\n")
        while True:
            answer = self.line()
            if "error" in answer:
                why = answer["error"].get("desc", answer["error"])
                raise Failure(f"QEMU refuses {command}: {why}")
            if "return" in answer:
                return
            # Anything else is an event that has nothing to do with this.

    def line(self):
        while b"\n" not in self.pending:
            self.pending += self.stream.receive()
        line, self.pending = self.pending.split(b"\n", 1)
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise Failure(f"this is no QMP server: it says {line[:60]!r}")
        return answer


def connect(host, port):
    """A way to open a TCP connection, as often as wanted."""

    def open_stream():
        try:
            connection = socket.create_connection((host, port), PATIENCE)
        except OSError as error:
            raise Failure(f"cannot connect to {host}:{port}: {error.strerror or error}") from None
        connection.setblocking(True)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Stream(connection.detach())

    return open_stream


def device(path):
    """A way to open a serial device at 115200 baud, as often as wanted."""

    def open_stream():
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY)
            tty.setraw(descriptor)
            settings = termios.tcgetattr(descriptor)
            settings[4] = settings[5] = termios.B115200
            termios.tcsetattr(descriptor, termios.TCSANOW, settings)
        except (OSError, termios.error) as error:
            raise Failure(f"cannot open {path}: {error.args[-1]}") from None
        return Stream(descriptor)

    return open_stream


def close(stream):
    os.close(stream.descriptor)


def host_and_port(text):
    host, _, port = text.rpartition(":")
    if not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text} is not HOST:PORT")
    return host or "localhost", int(port)


def cpu_list(text):
    try:
        return [int(cpu) for cpu in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a list such as 0,1") from None


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--port", type=int, help="TCP port of the debug line, on this host")
    way.add_argument("--device", help="serial device of the debug line")
    way.add_argument("--qmp", type=host_and_port, metavar="HOST:PORT", help="QEMU's -qmp")
    parser.add_argument("--interval", type=float, default=1, help="seconds between two (1)")
    parser.add_argument("--count", type=int, default=0, help="how many (0: until interrupted)")
    parser.add_argument("--cpus", type=cpu_list, default=[0], metavar="LIST",
                        help="the CPUs to send to (0); not with --qmp")
    parser.add_argument("--seed", type=int,
                        help="take the CPUs in a random order that follows from this")
    return parser.parse_args()


def run(options):
    if options.qmp:
        way = Qmp(connect(*options.qmp))
    elif options.device:
        way = DebugLine(device(options.device))
    else:
        way = DebugLine(connect("localhost", options.port))
    chance = None if options.seed is None else random.Random(options.seed)
    sent = 0
    try:
        while not options.count or sent < options.count:
            cpus = options.cpus
            way.inject(chance.choice(cpus) if chance else cpus[sent % len(cpus)])
            sent += 1
            time.sleep(options.interval)
    except KeyboardInterrupt:
        pass
    finally:
        print(f"{sent} NMIs sent")


if __name__ == "__main__":
    try:
        run(arguments())
    except Failure as failure:
        sys.exit(f"inject_nmi.py: {failure}")
