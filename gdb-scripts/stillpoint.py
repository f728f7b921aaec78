"""GDB commands for a machine under Stillpoint.  Load them with

    source gdb-scripts/stillpoint.py

    stillpoint-attach TARGET    target remote, then the kernel's symbols
    stillpoint-symbols [FILE]   the kernel's symbols where KASLR has put it
    stillpoint-host FILE        the hypervisor's own symbols in addition
    stillpoint-arch 16|32|64    how code and registers of the guest are shown
    stillpoint-trace FILE [N]   the last N events as Chrome trace JSON, for Perfetto
    stillpoint-trace-table [N]  the last N events as a table, a column for each CPU
"""

import json
import os
import re
import sys

import gdb

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import stillpoint_trace


def monitor(command):
    """What a monitor command prints; its error as GDB's."""
    text = gdb.execute("monitor " + command, to_string=True)
    if text.startswith("error: "):
        raise gdb.GdbError(text[len("error: "):].strip())
    return text


def address_of(symbol):
    """The address of a symbol where GDB now believes it, None if it has none."""
    try:
        return int(gdb.parse_and_eval("(unsigned long)&" + symbol))
    except gdb.error:
        return None


def architecture():
    """GDB's name of the architecture that it shows."""
    return gdb.selected_inferior().architecture().name()


def quoted(file):
    """A file's name as one word of a command of GDB's."""
    return '"%s"' % file.replace("\\", "\\\\").replace('"', '\\"')


class Attach(gdb.Command):
    """stillpoint-attach TARGET: attach to a Stillpoint debug line.

TARGET is what `target remote` takes: HOST:PORT, or a device such as
/dev/ttyUSB0 (set its speed before, with `set serial baud`).  If a kernel's
symbols are loaded, they are moved to where the kernel is.  A 32-bit kernel's
are shown with 32-bit registers, as by `stillpoint-arch 32`."""

    def __init__(self):
        super().__init__("stillpoint-attach", gdb.COMMAND_RUNNING)

    def invoke(self, argument, from_tty):
        if not argument.strip():
            raise gdb.GdbError("stillpoint-attach needs HOST:PORT or a device")
        if gdb.current_progspace().filename and architecture() == "i386":
            # GDB refuses 64-bit registers for a 32-bit program.
            Arch.describe(32)
        gdb.execute("target remote " + argument, from_tty)
        self.tell_of_pals()
        if Symbols.entry() is not None:
            Symbols.relocate(None)

    @staticmethod
    def tell_of_pals():
        """Says which CPUs are inside a PAL.  The stub does at each stop, but has no way to
        when GDB attaches."""
        for cpu, pal in re.findall(r"CPU (\d+) .* PAL (\d+) ", monitor("cpus")):
            print("CPU %s is inside PAL %s, whose memory stays closed until `monitor pal unlock`"
                  % (cpu, pal))


class Symbols(gdb.Command):
    """stillpoint-symbols [FILE]: put the kernel's symbols where KASLR has put the kernel.

The CPU tells where its system calls enter the kernel (an MSR: LSTAR, and for
a 32-bit kernel SYSENTER_EIP); the symbol file tells where that was linked.  FILE is a vmlinux with symbols;
without it the one that is loaded is moved.  Use it again after a reboot."""

    # Where Linux lets which MSR point.
    ENTRIES = (("entry_SYSCALL_64", "lstar"), ("entry_SYSENTER_32", "sysenter_eip"))
    # The file that was moved, and by how much.
    moved = (None, 0)

    def __init__(self):
        super().__init__("stillpoint-symbols", gdb.COMMAND_FILES, gdb.COMPLETE_FILENAME)

    def invoke(self, argument, from_tty):
        arguments = gdb.string_to_argv(argument)
        if len(arguments) > 1:
            raise gdb.GdbError("stillpoint-symbols takes one FILE at most")
        self.relocate(arguments[0] if arguments else None)

    @classmethod
    def entry(cls):
        """The address of the entry that the symbols have and its MSR, None if they have none."""
        for symbol, msr in cls.ENTRIES:
            address = address_of(symbol)
            if address is not None:
                return address, msr
        return None

    @classmethod
    def relocate(cls, file):
        if file is not None:
            gdb.execute("symbol-file " + quoted(file), to_string=True)
            cls.moved = (None, 0)
        file = gdb.current_progspace().filename
        found = cls.entry()
        if file is None or found is None:
            raise gdb.GdbError(
                "no symbol %s; name a kernel's vmlinux: stillpoint-symbols FILE"
                % " or ".join(symbol for symbol, _ in cls.ENTRIES))
        believed, msr = found
        match = re.search(r"= (0x[0-9a-f]+)", monitor("msr " + msr))
        entry = int(match.group(1), 16) if match else 0
        if entry == 0:
            raise gdb.GdbError(
                "the kernel has not set up its system calls yet; let it run on, then try again")
        before = cls.moved[1] if cls.moved[0] == file else 0
        offset = before + entry - believed
        if offset & 0xfff:
            raise gdb.GdbError(
                "%s does not fit the kernel that runs: %s is %#x" % (file, msr.upper(), entry))
        if offset != before:
            gdb.execute("symbol-file -o %d %s" % (offset, quoted(file)), to_string=True)
        cls.moved = (file, offset)
        print("The kernel is %#x above where it was linked." % offset)


class Host(gdb.Command):
    """stillpoint-host FILE: add the hypervisor's own symbols.

FILE is Stillpoint's image.  They are of use when a CPU was stopped in the
hypervisor (see `info threads`): then `bt` is the hypervisor's stack."""

    def __init__(self):
        super().__init__("stillpoint-host", gdb.COMMAND_FILES, gdb.COMPLETE_FILENAME)

    def invoke(self, argument, from_tty):
        arguments = gdb.string_to_argv(argument)
        if len(arguments) != 1:
            raise gdb.GdbError("stillpoint-host needs Stillpoint's image: stillpoint-host FILE")
        gdb.execute("add-symbol-file " + quoted(arguments[0]), to_string=True)
        print("The hypervisor's symbols are loaded.")


class Arch(gdb.Command):
    """stillpoint-arch 16|32|64: show the guest's code and registers in that width.

The stub always serves the 64-bit registers, and GDB asks for their
description once.  This puts another description over it: boot loaders
and 32-bit code are then disassembled as they run.  Breakpoints and memory
work in each.  64 is the way back."""

    def __init__(self):
        super().__init__("stillpoint-arch", gdb.COMMAND_DATA)

    def invoke(self, argument, from_tty):
        width = argument.strip()
        if width in ("16", "32"):
            # A 64-bit program would have GDB refuse the description. Its symbols stay.
            gdb.execute("exec-file", to_string=True)
            self.describe(width)
        elif width == "64":
            # In this order: the other one crashes GDB 13.
            gdb.execute("unset tdesc filename", to_string=True)
            gdb.execute("set architecture auto", to_string=True)
        else:
            raise gdb.GdbError("stillpoint-arch takes 16, 32 or 64")
        print("Code is shown as %s-bit." % width)

    @staticmethod
    def describe(width):
        """Puts the description of 16-bit or 32-bit registers over the stub's."""
        name = os.path.join(HERE, "stillpoint-%s.xml" % width)
        # Not quoted: this command takes the rest of the line as it is.
        gdb.execute("set tdesc filename " + name, to_string=True)


def trace(count):
    """The last events of all CPUs; as many as `count` says."""
    events = stillpoint_trace.parse(monitor("trace all " + count))
    if not events:
        raise gdb.GdbError("nothing has been recorded")
    return events


class Trace(gdb.Command):
    """stillpoint-trace FILE [N]: write the last N events as Chrome trace JSON.

https://ui.perfetto.dev and chrome://tracing open FILE.  N is 500 if not
given; `all` is what the hypervisor has kept, and takes a while on a serial
line."""

    def __init__(self):
        super().__init__("stillpoint-trace", gdb.COMMAND_DATA, gdb.COMPLETE_FILENAME)

    def invoke(self, argument, from_tty):
        arguments = gdb.string_to_argv(argument)
        if len(arguments) not in (1, 2):
            raise gdb.GdbError("stillpoint-trace needs a file to write: stillpoint-trace FILE [N]")
        events = trace(arguments[1] if len(arguments) == 2 else "500")
        with open(os.path.expanduser(arguments[0]), "w", encoding="utf-8") as file:
            json.dump(stillpoint_trace.to_chrome(events), file)
        print("%d events are in %s; open it with https://ui.perfetto.dev"
              % (len(events), arguments[0]))


class TraceTable(gdb.Command):
    """stillpoint-trace-table [N]: print the last N (40) events as a table.

A row for each event, a column for each CPU; times from the first row."""

    def __init__(self):
        super().__init__("stillpoint-trace-table", gdb.COMMAND_DATA)

    def invoke(self, argument, from_tty):
        print(stillpoint_trace.to_table(trace(argument.strip() or "40")))


for command in (Attach, Symbols, Host, Arch, Trace, TraceTable):
    command()
