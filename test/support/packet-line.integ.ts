/** The line of packets: the kernel's TCP over it needs its handshake and its slow start. Lower bounds only, which no busy machine breaks. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { expect, it } from 'vitest';
import { Child, runOrThrow } from './child.js';
import { PacketLine } from './packet-line.js';
import { PYTHON } from '../interop/nbd-fixture.js';

const ROUND_TRIP_MS = 60;
const BITS_PER_SECOND = 12e6;

it.skipIf(process.getuid?.() !== 0)(
  'a short download on a new connection waits for round trips, a long one for the rate, and all is counted',
  async () => {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'packets-'));
    try {
      await writeFile(path.join(folder, 'short'), Buffer.alloc(64 << 10, 'x'));
      await writeFile(path.join(folder, 'long'), Buffer.alloc(1 << 20, 'x'));
      await using line = await PacketLine.open({
        downBitsPerSecond: BITS_PER_SECOND,
        upBitsPerSecond: BITS_PER_SECOND,
        roundTripMs: ROUND_TRIP_MS,
      });
      const served = ['-u', '-m', 'http.server', '8000', '--bind', line.address, '--directory', folder];
      const [command = '', ...words] = [...line.atFarEnd, PYTHON, ...served];
      await using server = new Child('server', command, words);
      await server.waitFor(/Serving/);
      const secondsOf = async (name: string): Promise<number> => {
        const url = `http://${line.address}:8000/${name}`;
        return Number((await runOrThrow('curl', ['-sf', '-o', '/dev/null', '-w', '%{time_total}', url])).stdout);
      };
      // The handshake, the request, and two more round trips until windows of 14, 29 and 58 KB have carried 64 KiB: at the line's rate it were 0.044 s.
      expect(await secondsOf('short')).toBeGreaterThan((3.5 * ROUND_TRIP_MS) / 1000);
      expect(await secondsOf('long')).toBeGreaterThan(((1 << 20) * 8) / BITS_PER_SECOND);
      expect(await line.downBytes()).toBeGreaterThan((1 << 20) + (64 << 10));
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  },
);
