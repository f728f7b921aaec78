"""What `monitor trace` printed, as Chrome trace JSON and as a table.

Used by the commands `stillpoint-trace` and `stillpoint-trace-table` of
stillpoint.py; needs no GDB.
"""

import re
from collections import namedtuple

# Time in nanoseconds since the processor's reset, CPU, and what happened.
Event = namedtuple("Event", "time cpu text")

LINE = re.compile(r"^ *(\d+)\.(\d{3}) +(\d+)  (.+)$")
EXIT = re.compile(r"^exit (.+) at (0x[0-9a-f]+), guest ran (\d+)\.(\d{3}) us$")
JOINED = re.compile(r"^stop (\d+) joined$")
OWNED = re.compile(r"^stop (\d+) owned$")
RELEASED = re.compile(r"^stop (\d+) released$")
PAL_ENTERED = re.compile(r"^PAL (\d+) entered$")
PAL_LEFT = re.compile(r"^PAL (\d+) left$")
PAL_ENDED = re.compile(r"^PAL (\d+) ended at (0x[0-9a-f]+): (.+)$")

# The threads of PALs come after those of the CPUs.
PAL_THREADS = 1000


def parse(text):
    """The events in what `monitor trace` printed."""
    found = (LINE.match(line) for line in text.splitlines())
    return [
        Event(int(match[1]) * 1000 + int(match[2]), int(match[3]), match[4])
        for match in found if match
    ]


def to_chrome(events):
    """Chrome trace JSON, as Perfetto and chrome://tracing open it.

    A thread for each CPU.  Its time is divided into slices: in the guest, and
    handling each VM exit until the next VM entry.  Within those, stops: from
    the question to the answer (`stopping`), and while one is in force.  All
    other events are instants."""
    cpus = sorted({event.cpu for event in events})
    end = max((event.time for event in events), default=0)
    out = [{"ph": "M", "pid": 0, "name": "process_name", "args": {"name": "Stillpoint"}}]
    for cpu in cpus:
        its_own = [event for event in events if event.cpu == cpu]
        out.append(thread(cpu, "CPU %d" % cpu))
        out += cpu_to_chrome(cpu, its_own, end)
        runs = pals_to_chrome(cpu, its_own, end)
        if runs:
            out.append(thread(PAL_THREADS + cpu, "CPU %d: PALs" % cpu))
            out += runs
    return {"traceEvents": out, "displayTimeUnit": "ns"}


def thread(number, name):
    return {"ph": "M", "pid": 0, "tid": number, "name": "thread_name", "args": {"name": name}}


def pals_to_chrome(cpu, events, end):
    """A slice for each time that the CPU was inside a PAL, with how that ended."""
    slices = []
    inside = None

    def come_out(time, how):
        entered, number = inside
        slices.append({"ph": "X", "pid": 0, "tid": PAL_THREADS + cpu, "name": "PAL " + number,
                       "ts": entered / 1000, "dur": (time - entered) / 1000,
                       "args": {"ended": how}})

    for event in events:
        entered, left, ended = (form.match(event.text)
                                for form in (PAL_ENTERED, PAL_LEFT, PAL_ENDED))
        if entered:
            inside = event.time, entered[1]
        elif inside and left and left[1] == inside[1]:
            come_out(event.time, "returned")
            inside = None
        elif inside and ended and ended[1] == inside[1]:
            come_out(event.time, ended[3])
            inside = None
    if inside:
        come_out(end, "not yet")
    return slices


def cpu_to_chrome(cpu, events, end):
    slices, instants = [], []

    def slice_(name, begin, finish, **args):
        slices.append({"ph": "X", "pid": 0, "tid": cpu, "name": name, "ts": begin / 1000,
                       "dur": (finish - begin) / 1000, "args": args})

    exit_ = asked = stop = None
    for event in events:
        match = EXIT.match(event.text)
        if match:
            entered = event.time - int(match[3]) * 1000 - int(match[4])
            if exit_:
                # No slice of this CPU's begins before the one before has ended.
                entered = max(entered, exit_[0])
                slice_("exit: " + exit_[1], exit_[0], entered, rip=exit_[2])
            slice_("guest", entered, event.time)
            exit_ = event.time, match[1], match[2]
        elif event.text == "stop asked for":
            asked = event.time
        elif OWNED.match(event.text):
            number = int(OWNED.match(event.text)[1])
            if asked is not None:
                slice_("stopping", asked, event.time, stop=number)
            asked, stop = None, (event.time, number, "stop owned")
        elif JOINED.match(event.text):
            stop = event.time, int(JOINED.match(event.text)[1]), "stop joined"
        elif RELEASED.match(event.text) or event.text == "stop left":
            if stop:
                slice_(stop[2], stop[0], event.time, stop=stop[1])
            stop = None
        else:
            instants.append({"ph": "i", "s": "t", "pid": 0, "tid": cpu, "name": event.text,
                             "ts": event.time / 1000})
    # What is not over yet.
    if stop:
        slice_(stop[2], stop[0], end, stop=stop[1])
    if exit_:
        slice_("exit: " + exit_[1], exit_[0], end, rip=exit_[2])
    # Of slices that begin together the longer one holds the others.
    slices.sort(key=lambda slice_: (slice_["ts"], -slice_["dur"]))
    return slices + instants


def to_table(events):
    """A table with a row for each event and a column for each CPU, in Markdown.

    Times are in microseconds from the first row."""
    cpus = sorted({event.cpu for event in events})
    rows = [["", "us"] + ["CPU %d" % cpu for cpu in cpus]]
    for number, event in enumerate(events, 1):
        time = (event.time - events[0].time) / 1000
        text = event.text.split(", guest ran ")[0]
        rows.append([str(number), "%.3f" % time] + [text if cpu == event.cpu else ""
                                                    for cpu in cpus])
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.rjust(width) if column < 2 else cell.ljust(width)
                          for column, (cell, width) in enumerate(zip(row, widths))) + " |"
        for row in rows)
