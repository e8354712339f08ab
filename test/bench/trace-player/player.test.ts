/** The player against our NBD server on a device that says what it was asked, and answers when it is told. */
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { CollectiveError } from '@collective/shared';
import {
  COMMAND,
  NbdExport,
  NbdServer,
  type BlockDevice,
  type Extent,
  type RecordedRequest,
} from '@collective/transceiver';
import { NbdPlayerClient } from './nbd-player-client.js';
import { play, type PlayResult } from './player.js';
import { replayPlan } from './replay-plan.js';

const DISK_BYTES = 1 << 20;

/** Every operation waits until `answer` lets it go. */
class AskedDevice implements BlockDevice {
  readonly byteLength = DISK_BYTES;
  readonly readOnly = false;
  readonly log: string[] = [];
  readonly #waiting = new Map<string, (error?: Error) => void>();
  #isOpen = false;
  #wake: () => void = () => undefined;

  tryRead(): boolean {
    return false;
  }
  read(target: Buffer, byteOffset: number): Promise<void> {
    return this.#ask(`read ${byteOffset} ${target.length}`);
  }
  tryWrite(): boolean {
    return false;
  }
  write(source: Buffer, byteOffset: number): Promise<void> {
    return this.#ask(`write ${byteOffset} ${source.length} ${source.readBigUInt64LE(0)}`);
  }
  publishWrites(): void {}
  flush(): Promise<void> {
    return this.#ask('flush');
  }
  trim(byteOffset: number, byteLength: number): Promise<void> {
    return this.#ask(`trim ${byteOffset} ${byteLength}`);
  }
  zero(byteOffset: number, byteLength: number): Promise<void> {
    return this.#ask(`zero ${byteOffset} ${byteLength}`);
  }
  extents(_byteOffset: number, byteLength: number): Extent[] {
    return [{ byteLength, kind: 'data' }];
  }
  warm(byteOffset: number, byteLength: number): void {
    this.log.push(`warm ${byteOffset} ${byteLength}`);
  }
  close(): Promise<void> {
    return Promise.resolve();
  }

  /** From now on everything is answered at once. */
  open(): void {
    this.#isOpen = true;
    for (const operation of [...this.#waiting.keys()]) this.#let(operation);
  }

  /** Waits until these and no others have been asked and not been answered. */
  async asked(...operations: readonly string[]): Promise<void> {
    const wanted = JSON.stringify([...operations].sort());
    const deadline = performance.now() + 30_000;
    // What must not come would come within these turns of the event loop.
    for (let quiet = 0; quiet < 20;) {
      const is = JSON.stringify([...this.#waiting.keys()].sort()) === wanted;
      quiet = is ? quiet + 1 : 0;
      if (performance.now() > deadline)
        throw new Error(`asked ${[...this.#waiting.keys()].join(', ')} and not ${wanted}`);
      await new Promise((resolve) => {
        this.#wake = () => resolve(undefined);
        setTimeout(resolve, 1);
      });
    }
  }

  answer(operation: string, error?: Error): void {
    this.#let(operation, error);
  }

  #ask(operation: string): Promise<void> {
    this.log.push(operation);
    if (this.#isOpen) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.#waiting.set(operation, (error) => (error === undefined ? resolve() : reject(error)));
      this.#wake();
    });
  }

  #let(operation: string, error?: Error): void {
    const waiting = this.#waiting.get(operation);
    if (waiting === undefined) throw new Error(`${operation} was not asked`);
    this.#waiting.delete(operation);
    waiting(error);
  }
}

const request = (
  arrivalUs: number,
  serviceUs: number | undefined,
  rest: Partial<RecordedRequest> = {},
): RecordedRequest => ({
  arrivalUs,
  serviceUs,
  disk: 0,
  connection: 0,
  command: COMMAND.read,
  flags: 0,
  byteOffset: 0,
  byteLength: 512,
  failed: false,
  ...rest,
});

/** Plays on as many disks as the requests name. */
const withPlayer = async (
  requests: readonly RecordedRequest[],
  work: (devices: readonly AskedDevice[], done: Promise<PlayResult>) => Promise<void>,
  options: { readonly thinkFactor?: number; readonly endUs?: number; readonly silenceMs?: number } = {},
): Promise<void> => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'player-'));
  const devices: AskedDevice[] = [];
  const servers: NbdServer[] = [];
  const clients: NbdPlayerClient[] = [];
  try {
    for (let disk = 0; disk <= Math.max(...requests.map((each) => each.disk)); disk += 1) {
      const device = new AskedDevice();
      const listen = { path: path.join(folder, `d${disk}`) };
      servers.push(await NbdServer.open({ listen, exports: [new NbdExport({ name: 'disk', device })] }));
      clients.push(await NbdPlayerClient.open(listen.path));
      devices.push(device);
    }
    const { thinkFactor = 0, endUs = 1_000_000, silenceMs = 20_000 } = options;
    const done = play({ plan: replayPlan({ requests, endUs }), clients, thinkFactor, silenceMs });
    done.catch(() => undefined);
    await work(devices, done);
  } finally {
    for (const client of clients) client.close();
    for (const device of devices) device.open();
    for (const server of servers) await server.close();
    await rm(folder, { recursive: true });
  }
};

const only = (devices: readonly AskedDevice[]): AskedDevice => {
  const [device] = devices;
  if (device === undefined) throw new Error('no device');
  return device;
};

describe('the player', () => {
  it('sends a request when every reply before it has come, and what was in flight together together', async () => {
    const requests = [
      request(0, 500, { byteOffset: 0 }),
      request(0, 100, { byteOffset: 512 }),
      request(200, 100, { byteOffset: 1024 }), // after the reply to the second
      request(600, 10, { byteOffset: 1536 }), // after all three
    ];
    await withPlayer(requests, async (devices, done) => {
      const device = only(devices);
      await device.asked('read 0 512', 'read 512 512');
      device.answer('read 512 512');
      await device.asked('read 0 512', 'read 1024 512');
      device.answer('read 1024 512');
      await device.asked('read 0 512');
      device.answer('read 0 512');
      await device.asked('read 1536 512');
      device.answer('read 1536 512');
      expect(await done).toMatchObject({ requests: 4, reads: 4, readBytes: 2048, repeated: 0, leftOut: 0 });
    });
  });

  it('sends every kind of request to its own disk, writes with a payload', async () => {
    const requests = [
      request(0, 1, { command: COMMAND.write, byteOffset: 8192, byteLength: 1024 }),
      request(10, 1, { command: COMMAND.flush, byteLength: 0, disk: 1 }),
      request(20, 1, { command: COMMAND.trim, byteOffset: 4096, byteLength: 4096 }),
      request(30, 1, { command: COMMAND.writeZeroes, byteOffset: 0, byteLength: 4096, disk: 1 }),
      request(40, 1, { command: COMMAND.blockStatus, byteOffset: 0, byteLength: 4096 }),
      request(50, 1, { command: COMMAND.cache, byteOffset: 0, byteLength: 4096 }),
      request(60, 1, { byteOffset: 512, byteLength: 65_536 }),
    ];
    await withPlayer(requests, async (devices, done) => {
      for (const device of devices) device.open();
      expect(await done).toMatchObject({ requests: 7, reads: 1, readBytes: 65_536, leftOut: 0 });
      expect(devices.map(({ log }) => log)).toEqual([
        ['write 8192 1024 8192', 'trim 4096 4096', 'warm 0 4096', 'read 512 65536'],
        ['flush', 'zero 0 4096'],
      ]);
    });
  });

  it('thinks as long as the guest did, by its factor, between a reply and what it caused, and to the end', async () => {
    const requests = [request(40_000, 1), request(100_001, 1, { byteOffset: 512 })];
    for (const [thinkFactor, leastMs] of [
      [1, 200],
      [0.3, 60],
    ] as const) {
      await withPlayer(
        requests,
        async (devices, done) => {
          only(devices).open();
          expect((await done).totalMs).toBeGreaterThanOrEqual(leastMs - 0.01);
        },
        { thinkFactor, endUs: 200_002 },
      );
    }
  });

  it('repeats a read that failed until it succeeds, and nothing goes on before', async () => {
    await withPlayer([request(0, 1), request(10, 1, { byteOffset: 512 })], async (devices, done) => {
      const device = only(devices);
      await device.asked('read 0 512');
      device.answer('read 0 512', new CollectiveError('block-unavailable'));
      await device.asked('read 0 512');
      device.open();
      expect(await done).toMatchObject({ reads: 2, repeated: 1 });
    });
  });

  it('fails when a write is refused, when nothing is answered and when the server goes away, and says what it waits for', async () => {
    const write = request(0, 1, { command: COMMAND.write, byteOffset: 512 });
    await withPlayer([write], async (devices, done) => {
      await only(devices).asked('write 512 512 512');
      only(devices).answer('write 512 512 512', new CollectiveError('disk-full'));
      await expect(done).rejects.toThrow(/request 0 was refused/);
    });
    await withPlayer(
      [request(0, 1, { byteOffset: 1024 })],
      async (_devices, done) => {
        await expect(done).rejects.toThrow(/nothing was answered.*request 0 .*512 bytes at 1024/);
      },
      { silenceMs: 50 },
    );
  });

  it('does not wait at its end for what the recording has no reply to', async () => {
    await withPlayer([request(0, undefined), request(10, 1, { byteOffset: 512 })], async (devices, done) => {
      const device = only(devices);
      await device.asked('read 0 512', 'read 512 512');
      device.answer('read 512 512');
      expect(await done).toMatchObject({ requests: 2 });
    });
  });
});
