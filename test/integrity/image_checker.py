"""Reads an immutable part of a disk again and again and compares it with the file that it was made of.

Usage: image_checker.py URI FILE FROM TO SEED

Ranges at odd places and of odd lengths, 1, 16 or 64 in flight, some places hot. A server that goes away is connected to again. A line
of JSON with the counts each second; ends at SIGTERM with exit code 0, or 1 when a read was wrong: each wrong one is told on standard error.
"""
import json
import random
import signal
import sys
import time

import nbd

uri, path, start, end = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
rng = random.Random(int(sys.argv[5]))
expected = open(path, "rb").read()
counts = {"reads": 0, "bytes": 0, "wrong": 0, "refused": 0, "connections": 0}
stopping = False


def stop(*_):
    global stopping
    stopping = True


signal.signal(signal.SIGTERM, stop)
hot = [rng.randrange(start, end - 300000) for _ in range(8)]


# Buffers are used again: libnbd's Python module (1.14) keeps a reference to each that was given to aio_pread.
spare = {}


def buffer_of(length):
    free = spare.setdefault(length, [])
    return free.pop() if free else nbd.Buffer(length)


def place():
    length = rng.choice((1, 511, 512, 4096, 4096, 4096, 8192, 65536, 65537, 262144))
    if rng.random() < 0.5:
        return min(rng.choice(hot) + 4096 * rng.randrange(4), end - length), length
    return rng.randrange(start, end - length), length


def session(h):
    told = time.monotonic()
    depth = 16
    in_flight = {}
    while not stopping:
        if rng.random() < 0.01:
            depth = rng.choice((1, 16, 64))
        while len(in_flight) < depth:
            offset, length = place()
            buffer = buffer_of(length)
            in_flight[h.aio_pread(buffer, offset)] = (offset, length, buffer)
        h.poll(1000)
        for cookie in list(in_flight):
            try:
                if not h.aio_command_completed(cookie):
                    continue
            except nbd.Error:
                if h.aio_is_dead() or h.aio_is_closed():
                    raise
                counts["refused"] += 1
                length, buffer = in_flight.pop(cookie)[1:]
                spare[length].append(buffer)
                continue
            offset, length, buffer = in_flight.pop(cookie)
            counts["reads"] += 1
            counts["bytes"] += length
            got = buffer.to_bytearray()
            spare[length].append(buffer)
            if got != expected[offset:offset + length]:
                counts["wrong"] += 1
                bad = [i for i in range(length) if got[i] != expected[offset + i]]
                print("wrong: read of %d bytes at %d: %d bytes from %d to %d, is %s, should be %s" % (
                    length, offset, len(bad), offset + bad[0], offset + bad[-1],
                    got[bad[0]:bad[0] + 16].hex(), expected[offset + bad[0]:offset + bad[0] + 16].hex()), file=sys.stderr, flush=True)
        if time.monotonic() - told >= 1:
            told = time.monotonic()
            print(json.dumps(counts), flush=True)


while not stopping:
    try:
        h = nbd.NBD()
        h.connect_uri(uri)
        counts["connections"] += 1
        session(h)
    except nbd.Error:
        time.sleep(0.05)  # being started again
print(json.dumps(counts), flush=True)
sys.exit(1 if counts["wrong"] else 0)
