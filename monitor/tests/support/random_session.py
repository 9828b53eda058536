"""A session of gdb at the violation whose course is left to chance.

gdb runs it (`source random_session.py`) after it has attached. Given by the environment:

    SEED     what chance has begins here
    ATTACH   the script that attaches
    WATCHES  the machine stops at data that is watched, if not empty
    PAUSES   the machine stands still when a client vanishes, else it goes on

First come interrupts, attaches, detaches and a client that vanishes, at random moments. The violation must be met once,
at its place, whatever came before; then come the steps of one who looks around, and the run goes on to its end, with gdb
or without. The last line is `held`, or `gone` where gdb ends itself before the violation as a crash would: then another
gdb has to go on.
"""

import os
import random
import signal
import threading
import time

import gdb

chance = random.Random(int(os.environ["SEED"]))
stood = threading.Event()
last = None  # the stop that gdb told last
late = False  # the last Ctrl-C came while gdb was busy with a stop: it has not selected that stop's thread


def note(event):
    global last
    last = event
    stood.set()


gdb.events.stop.connect(note)
gdb.events.exited.connect(note)


def say(text):
    print(text, flush=True)


def run(command):
    """What gdb answers."""
    answer = gdb.execute(command, to_string=True)
    say(f"{time.monotonic():.3f} (gdb) {command}\n{answer}")
    return answer


def over():
    """The machine is switched off, or we are not attached."""
    return gdb.selected_thread() is None


def go(command="continue", patience=None):
    """Lets the machine go on, until it stops by itself or for the Ctrl-C after so many seconds."""
    global late
    late = False
    stood.clear()

    def interrupt():
        if not stood.wait(patience):
            say("^C")
            os.kill(os.getpid(), signal.SIGINT)

    impatient = threading.Thread(target=interrupt)
    if patience is not None:
        impatient.start()
    try:
        run(command)
        if patience is not None:
            impatient.join()
            # A Ctrl-C that was late.
            gdb.execute("echo")
    except KeyboardInterrupt:
        say("(late)")
        late = True


def found():
    """How often the monitor has seen the violation."""
    return run("monitor storlock violations").count("error[")


def place():
    """Where each processor stands."""
    places = []
    for thread in threads():
        thread.switch()
        places.append(int(gdb.newest_frame().pc()))
    return places


def threads():
    return sorted(gdb.selected_inferior().threads(), key=lambda thread: thread.num)


def moment(longest=0.3):
    return chance.uniform(0, longest)


def attach():
    run("source " + os.environ["ATTACH"])


def leave_and_come_back():
    run("detach")
    time.sleep(moment())
    attach()


def vanish_and_come_back():
    before = place()
    run("disconnect")
    time.sleep(moment())
    attach()
    if os.environ["PAUSES"]:
        assert place() == before, "the machine did not stand still"


def step_somewhere():
    run(f"thread {chance.choice(threads()).num}")
    go("stepi")


def crash():
    say("gone")
    os.kill(os.getpid(), signal.SIGKILL)


def select_thread_at(function):
    """Selects the thread whose newest frame is of that function, as one does who has seen gdb's "Quit"."""
    for thread in threads():
        thread.switch()
        if gdb.newest_frame().name() == function:
            return


def look():
    """Stands at the first instruction of the routine that is called wrongly."""
    assert found() == 1
    assert "the lock is released but was not acquired" in run("monitor storlock violation")
    if late:
        select_thread_at("StorPortNotification")
    stack = run("bt")
    assert stack.startswith("#0  StorPortNotification"), "not at the routine's first instruction"
    assert "NvmeCountFlush" in stack and "miniports/nvme/maintenance.c:" in stack
    assert run("info threads").count("vCPU") == 2
    run("up")
    assert "Context" in run("print Handle")
    run("monitor storlock locks")
    run("monitor storlock processors")


def go_to(what, **how):
    """Goes on until a breakpoint or watchpoint of gdb's own stops the machine."""
    go(**how)
    while not over() and not isinstance(last, gdb.BreakpointEvent):
        go(**how)
    assert not over(), f"the run ended before {what}"
    run("delete")


def walk():
    """On in the driver: its next request, and the completion of that."""
    run("break NvmeStartIo")
    go_to("another request", patience=chance.choice((None, moment())))
    run("info args")
    if os.environ["WATCHES"]:
        assert "Hardware watchpoint" in run("watch -location Srb->SrbStatus")
    go("next")
    go("stepi")
    if os.environ["WATCHES"]:
        go_to("the completion")
    step_somewhere()


def session():
    before = (go, leave_and_come_back, vanish_and_come_back, step_somewhere, crash)
    steps = chance.choices(before, (6, 2, 2, 3, 1), k=chance.randrange(5))
    while not over() and found() == 0:
        step = steps.pop() if steps else go
        if step is go:
            go(patience=moment() if steps else None)
        else:
            step()
    assert not over(), "the run ended without a stop at the violation"
    look()
    walk()
    for _ in range(chance.randrange(3)):
        if not over():
            go(patience=moment())
    if not over() and chance.random() < 0.5:
        run("detach")
    while not over():
        go()
    say("held")


session()
