import { randomBytes } from 'node:crypto';
import {
  closeSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  writeSync,
  fsyncSync,
} from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ERRNO, syscalls } from './syscalls.js';

describe.runIf(syscalls !== undefined)('syscalls', () => {
  let folder: string;
  let fd: number;
  const calls = syscalls ?? expect.fail('no koffi');

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'syscalls-'));
    fd = openSync(join(folder, 'file'), 'w+');
  });
  afterEach(() => {
    closeSync(fd);
    rmSync(folder, { recursive: true });
  });

  it('a thread takes short turns, and what it starts too', () => {
    expect(calls.setSlice(process.pid, 200)).toBe(0);
    const sliceOf = (file: string): RegExpMatchArray | null => /se\.slice\s*:\s*(\d+)/.exec(readFileSync(file, 'utf8'));
    // Debian 13's kernel and later show it there; before, it is only taken.
    const shown = sliceOf('/proc/self/sched');
    if (shown !== null) expect(Number(shown[1])).toBe(200_000);
    expect(calls.setSlice(-1, 200)).toBeLessThan(0);
  });

  it('a cached page is read, a dropped one is refused, and one that was read again is there', () => {
    const bytes = randomBytes(65_536);
    writeSync(fd, bytes);
    const target = Buffer.alloc(4096);
    expect(calls.readNowait(fd, target, 8192)).toBe(4096);
    expect(target.equals(bytes.subarray(8192, 12_288))).toBe(true);
    fsyncSync(fd);
    calls.advise(fd, 0, 0, 'random');
    calls.advise(fd, 0, 0, 'drop');
    const refused = calls.readNowait(fd, target, 8192);
    if (refused === 4096) return; // a file system that does not drop (tmpfs)
    expect(refused).toBe(-ERRNO.EAGAIN);
    readSync(fd, target, 0, 4096, 8192);
    expect(calls.readNowait(fd, target, 8192)).toBe(4096);
  });

  it('a read beyond the end is short', () => {
    writeSync(fd, Buffer.alloc(5000, 1));
    expect(calls.readNowait(fd, Buffer.alloc(4096), 4096)).toBe(904);
    expect(calls.readNowait(fd, Buffer.alloc(4096), 8192)).toBe(0);
  });

  it('a punched hole reads as zeroes and is seen by seekData and seekHole', async () => {
    ftruncateSync(fd, 1 << 20);
    writeSync(fd, Buffer.alloc(262_144, 7), 0, 262_144, 0);
    expect(await calls.punchHole(fd, 65_536, 65_536)).toBe(0);
    expect(calls.seekHole(fd, 0)).toBe(65_536);
    expect(calls.seekData(fd, 65_536)).toBe(131_072);
    expect(calls.seekData(fd, 262_144)).toBeLessThan(0);
    expect(await calls.zeroRange(fd, 0, 4096)).toBe(0);
    expect(
      readFileSync(join(folder, 'file'))
        .subarray(0, 4096)
        .every((byte) => byte === 0),
    ).toBe(true);
  });

  it('a lock excludes a second descriptor and dies with the first', () => {
    const first = openSync(join(folder, 'lock'), 'w');
    const second = openSync(join(folder, 'lock'), 'r+');
    expect(calls.lockExclusive(first)).toBe(true);
    expect(calls.lockExclusive(second)).toBe(false);
    closeSync(first);
    expect(calls.lockExclusive(second)).toBe(true);
    closeSync(second);
  });

  it('send and receive move bytes on a socket, refuse to wait, and peerGone sees the end behind unread data', async () => {
    const path = join(folder, 'socket');
    const server = net.createServer({ pauseOnConnect: true });
    const accepted = new Promise<net.Socket>((resolve) => server.once('connection', resolve));
    await new Promise<void>((resolve) => server.listen(path, resolve));
    const client = net.connect(path);
    const peer = await accepted;
    const descriptor = (socket: net.Socket): number => {
      const handle: unknown = Reflect.get(socket, '_handle');
      return typeof handle === 'object' && handle !== null ? Number(Reflect.get(handle, 'fd')) : -1;
    };
    const target = Buffer.alloc(100);
    expect(calls.receive(descriptor(peer), target)).toBe(-ERRNO.EAGAIN);
    const message = randomBytes(100);
    expect(calls.send(descriptor(client), message, 60)).toBe(60);
    expect(calls.sendVector(descriptor(client), [message.subarray(60, 70), message.subarray(70)])).toBe(40);
    expect(calls.receive(descriptor(peer), target)).toBe(100);
    expect(target.equals(message)).toBe(true);
    expect(calls.peerGone(descriptor(peer))).toBe(false);
    calls.send(descriptor(client), message, 10);
    await new Promise((resolve) => client.once('close', resolve).destroy());
    expect(calls.peerGone(descriptor(peer))).toBe(true);
    peer.destroy();
    await new Promise((resolve) => server.close(resolve));
  });
});
