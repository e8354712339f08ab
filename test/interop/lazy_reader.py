"""Asks for far more than it ever reads. Usage: lazy_reader.py URI; says "going" when its requests are out or stuck."""
import re
import select
import socket
import struct
import sys

path = re.search(r"socket=(.*)", sys.argv[1]).group(1)
s = socket.socket(socket.AF_UNIX)
s.connect(path)
s.recv(18, socket.MSG_WAITALL)
s.sendall(struct.pack(">I", 3))
s.sendall(b"IHAVEOPT" + struct.pack(">IIIH", 7, 6, 0, 0))
s.setblocking(False)
stuck = 0
while stuck < 5:
    try:
        s.send(b"".join(struct.pack(">IHHQQI", 0x25609513, 0, 0, n, 65536 * n, 65536) for n in range(100)))
        stuck = 0
    except BlockingIOError:
        # Not writable for half a second, five times: nobody reads from us.
        stuck = 0 if select.select([], [s], [], 0.5)[1] else stuck + 1
print("going", flush=True)
select.select([], [], [])
