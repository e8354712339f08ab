"""What libnbd sees of the server: odd offsets and lengths, the end of the disk, errors, FUA, trim, zero, cache, DF.

Usage: nbd_checks.py URI IMAGE: the disk's content is that of IMAGE and is changed. Says "ok" at the end.
"""
import errno
import random
import sys

import nbd

uri, image = sys.argv[1], sys.argv[2]
model = bytearray(open(image, "rb").read())
size = len(model)

h = nbd.NBD()
h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h.set_strict_mode(0)  # let bad requests through to the server
h.connect_uri(uri)
assert h.get_size() == size
assert h.can_multi_conn() and h.can_flush() and h.can_fua() and h.can_trim() and h.can_zero() and h.can_df() and h.can_cache()
assert h.get_structured_replies_negotiated()
assert h.get_block_size(nbd.SIZE_MINIMUM) == 1
assert h.get_block_size(nbd.SIZE_MAXIMUM) == 32 << 20


def fails(expected, call, *args):
    try:
        call(*args)
    except nbd.Error as e:
        assert e.errnum == expected, (e.errnum, expected, e)
        # The connection lives.
        assert h.pread(16, 0) == bytes(model[0:16])
        return
    raise AssertionError("should have failed: %r %r" % (call, args))


def same(offset, length, flags=0):
    assert h.pread(length, offset, flags) == bytes(model[offset:offset + length]), (offset, length)


# Reads: odd places, every length around the edges, the last bytes of the disk, one request over everything that fits.
for offset in (0, 1, 511, 512, 513, 4095, 4096, 4097, 65535, size - 1, size - 511, size - 513, size - 4097):
    for length in (1, 7, 511, 512, 513, 4096, 65536, 65537, 262144):
        if offset + length <= size:
            same(offset, length)
            same(offset, length, nbd.CMD_FLAG_DF)
same(0, 32 << 20)

fails(errno.EINVAL, h.pread, 2, size - 1)
fails(errno.EINVAL, h.pread, 1, size)
fails(errno.EINVAL, h.pread, 512, 1 << 60)
fails(errno.ENOSPC, h.pwrite, b"xx", size - 1)
fails(errno.ENOSPC, h.pwrite, b"x" * 100000, size)
fails(errno.ENOSPC, h.zero, 2, size - 1)
fails(errno.EINVAL, h.trim, 2, size - 1)

# Writes, zeroes and trims at random, some with FUA, against a model.
rng = random.Random(20261120)
for step in range(1500):
    unit = rng.choice((1, 512, 512, 4096, 4096, 65536))
    length = min(rng.randint(1, 9) * unit + rng.choice((0, 0, 0, 1)), 600000)
    offset = rng.choice((rng.randrange(size - length), (rng.randrange(size - length) // unit) * unit, size - length))
    fua = nbd.CMD_FLAG_FUA if rng.random() < 0.05 else 0
    kind = rng.randrange(8)
    if kind < 4:
        data = rng.randbytes(length)
        h.pwrite(data, offset, fua)
        model[offset:offset + length] = data
    elif kind == 4:
        h.zero(length, offset, fua | (nbd.CMD_FLAG_NO_HOLE if rng.random() < 0.5 else 0))
        model[offset:offset + length] = bytes(length)
    elif kind == 5:
        # A trim may do nothing by the protocol; here it reads as zeroes.
        h.trim(length, offset, fua)
        model[offset:offset + length] = bytes(length)
    elif kind == 6:
        h.cache(length, offset)
    else:
        same(offset, length)
    if rng.random() < 0.01:
        h.flush()
if h.can_fast_zero():
    try:
        h.zero(1 << 20, 1 << 20, nbd.CMD_FLAG_FAST_ZERO)
        model[1 << 20:2 << 20] = bytes(1 << 20)
    except nbd.Error as e:
        assert e.errnum == errno.ENOTSUP
for offset in range(0, size, 1 << 20):
    same(offset, min(1 << 20, size - offset))

# What block status calls zero is zero, and the map covers the disk.
offset = 0
holes = 0
while offset < size:
    extents = []

    def extent(context, start, entries, error):
        assert context == nbd.CONTEXT_BASE_ALLOCATION and start == offset
        extents.extend(entries)

    h.block_status(size - offset, offset, extent)
    assert extents
    for length, flags in zip(extents[0::2], extents[1::2]):
        if flags & nbd.STATE_ZERO:
            holes += length
            assert not any(model[offset:offset + length]), (offset, length)
        offset += length
assert offset == size

# The same with one extent per answer.
extents = []
h.block_status(size, 0, lambda c, s, e, err: extents.extend(e), nbd.CMD_FLAG_REQ_ONE)
assert len(extents) == 2

h.flush()
h.shutdown()

# A second connection, without structured replies, sees the same bytes.
h = nbd.NBD()
h.set_request_structured_replies(False)
h.connect_uri(uri)
assert not h.get_structured_replies_negotiated()
for offset in range(0, size, 1 << 20):
    same(offset, min(1 << 20, size - offset))
h.shutdown()
open(image + ".model", "wb").write(model)
print("ok", holes)
