"""Writes until the server dies, and says what was acknowledged.

Usage: crash_writer.py write URI SEED DEPTH COUNT   writes stamped pieces to places that are all different; says "going" after
                                                    COUNT acknowledgements; at the end a line of JSON: the acknowledged places
       crash_writer.py flushed URI SEED DEPTH COUNT the same, and the places counted are those before the last acknowledged flush
       crash_writer.py check URI SEED < JSON        every acknowledged place holds its stamp
"""
import json
import random
import struct
import sys

import nbd

mode, uri, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])


def places(size):
    """(offset, length), none overlapping: single sectors, odd sectors in one granule, granules, and runs of them."""
    rng = random.Random(seed)
    granules = list(range(size // 4096 - 8))
    rng.shuffle(granules)
    used = set()
    for granule in granules:
        kind = rng.randrange(4)
        span = 3 if kind == 3 else 1
        if any(g in used for g in range(granule, granule + span)):
            continue
        used.update(range(granule, granule + span))
        if kind == 0:
            yield granule * 4096 + 512 * rng.randrange(8), 512
        elif kind == 1:
            yield granule * 4096 + 512, 1024
            yield granule * 4096 + 2560, 512
        elif kind == 2:
            yield granule * 4096, 4096
        else:
            yield granule * 4096 + 512 * rng.randrange(1, 7), 4096


def stamp(offset, length):
    return struct.pack("<QQ", offset, seed) * (length // 16)


h = nbd.NBD()
h.connect_uri(uri)
if mode == "check":
    wrong = 0
    acknowledged = json.load(sys.stdin)
    for offset, length in acknowledged:
        if h.pread(length, offset) != stamp(offset, length):
            wrong += 1
    print("checked", len(acknowledged), "wrong", wrong)
    sys.exit(1 if wrong else 0)

depth, count = int(sys.argv[4]), int(sys.argv[5])
acknowledged = []
counted = []
told = False
in_flight = {}
try:
    for offset, length in places(h.get_size()):
        while True:
            for cookie in [c for c in in_flight if h.aio_command_completed(c)]:
                acknowledged.append(in_flight.pop(cookie))
            if len(in_flight) < depth:
                break
            h.poll(-1)
        in_flight[h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(stamp(offset, length))), offset)] = (offset, length)
        if mode == "flushed" and len(acknowledged) >= len(counted) + 50:
            before = list(acknowledged)
            h.flush()
            counted = before
        if not told and len(acknowledged) >= count:
            told = True
            print("going", flush=True)
except nbd.Error:
    pass
else:
    print("finished", flush=True)
# What is complete in libnbd but was not collected is acknowledged too; not counting it only makes the check milder.
print(json.dumps(counted if mode == "flushed" else acknowledged))
