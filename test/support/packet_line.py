"""The delay of a line, by packets: two TUN devices, and what the kernel sends out of the one comes in at the other so much later, in order.

    packet_line.py NEAR FAR DELAY_MS      (one way; as root)

Rate and queue are the kernel's (tbf on the devices): a packet is read here when it has left the queue. So the kernel's own TCP, with its slow start and
its congestion control, meets a line. A packet of a device that is down is lost. Says "line up" when both devices are there; they go when it ends.
"""
import collections
import errno
import fcntl
import os
import select
import struct
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
PACKET_BYTES_MAX = 65535
# What is read from one side before the other has its turn.
BATCH = 64


def tun(name):
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return device


def read_into(queue, device, delay):
    for _ in range(BATCH):
        try:
            packet = os.read(device, PACKET_BYTES_MAX)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EIO):  # EIO: the device is down
                return
            raise
        queue.append((time.monotonic() + delay, packet))


def write_due(queue, device):
    now = time.monotonic()
    while queue and queue[0][0] <= now:
        try:
            os.write(device, queue.popleft()[1])
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EIO, errno.EINVAL):
                raise


def main(near, far, delay_ms):
    sides = (tun(near), tun(far))
    delay = float(delay_ms) / 1000
    # By the side that a packet goes to.
    queues = (collections.deque(), collections.deque())
    print("line up", flush=True)
    while True:
        dues = [queue[0][0] for queue in queues if queue]
        wait = None if not dues else max(0, min(dues) - time.monotonic())
        readable, _, _ = select.select(sides, (), (), wait)
        for at, side in enumerate(sides):
            if side in readable:
                read_into(queues[1 - at], side, delay)
        for queue, side in zip(queues, sides):
            write_due(queue, side)


if __name__ == "__main__":
    main(*sys.argv[1:])
