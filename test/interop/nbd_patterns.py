"""Patterns after blktests and qemu-iotests, through libnbd, each against a model of what the disk must hold then.

Usage: nbd_patterns.py URI IMAGE: the disk's content is that of IMAGE and is changed. Says "ok" and the patterns at the end.
"""
import random
import sys

import nbd

uri, image = sys.argv[1], sys.argv[2]
model = bytearray(open(image, "rb").read())
size = len(model)
rng = random.Random(4711)
done = []


def connect():
    h = nbd.NBD()
    h.connect_uri(uri)
    return h


def same(h, offset, length):
    got = h.pread(length, offset)
    assert got == bytes(model[offset:offset + length]), (offset, length)


def put(h, offset, data, flags=0):
    h.pwrite(data, offset, flags)
    model[offset:offset + len(data)] = data


def whole(h):
    for offset in range(0, size, 4 << 20):
        same(h, offset, min(4 << 20, size - offset))


def drain(h, cookies):
    for cookie in cookies:
        while not h.aio_command_completed(cookie):
            h.poll(-1)


# Every power of two, a sector and a byte before and after it: where arithmetic goes wrong.
h = connect()
for shift in range(0, size.bit_length()):
    for delta in (-513, -512, -1, 0, 1, 511, 512):
        offset = (1 << shift) + delta
        for length in (1, 512, 513, 4096):
            if 0 <= offset and offset + length <= size:
                put(h, offset, rng.randbytes(length))
                same(h, max(0, offset - 7), min(size, offset + length + 7) - max(0, offset - 7))
done.append("powers of two")

# The last bytes of the disk, by writes, zeroes and trims of every length around its end.
for length in list(range(1, 20)) + [511, 512, 513, 1535, 1536, 1537, 4095, 4096, 4097, 70000]:
    put(h, size - length, rng.randbytes(length), nbd.CMD_FLAG_FUA if length % 2 else 0)
    same(h, size - length, length)
    h.zero(length, size - length, 0 if length % 3 else nbd.CMD_FLAG_NO_HOLE)
    model[size - length:] = bytes(length)
    put(h, size - length, rng.randbytes(length))
    h.trim(length, size - length)
    model[size - length:] = bytes(length)
    same(h, max(0, size - 8192), min(8192, size))
done.append("end of the disk")

# Overlapping writes in flight at once, some with FUA: each byte is of one of them, and of the last one that was sent after all others ended.
for step in range(60):
    base = rng.randrange(size - 70000)
    cookies, candidates = [], []
    for writer in range(8):
        offset, length = base + rng.randrange(8192), rng.randrange(1, 60000)
        data = bytes([1 + (step * 8 + writer) % 255]) * length
        buffer = nbd.Buffer.from_bytearray(bytearray(data))
        cookies.append(h.aio_pwrite(buffer, offset, flags=nbd.CMD_FLAG_FUA if writer % 4 == 0 else 0))
        candidates.append((offset, length, data[0], buffer))
    drain(h, cookies)
    got = h.pread(70000, base)
    for at in range(0, 70000, 97):
        allowed = {model[base + at]} if not any(o <= base + at < o + l for o, l, _, _ in candidates) else {
            v for o, l, v, _ in candidates if o <= base + at < o + l}
        assert got[at] in allowed, (base + at, got[at], allowed)
    model[base:base + 70000] = got
    put(h, base, b"\xee" * 100)
    same(h, base, 70000)
done.append("overlapping writes")

# A storm of flushes between writes: every one is answered, and what was written is there.
cookies = []
for step in range(400):
    offset, data = rng.randrange(size - 4096), rng.randbytes(512)
    put(h, offset, data)
    cookies.append(h.aio_flush())
drain(h, cookies)
whole(h)
done.append("flush storm")

# Reads, writes, zeroes and trims of one megabyte in many small requests, all in flight, at places that do not touch.
cookies, keep = [], []
places = rng.sample(range(size // 8192), 600)
for number, place in enumerate(places):
    offset = place * 8192 + 512 * rng.randrange(8)
    kind = number % 4
    if kind == 0:
        data = rng.randbytes(3000)
        keep.append(nbd.Buffer.from_bytearray(bytearray(data)))
        cookies.append(h.aio_pwrite(keep[-1], offset))
        model[offset:offset + 3000] = data
    elif kind == 1:
        cookies.append(h.aio_zero(3000, offset))
        model[offset:offset + 3000] = bytes(3000)
    elif kind == 2:
        cookies.append(h.aio_trim(3000, offset))
        model[offset:offset + 3000] = bytes(3000)
    else:
        keep.append(nbd.Buffer(3000))
        cookies.append(h.aio_pread(keep[-1], offset))
drain(h, cookies)
whole(h)
done.append("mixed in flight")

# A client that goes away in the middle of its requests, again and again: what it was told is there, the rest is old or new.
for step in range(12):
    client = connect()
    pending = {}
    for number in range(40):
        offset, data = (step * 40 + number) * 65536 % (size - 65536), rng.randbytes(20000)
        pending[client.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), offset)] = (offset, data)
    told = set()
    while len(told) < 10:
        client.poll(-1)
        told.update(cookie for cookie in pending if cookie not in told and client.aio_command_completed(cookie))
    del client  # closes the socket without a word
    h = connect()  # answered only after all of the former connection's requests have ended
    for cookie, (offset, data) in pending.items():
        got = h.pread(len(data), offset)
        assert got == data or (cookie not in told and len(got) == len(data)), offset
        model[offset:offset + len(data)] = got
    assert h.pread(4096, 0) == bytes(model[0:4096])
done.append("disconnects")

# Two connections: what one was told is what the other reads.
a, b = connect(), connect()
for step in range(300):
    offset, data = rng.randrange(size - 9000), rng.randbytes(rng.randrange(1, 9000))
    put(a, offset, data)
    same(b, offset, len(data))
    a, b = b, a
a.flush()
whole(b)
done.append("two connections")
print("ok:", ", ".join(done))
