"""Run by Python in the guest and on the host: both must print the same. Uses what python3-minimal has."""

import hashlib
import math
import os
import re
import signal
import struct
import threading
import time


def integers():
    print(pow(3, 12345, 2**521 - 1), math.factorial(200) // math.factorial(198), math.comb(300, 150))
    print(sum(number * number % 97 for number in range(50000)), divmod(-(10**40), 7**11))
    print([number for number in range(2, 500) if all(number % other for other in range(2, number))])


def floats():
    values = [0.1 + 0.2, 1e308 * 10, -0.0, 5e-324, 2**0.5, 1 / 3, float("nan")]
    print([value.hex() for value in values], [repr(value) for value in values])
    print([f(0.7) for f in (math.sin, math.cos, math.tan, math.exp, math.log, math.atan, math.gamma)])
    print(math.fsum([0.1] * 10), math.ldexp(0.5, 60), round(2.5), round(3.5), int(1e20), 7.5 % -2)
    print(struct.pack("<dfq", 1.5, 2.25, -3).hex(), math.hypot(3, 4), complex(1, 2) ** 3)


def texts():
    text = "가상 virtual " * 100
    print(len(text.encode()), text.encode("utf-16-le")[:20].hex(), text.upper()[:10], text[::-1][:9])
    print(re.sub(r"(\w)(\w)", r"\2\1", "interchange every pair"), re.findall(r"\d+", "1 and 22 and 333"))
    print(
        sorted(
            re.split(" ", "the quick brown fox jumps over the lazy dog"), key=lambda word: (len(word), word)
        )
    )


def sums():
    data = bytes(range(256)) * 1000
    for name in ("md5", "sha1", "sha256", "sha512", "sha3_256", "blake2b"):
        print(name, hashlib.new(name, data).hexdigest())


def deep():
    def down(depth):
        return depth if depth == 0 else down(depth - 1) + 1

    def yielding(depth):
        if depth:
            yield from yielding(depth - 1)
        yield depth

    print(down(800), sum(yielding(100)))
    try:
        down(10**6)
    except RecursionError:
        print("too deep")


def processes():
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"from the child")
        os._exit(5)
    _, status = os.waitpid(child, 0)
    print(os.read(reader, 100), os.waitstatus_to_exitcode(status))
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), signal.SIGSEGV)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def signals():
    caught = []
    signal.signal(signal.SIGALRM, lambda number, _: caught.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    signal.pause()
    print(caught)


def threads():
    total, lock = [0], threading.Lock()

    def work():
        for _ in range(1000):
            with lock:
                total[0] += 1

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(total)


def clocks():
    before = time.monotonic()
    time.sleep(0.1)
    passed = time.monotonic() - before
    print(0.1 <= passed < 10, time.perf_counter() <= time.perf_counter(), time.time() > 1.7e9)


for check in (integers, floats, texts, sums, deep, processes, signals, threads, clocks):
    check()
