import { describe, expect, it } from 'vitest';
import { LineMeter, PART_BYTES_MIN, UploadGate } from './upload-gate.js';

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

describe('parts', () => {
  it('begin small, follow the line, and stay within their bounds', () => {
    const line = new LineMeter();
    expect([line.partBytes, line.bytesPerSecond]).toEqual([PART_BYTES_MIN, undefined]);
    line.sent(1_000_000, 100); // 10 MB/s
    expect(line.partBytes).toBe(15 * PART_BYTES_MIN);
    for (let parts = 0; parts < 50; parts += 1) line.sent(1_000, 1_000); // 1 KB/s
    expect(line.partBytes).toBe(PART_BYTES_MIN);
    for (let parts = 0; parts < 50; parts += 1) line.sent(100_000_000, 1);
    expect(line.partBytes).toBe(4_194_304);
  });
});
