import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MemoryDevice } from './memory-device.double.js';
import { NbdExport } from './nbd-export.js';
import { NBD_LIMITS } from './nbd-limits.js';
import { COMMAND, COMMAND_FLAG, NBD_ERRNO, OPTION, OPTION_REPLY, REPLY_TYPE } from './nbd-protocol.js';
import { NbdServer } from './nbd-server.js';
import { goData, optionBytes, RawClient, requestBytes } from './raw-client.double.js';

const DISK_BYTES = 1 << 20;

let folder: string;
let path: string;
let device: MemoryDevice;
let server: NbdServer;
const clients: RawClient[] = [];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'nbd-'));
  path = join(folder, 'socket');
  device = new MemoryDevice(DISK_BYTES);
  for (let at = 0; at < DISK_BYTES; at += 4) device.content.writeUInt32LE(at + 1, at);
  server = await NbdServer.open({ listen: { path }, exports: [new NbdExport({ name: 'disk', device })] });
});
afterEach(async () => {
  for (const client of clients.splice(0)) client.destroy();
  await server.close();
  await rm(folder, { recursive: true });
});

const open = async (options: { readonly structured?: boolean } = {}): Promise<RawClient> => {
  const client = await RawClient.open(path, options);
  clients.push(client);
  return client;
};
const connect = async (): Promise<RawClient> => {
  const client = await RawClient.connect(path);
  clients.push(client);
  await client.read(18, 'greeting');
  return client;
};
const gate = (): { readonly promise: Promise<void>; readonly open: () => void } => {
  let release = (): void => {};
  const promise = new Promise<void>((resolve) => (release = resolve));
  return { promise, open: release };
};

describe('handshake', () => {
  it('options that are unknown, malformed or name no export get an error reply, and the handshake goes on', async () => {
    const client = await connect();
    client.send(Buffer.from([0, 0, 0, 3]));
    const cases: [Buffer, number][] = [
      [optionBytes(99, Buffer.alloc(10)), OPTION_REPLY.unsupported],
      [optionBytes(OPTION.startTls), OPTION_REPLY.unsupported],
      [optionBytes(OPTION.go, Buffer.from([0, 0, 1, 0])), OPTION_REPLY.invalid],
      [optionBytes(OPTION.info, goData('other')), OPTION_REPLY.unknown],
      [optionBytes(OPTION.list, Buffer.alloc(1)), OPTION_REPLY.invalid],
      // Meta contexts need structured replies first.
      [optionBytes(OPTION.setMetaContext, Buffer.alloc(8)), OPTION_REPLY.invalid],
    ];
    for (const [bytes, expected] of cases) {
      client.send(bytes);
      expect((await client.readOptionReply('option')).type).toBe(expected);
    }
    client.send(optionBytes(OPTION.go, goData('disk')));
    expect((await client.readUntilAck('go')).at(-1)?.type).toBe(OPTION_REPLY.ack);
  });

  it('EXPORT_NAME enters transmission, with the zeroes that old clients expect', async () => {
    const client = await connect();
    client.send(Buffer.from([0, 0, 0, 1]));
    client.send(optionBytes(OPTION.exportName, Buffer.from('disk')));
    const reply = await client.read(134, 'export');
    expect(Number(reply.readBigUInt64BE(0))).toBe(DISK_BYTES);
    client.send(requestBytes({ command: COMMAND.flush, cookie: 7 }));
    expect(await client.readReply('flush')).toEqual({ kind: 'simple', errno: 0, cookie: 7 });
  });

  it.each([
    ['unknown client flags', Buffer.from([0, 0, 0, 0xf0])],
    ['bad option magic', Buffer.concat([Buffer.from([0, 0, 0, 3]), Buffer.alloc(16, 1)])],
    ['a name that is not exported', Buffer.concat([Buffer.from([0, 0, 0, 3]), optionBytes(1, Buffer.from('no'))])],
    [
      'endless options',
      Buffer.concat([Buffer.from([0, 0, 0, 3]), ...Array.from({ length: 200 }, () => optionBytes(3))]),
    ],
  ])('%s closes the connection', async (_name, bytes) => {
    const client = await connect();
    client.send(bytes);
    await client.ended('close');
  });

  it('an option larger than allowed is refused and closes the connection', async () => {
    const client = await connect();
    client.send(
      Buffer.concat([Buffer.from([0, 0, 0, 3]), optionBytes(7, Buffer.alloc(NBD_LIMITS.optionBytesMax + 1))]),
    );
    expect((await client.readOptionReply('too big')).type).toBe(OPTION_REPLY.tooBig);
    await client.ended('close');
  });

  it('any bytes leave the server alive and serving', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.uint8Array({ maxLength: 100 }), { maxLength: 5 }),
        fc.boolean(),
        async (pieces, greets) => {
          const client = await connect();
          if (greets) client.send(Buffer.from([0, 0, 0, 3]));
          for (const piece of pieces) client.send(Buffer.from(piece));
          client.destroy();
          const good = await open();
          good.send(requestBytes({ command: COMMAND.flush, cookie: 1 }));
          expect(await good.readReply('flush')).toMatchObject({ errno: 0 });
          good.destroy();
        },
      ),
      { numRuns: 50 },
    );
  });

  it('connections beyond the maximum are closed at once', async () => {
    for (let count = 0; count < NBD_LIMITS.connectionsMax; count += 1) await open();
    const client = await RawClient.connect(path);
    await client.ended('refusal');
  });
});

describe('requests', () => {
  it('bad requests get an error each, and the connection lives', async () => {
    const client = await open();
    const cases: [Buffer, number][] = [
      [requestBytes({ command: 99, cookie: 1 }), NBD_ERRNO.EINVAL],
      [requestBytes({ command: COMMAND.read, flags: 64, cookie: 1, byteLength: 1 }), NBD_ERRNO.EINVAL],
      [
        requestBytes({ command: COMMAND.read, cookie: 1, byteOffset: DISK_BYTES - 10, byteLength: 11 }),
        NBD_ERRNO.EINVAL,
      ],
      [requestBytes({ command: COMMAND.read, cookie: 1, byteOffset: 2 ** 52, byteLength: 1 }), NBD_ERRNO.EINVAL],
      [requestBytes({ command: COMMAND.read, cookie: 1, byteLength: 0xffff_ffff }), NBD_ERRNO.EINVAL],
      [
        requestBytes({ command: COMMAND.write, cookie: 1, byteOffset: DISK_BYTES, payload: Buffer.alloc(10) }),
        NBD_ERRNO.ENOSPC,
      ],
      [
        requestBytes({ command: COMMAND.write, flags: 16, cookie: 1, payload: Buffer.alloc(100_000) }),
        NBD_ERRNO.EINVAL,
      ],
      [requestBytes({ command: COMMAND.trim, cookie: 1, byteOffset: DISK_BYTES, byteLength: 1 }), NBD_ERRNO.EINVAL],
      [
        requestBytes({ command: COMMAND.writeZeroes, cookie: 1, byteOffset: DISK_BYTES, byteLength: 1 }),
        NBD_ERRNO.ENOSPC,
      ],
      [requestBytes({ command: COMMAND.blockStatus, cookie: 1, byteLength: 4096 }), NBD_ERRNO.EINVAL],
    ];
    for (const [bytes, errno] of cases) {
      client.send(bytes);
      expect(await client.readReply('error')).toEqual({ kind: 'simple', errno, cookie: 1 });
    }
    client.send(requestBytes({ command: COMMAND.read, cookie: 2, byteOffset: 8, byteLength: 4 }));
    await client.readReply('read');
    expect((await client.read(4, 'data')).readUInt32LE(0)).toBe(9);
  });

  it('bad magic closes the connection', async () => {
    const client = await open();
    client.send(Buffer.alloc(28, 1));
    await client.ended('close');
  });

  it('a write acknowledgement leaves only after publishing, one publish for a batch, and becomes an error when that fails', async () => {
    const client = await open();
    const writes = Array.from({ length: 20 }, (_, cookie) =>
      requestBytes({
        command: COMMAND.write,
        cookie,
        byteOffset: cookie * 512,
        payload: Buffer.alloc(512, cookie + 1),
      }),
    );
    client.send(Buffer.concat(writes));
    for (let cookie = 0; cookie < 20; cookie += 1)
      expect(await client.readReply('write')).toEqual({ kind: 'simple', errno: 0, cookie });
    expect(device.counts.publish).toBeLessThan(20);
    device.publishFails = true;
    client.send(
      Buffer.concat([
        requestBytes({ command: COMMAND.write, cookie: 5, payload: Buffer.alloc(512) }),
        requestBytes({ command: COMMAND.cache, cookie: 6, byteLength: 1 }),
      ]),
    );
    expect(await client.readReply('write')).toEqual({ kind: 'simple', errno: NBD_ERRNO.ENOSPC, cookie: 5 });
    expect(await client.readReply('cache')).toEqual({ kind: 'simple', errno: 0, cookie: 6 });
  });

  it('a FUA write is answered after a flush, also when it had to wait', async () => {
    const client = await open();
    for (const isSlow of [false, true]) {
      device.isSlow = isSlow;
      const held = gate();
      device.gate = held.promise;
      client.send(
        requestBytes({ command: COMMAND.write, flags: COMMAND_FLAG.fua, cookie: 1, payload: Buffer.alloc(512) }),
      );
      client.send(requestBytes({ command: COMMAND.cache, cookie: 2, byteLength: 1 }));
      expect(await client.readReply('cache')).toMatchObject({ cookie: 2 });
      held.open();
      expect(await client.readReply('write')).toEqual({ kind: 'simple', errno: 0, cookie: 1 });
    }
    expect(device.counts.flush).toBe(2);
  });

  it('zeroes are sent as holes with structured replies, in pieces for long reads, whole with DF', async () => {
    device.content.fill(0, 65_536, 3 * 65_536);
    const client = await open({ structured: true });
    client.send(requestBytes({ command: COMMAND.read, cookie: 1, byteOffset: 65_536, byteLength: 4096 }));
    expect(await client.readReply('hole')).toMatchObject({ type: REPLY_TYPE.offsetHole, isDone: true });
    client.send(requestBytes({ command: COMMAND.read, cookie: 2, byteLength: 5 * 65_536 }));
    const types = [];
    for (let isDone = false; !isDone;) {
      const reply = await client.readReply('chunks');
      if (reply.kind !== 'chunk') throw new Error('not a chunk');
      types.push(reply.type);
      isDone = reply.isDone;
    }
    expect(types).toEqual([REPLY_TYPE.offsetData, REPLY_TYPE.offsetHole, REPLY_TYPE.offsetData]);
    client.send(requestBytes({ command: COMMAND.read, flags: COMMAND_FLAG.df, cookie: 3, byteLength: 5 * 65_536 }));
    const reply = await client.readReply('one chunk');
    expect(reply.kind === 'chunk' && reply.payload.subarray(8).equals(device.content.subarray(0, 5 * 65_536))).toBe(
      true,
    );
  });

  /** What was seen: a read of nothing where a block is missing went the waiting way, which sent its runs of data and holes: none. */
  it('a read of nothing is answered, also where it would have to wait', async () => {
    device.isSlow = true;
    for (const structured of [true, false]) {
      const client = await open({ structured });
      client.send(requestBytes({ command: COMMAND.read, cookie: 1, byteOffset: 4096 }));
      const reply = await client.readReply('read of nothing');
      expect(reply.cookie).toBe(1);
      if (reply.kind === 'chunk') expect(reply.isDone).toBe(true);
      client.send(requestBytes({ command: COMMAND.flush, cookie: 2 }));
      expect((await client.readReply('flush')).cookie).toBe(2);
    }
  });

  it('FAST_ZERO is refused where zeroing is not fast', async () => {
    const slow = new MemoryDevice(4096, { zeroIsFast: false });
    const other = await NbdServer.open({
      listen: { path: `${path}2` },
      exports: [new NbdExport({ name: '', device: slow })],
    });
    const client = await RawClient.open(`${path}2`);
    client.send(
      requestBytes({ command: COMMAND.writeZeroes, flags: COMMAND_FLAG.fastZero, cookie: 1, byteLength: 512 }),
    );
    expect(await client.readReply('zero')).toMatchObject({ errno: NBD_ERRNO.ENOTSUP });
    client.destroy();
    await other.close();
  });

  it('a large write in many small pieces arrives whole', async () => {
    const client = await open();
    const payload = Buffer.alloc(300_000);
    for (let at = 0; at < payload.length; at += 4) payload.writeUInt32LE(at * 7, at);
    const bytes = requestBytes({ command: COMMAND.write, cookie: 1, byteOffset: 5, payload });
    for (let at = 0; at < bytes.length; at += 9_973) {
      client.send(bytes.subarray(at, at + 9_973));
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(await client.readReply('write')).toEqual({ kind: 'simple', errno: 0, cookie: 1 });
    expect(device.content.subarray(5, 300_005).equals(payload)).toBe(true);
  });
});

describe('clients that misbehave', () => {
  it('a client that does not read its replies is not read from, and another one is served', async () => {
    const lazy = net.connect(path);
    await once(lazy, 'connect');
    lazy.on('error', () => {});
    lazy.pause();
    lazy.write(Buffer.concat([Buffer.from([0, 0, 0, 3]), optionBytes(OPTION.go, goData('disk'))]));
    const reads = Array.from({ length: 4_000 }, (_, cookie) =>
      requestBytes({ command: COMMAND.read, cookie, byteLength: 65_536 }),
    );
    lazy.write(Buffer.concat(reads));
    const client = await open();
    let readsBefore = -1;
    await expect
      .poll(async () => {
        client.send(requestBytes({ command: COMMAND.flush, cookie: 1 }));
        await client.readReply('flush of the other client');
        const isStill = device.counts.read === readsBefore;
        readsBefore = device.counts.read;
        return isStill;
      })
      .toBe(true);
    // What sockets and the server hold together is far below the 250 MB that were asked for.
    expect(device.counts.read * 65_536).toBeLessThan(16 << 20);
    lazy.destroy();
  });

  it('more waiting requests than allowed are left in the socket', async () => {
    const held = gate();
    device.isSlow = true;
    device.gate = held.promise;
    const client = await open();
    const many = NBD_LIMITS.inFlightRequestsMax * 2;
    client.send(
      Buffer.concat(
        Array.from({ length: many }, (_, cookie) => requestBytes({ command: COMMAND.read, cookie, byteLength: 512 })),
      ),
    );
    await expect.poll(() => device.counts.read).toBe(NBD_LIMITS.inFlightRequestsMax);
    held.open();
    for (let count = 0; count < many; count += 1) {
      expect(await client.readReply('read')).toMatchObject({ errno: 0 });
      await client.read(512, 'data');
    }
  });

  it('a client that comes back is answered only after the writes of its former connection have ended', async () => {
    const held = gate();
    device.isSlow = true;
    device.gate = held.promise;
    const former = await open();
    former.send(requestBytes({ command: COMMAND.write, cookie: 1, payload: Buffer.alloc(512, 0xaa) }));
    await expect.poll(() => device.counts.write).toBe(1);
    former.destroy();
    let isIn = false;
    const successor = open().then((client) => {
      isIn = true;
      return client;
    });
    const bystander = await connect(); // the server as such goes on
    bystander.send(Buffer.concat([Buffer.from([0, 0, 0, 3]), optionBytes(OPTION.list)]));
    await bystander.readUntilAck('list');
    expect(isIn).toBe(false);
    held.open();
    device.isSlow = false;
    const client = await successor;
    expect(device.content[0]).toBe(0xaa);
    client.send(requestBytes({ command: COMMAND.write, cookie: 2, payload: Buffer.alloc(512, 0xbb) }));
    await client.readReply('write');
    expect(device.content[0]).toBe(0xbb);
  });

  it('requests of a dead client that were not started are never started after its successor is in', async () => {
    const held = gate();
    device.isSlow = true;
    device.gate = held.promise;
    const former = await open();
    const writes = Array.from({ length: 2_000 }, (_, cookie) =>
      requestBytes({
        command: COMMAND.write,
        cookie,
        byteOffset: 512 * (cookie % 100),
        payload: Buffer.alloc(512, 0xaa),
      }),
    );
    former.send(Buffer.concat(writes));
    await expect.poll(() => device.counts.write).toBe(NBD_LIMITS.inFlightRequestsMax);
    former.destroy();
    const successor = open();
    held.open();
    device.isSlow = false;
    const client = await successor;
    const countAtEntry = device.counts.write;
    client.send(requestBytes({ command: COMMAND.writeZeroes, cookie: 1, byteLength: 51_200 }));
    await client.readReply('zero');
    for (let turn = 0; turn < 50; turn += 1) {
      client.send(requestBytes({ command: COMMAND.flush, cookie: 2 }));
      await client.readReply('flush');
    }
    expect(device.counts.write).toBe(countAtEntry);
    expect(device.content.subarray(0, 51_200).every((byte) => byte === 0)).toBe(true);
  });

  it('DISC is obeyed after what is under way was answered', async () => {
    const held = gate();
    device.isSlow = true;
    device.gate = held.promise;
    const client = await open();
    client.send(
      Buffer.concat([
        requestBytes({ command: COMMAND.read, cookie: 1, byteLength: 512 }),
        requestBytes({ command: COMMAND.disconnect }),
      ]),
    );
    await expect.poll(() => device.counts.read).toBe(1);
    held.open();
    expect(await client.readReply('read')).toMatchObject({ errno: 0 });
    await client.read(512, 'data');
    await client.ended('close');
  });

  it('closing the server answers what is under way, then ends the connections', async () => {
    const held = gate();
    device.isSlow = true;
    device.gate = held.promise;
    const client = await open();
    client.send(requestBytes({ command: COMMAND.flush, cookie: 1 }));
    await expect.poll(() => device.counts.flush).toBe(1);
    const closed = server.close();
    held.open();
    expect(await client.readReply('flush')).toMatchObject({ errno: 0 });
    await client.ended('close');
    await closed;
    expect(server.sessionCount).toBe(0);
  });
});
