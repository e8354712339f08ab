import { describe, expect, it } from 'vitest';
import { GATE_LOOK_MS, GATE_WAIT_MS_MAX, LineMeter, PART_BYTES_MIN, UploadGate } from './upload-gate.js';

describe('the gate', () => {
  it('lets pass while it is open, and all that wait when it opens', async () => {
    const gate = new UploadGate();
    const { signal } = new AbortController();
    await gate.pass(signal);
    gate.close();
    const passed: number[] = [];
    const waiting = [1, 2].map(async (who) => gate.pass(signal).then(() => passed.push(who)));
    await Promise.resolve();
    expect(passed).toEqual([]);
    gate.open();
    await Promise.all(waiting);
    expect(passed).toEqual([1, 2]);
  });

  it('whoever gives up waits no more', async () => {
    const gate = new UploadGate();
    gate.close();
    const abort = new AbortController();
    const waiting = gate.pass(abort.signal);
    abort.abort(new Error('enough'));
    await expect(waiting).rejects.toThrow('enough');
    gate.open();
    await expect(gate.pass(abort.signal)).rejects.toThrow('enough');
  });
});

describe('a gate that looks whether a machine waits for the line', () => {
  /** Time that passes when somebody sleeps. */
  const lookingGate = (isWanted: () => boolean) => {
    const seen = { ms: 0, looks: 0 };
    const gate = new UploadGate({
      look: async () => {
        seen.looks += 1;
        return isWanted();
      },
      nowMs: () => seen.ms,
      sleep: async (ms) => void (seen.ms += ms),
    });
    return { gate, seen };
  };
  const { signal } = new AbortController();

  it('lets parts pass at once while nobody does, and looks twice a second', async () => {
    const { gate, seen } = lookingGate(() => false);
    for (let part = 0; part < 20; part += 1) {
      await gate.pass(signal);
      seen.ms += 100;
    }
    expect([seen.ms, seen.looks]).toEqual([2_000, 2_000 / GATE_LOOK_MS]);
  });

  it('keeps parts back while one does, but never for longer than a second each', async () => {
    const { gate, seen } = lookingGate(() => true);
    for (let part = 1; part <= 5; part += 1) {
      await gate.pass(signal);
      expect(seen.ms).toBe(part * GATE_WAIT_MS_MAX);
    }
    expect(gate.isOpen).toBe(false);
  });

  it('goes on as soon as it has seen that nobody does any more, or when it cannot see', async () => {
    let left = 2;
    const { gate, seen } = lookingGate(() => {
      left -= 1;
      if (left < -1) throw new Error('no block daemon');
      return left >= 0;
    });
    await gate.pass(signal);
    expect([seen.ms, gate.isOpen]).toEqual([2 * GATE_LOOK_MS, true]);
    seen.ms += GATE_LOOK_MS;
    await gate.pass(signal);
    expect([seen.ms, seen.looks]).toEqual([3 * GATE_LOOK_MS, 4]);
  });
});

describe('parts', () => {
  it('begin small, follow the line, and stay within their bounds', () => {
    const line = new LineMeter();
    expect([line.partBytes, line.bytesPerSecond]).toEqual([PART_BYTES_MIN, undefined]);
    line.sent(1_000_000, 100); // 10 MB/s
    expect(line.partBytes).toBe(61 * PART_BYTES_MIN);
    for (let parts = 0; parts < 50; parts += 1) line.sent(100_000, 100_000); // 1 KB/s
    expect(line.partBytes).toBe(PART_BYTES_MIN);
    for (let parts = 0; parts < 50; parts += 1) line.sent(100_000_000, 1);
    expect(line.partBytes).toBe(4_194_304);
  });

  it('are a tenth as long beside a machine that waits for the line, and say nothing of it then', () => {
    const line = new LineMeter();
    expect(line.smallPartBytes).toBe(4_096);
    line.sent(1_000_000, 100);
    expect(line.smallPartBytes).toBe(24 * 4_096);
    line.sent(4_096, 50);
    expect(line.bytesPerSecond).toBe(10_000_000);
    for (let parts = 0; parts < 50; parts += 1) line.sent(100_000, 100_000);
    expect(line.smallPartBytes).toBe(4_096);
  });
});
