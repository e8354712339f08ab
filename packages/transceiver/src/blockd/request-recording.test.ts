/** The recording of a guest's requests: its file against the golden one and against damage, and what the NBD server writes into it. */
import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CollectiveError } from '@collective/shared';
import { MemoryDevice } from './nbd/memory-device.double.js';
import { NbdExport } from './nbd/nbd-export.js';
import { COMMAND, COMMAND_FLAG } from './nbd/nbd-protocol.js';
import { NbdServer } from './nbd/nbd-server.js';
import { RawClient, requestBytes } from './nbd/raw-client.double.js';
import { RequestRecording } from './request-recording.js';
import {
  decodeRequestRecording,
  encodeRequestRecording,
  type RequestRecordingFile,
} from './request-recording-codec.js';
import { eventually } from './testing/eventually.js';
import { ManualClock } from './testing/manual-clock.js';

const golden = readFileSync(new URL('golden/request-recording-1.bin', import.meta.url));

const EXAMPLE: RequestRecordingFile = {
  disks: [
    { name: 'system', diskBytes: 2 ** 31 },
    { name: 'user', diskBytes: 2 ** 30 },
  ],
  endUs: 2_000_000,
  truncated: false,
  requests: [
    {
      arrivalUs: 1_000,
      serviceUs: 90,
      disk: 0,
      connection: 0,
      command: COMMAND.read,
      flags: 0,
      byteOffset: 0,
      byteLength: 512,
      failed: false,
    },
    {
      arrivalUs: 1_250_000,
      serviceUs: 30,
      disk: 1,
      connection: 0,
      command: COMMAND.write,
      flags: COMMAND_FLAG.fua,
      byteOffset: 2 ** 30 - 4096,
      byteLength: 4096,
      failed: true,
    },
    {
      arrivalUs: 1_999_000,
      serviceUs: undefined,
      disk: 0,
      connection: 1,
      command: COMMAND.flush,
      flags: 0,
      byteOffset: 0,
      byteLength: 0,
      failed: false,
    },
  ],
};

/** A decoder's only outcomes are a value or a typed error. */
const decodes = (bytes: Buffer): boolean => {
  try {
    decodeRequestRecording(bytes);
    return true;
  } catch (error) {
    expect(error).toBeInstanceOf(CollectiveError);
    expect(['malformed', 'unknown-format', 'too-large']).toContain((error as CollectiveError).code);
    return false;
  }
};

describe('request recording file', () => {
  it('the golden file is read and written the same', () => {
    expect(decodeRequestRecording(golden)).toEqual(EXAMPLE);
    expect(encodeRequestRecording(EXAMPLE).equals(golden)).toBe(true);
  });

  it('one that is cut, longer, of a later version or names a disk that is not there is refused', () => {
    for (let length = 0; length < golden.length; length += 1) expect(decodes(golden.subarray(0, length))).toBe(false);
    expect(decodes(Buffer.concat([golden, Buffer.alloc(1)]))).toBe(false);
    const later = Buffer.from(golden);
    later[3] = 2;
    expect(decodes(later)).toBe(false);
    const [first] = EXAMPLE.requests;
    if (first === undefined) throw new Error('an example without requests');
    expect(decodes(encodeRequestRecording({ ...EXAMPLE, requests: [{ ...first, disk: 2 }] }))).toBe(false);
    expect(decodes(encodeRequestRecording({ ...EXAMPLE, endUs: 1_050 }))).toBe(false);
    expect(decodes(encodeRequestRecording({ ...EXAMPLE, requests: EXAMPLE.requests.toReversed() }))).toBe(false);
  });

  it('any bytes, and the golden file with bits flipped, give a value or a typed error', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => void decodes(Buffer.from(bytes))));
    fc.assert(
      fc.property(fc.nat({ max: golden.length * 8 - 1 }), (bit) => {
        const bad = Buffer.from(golden);
        bad[bit >>> 3] = (bad[bit >>> 3] ?? 0) ^ (1 << (bit & 7));
        decodes(bad);
      }),
    );
  });
});

describe('a recording', () => {
  const read = { arrivalUs: 0, connection: 0, command: COMMAND.read, flags: 0, byteOffset: 0, byteLength: 512 };

  it('ends at its bound and says so', () => {
    const recording = new RequestRecording(new ManualClock(), { requestsMax: 2 });
    const disk = recording.disk('system', 2 ** 20);
    expect([disk?.add(read), disk?.add(read), disk?.add(read)].map((added) => added !== undefined)).toEqual([
      true,
      true,
      false,
    ]);
    const file = recording.stop();
    expect(file).toMatchObject({ truncated: true, requests: [read, read] });
    expect(decodeRequestRecording(encodeRequestRecording(file))).toEqual(file);
  });

  it('goes on in the same disk when that is attached again, and takes nothing after its end', () => {
    const recording = new RequestRecording(new ManualClock());
    for (const name of ['system', 'user', 'system']) recording.disk(name, 2 ** 20)?.add(read);
    const late = recording.disk('user', 2 ** 20);
    const file = recording.stop();
    expect(late?.add(read)).toBeUndefined();
    expect(file.disks.map(({ name }) => name)).toEqual(['system', 'user']);
    expect(file.requests.map(({ disk }) => disk)).toEqual([0, 1, 0]);
  });
});

describe('recording an NBD export', () => {
  const withServer = async (
    work: (nbdExport: NbdExport, socket: string, device: MemoryDevice) => Promise<void>,
  ): Promise<void> => {
    const folder = await mkdtemp(join(tmpdir(), 'recording-'));
    const device = new MemoryDevice(1 << 20);
    const nbdExport = new NbdExport({ name: 'system', device });
    const server = await NbdServer.open({ listen: { path: join(folder, 's') }, exports: [nbdExport] });
    try {
      await work(nbdExport, join(folder, 's'), device);
    } finally {
      await server.close();
      await rm(folder, { recursive: true });
    }
  };

  for (const structured of [true, false]) {
    it(`every request is there with its place, its reply's time and whether it failed, from the moment it is switched on (${structured ? 'structured' : 'simple'} replies)`, async () => {
      await withServer(async (nbdExport, socket) => {
        const client = await RawClient.open(socket, { structured });
        const ask = async (request: Parameters<typeof requestBytes>[0], dataBytes = 0): Promise<void> => {
          client.send(requestBytes(request));
          await client.readReply(`reply to ${request.command}`);
          if (!structured && dataBytes > 0) await client.read(dataBytes, 'data of a simple reply');
        };
        await ask({ command: COMMAND.read, cookie: 1, byteOffset: 0, byteLength: 4096 }, 4096);
        const clock = new ManualClock();
        const recording = new RequestRecording(clock);
        nbdExport.recording = recording.disk('system', 1 << 20);
        clock.advance(10);
        await ask({
          command: COMMAND.write,
          flags: COMMAND_FLAG.fua,
          cookie: 2,
          byteOffset: 8192,
          payload: Buffer.alloc(512, 1),
        });
        clock.advance(5);
        await ask({ command: COMMAND.read, cookie: 3, byteOffset: 8192, byteLength: 512 }, 512);
        await ask({ command: COMMAND.flush, cookie: 4 });
        await ask({ command: COMMAND.trim, cookie: 5, byteOffset: 4096, byteLength: 4096 });
        await ask({ command: COMMAND.read, cookie: 6, byteOffset: 2 ** 20, byteLength: 512 });
        clock.advance(1);
        const file = recording.stop();
        nbdExport.recording = undefined;
        await ask({ command: COMMAND.flush, cookie: 7 });
        client.destroy();

        expect(file).toMatchObject({
          disks: [{ name: 'system', diskBytes: 1 << 20 }],
          endUs: 16_000,
          truncated: false,
        });
        expect(
          file.requests.map(({ command, byteOffset, byteLength, failed }) => [command, byteOffset, byteLength, failed]),
        ).toEqual([
          [COMMAND.write, 8192, 512, false],
          [COMMAND.read, 8192, 512, false],
          [COMMAND.flush, 0, 0, false],
          [COMMAND.trim, 4096, 4096, false],
          [COMMAND.read, 2 ** 20, 512, true],
        ]);
        expect(file.requests.map(({ arrivalUs, serviceUs }) => [arrivalUs, serviceUs])).toEqual([
          [10_000, 0],
          [15_000, 0],
          [15_000, 0],
          [15_000, 0],
          [15_000, 0],
        ]);
        expect(file.requests[0]?.flags).toBe(COMMAND_FLAG.fua);
        expect(decodeRequestRecording(encodeRequestRecording(file))).toEqual(file);
      });
    });
  }

  it('requests that come together have one arrival, and none is answered before the other has arrived', async () => {
    await withServer(async (nbdExport, socket) => {
      // A clock that is never the same twice: each look at it is a millisecond later.
      let nowMs = 0;
      const recording = new RequestRecording({ nowMs: () => (nowMs += 1) });
      nbdExport.recording = recording.disk('system', 1 << 20);
      const client = await RawClient.open(socket, { structured: true });
      const request = (cookie: number): Buffer =>
        requestBytes({ command: COMMAND.read, cookie, byteOffset: cookie * 4096, byteLength: 4096 });
      client.send(Buffer.concat([request(1), request(2), request(3)]));
      for (const step of ['first', 'second', 'third']) await client.readReply(step);
      client.destroy();
      const { requests } = recording.stop();
      expect(requests.length).toBe(3);
      expect(new Set(requests.map(({ arrivalUs }) => arrivalUs)).size).toBe(1);
      expect(requests.every(({ serviceUs }) => (serviceUs ?? 0) > 0)).toBe(true);
    });
  });

  it('what waits for its block when the recording is stopped has no reply in it, and is answered all the same', async () => {
    await withServer(async (nbdExport, socket, device) => {
      const recording = new RequestRecording(new ManualClock());
      nbdExport.recording = recording.disk('system', 1 << 20);
      let open = (): void => undefined;
      device.isSlow = true;
      device.gate = new Promise((resolve) => (open = resolve));
      const client = await RawClient.open(socket, { structured: true });
      client.send(requestBytes({ command: COMMAND.read, cookie: 1, byteLength: 512 }));
      await eventually('the read waits', () => device.counts.read === 1);
      const { requests } = recording.stop();
      nbdExport.recording = undefined;
      open();
      await client.readReply('the read');
      client.destroy();
      expect(requests).toMatchObject([{ command: COMMAND.read, serviceUs: undefined }]);
    });
  });
});
