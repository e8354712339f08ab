import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { hasCode } from '@collective/shared';
import { LocalFileSystem } from './local-file-system.js';

/** A descriptor's number is given to the next file that is opened: what still goes on with it reads and writes that one. */
it('a file that is closed touches no other that got its descriptor', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'local-file-'));
  try {
    const fileSystem = new LocalFileSystem();
    const closed = await fileSystem.open(join(folder, 'closed'), 'create');
    await closed.write(Buffer.alloc(8192, 1), 0);
    await closed.close();
    await writeFile(join(folder, 'other'), Buffer.alloc(8192, 2));
    const others = [];
    for (let count = 0; count < 4; count += 1) others.push(await fileSystem.open(join(folder, 'other'), 'write'));
    expect(others.map((other) => other.descriptor)).toContain(closed.descriptor);

    const target = Buffer.alloc(4096, 9);
    const source = Buffer.alloc(4096, 3);
    const calls: (() => unknown)[] = [
      () => closed.read(target, 0),
      () => closed.write(source, 0),
      () => closed.zero(0, 4096, { keepAllocated: false }),
      () => closed.sync(),
      () => closed.setByteLength(1),
      () => closed.byteLength(),
      () => closed.byteLengthNow(),
      () => closed.writeNow(source, 0),
    ];
    for (const call of calls) {
      await expect((async () => call())(), String(call)).rejects.toSatisfy((error) => hasCode(error, 'local-io'));
    }
    expect(closed.tryRead(target, 0)).toBe(false);
    expect(closed.mayTryWrite(4096)).toBe(false);
    expect(closed.tryWrite(source, 0)).toBe(false);
    await closed.close();
    expect(target.equals(Buffer.alloc(4096, 9))).toBe(true);
    for (const other of others) await other.close();
    expect((await readFile(join(folder, 'other'))).equals(Buffer.alloc(8192, 2))).toBe(true);
  } finally {
    await rm(folder, { recursive: true });
  }
});
