import { execFileSync, spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ImageServer, openImageBytes } from './image-bytes.js';

const DISK_BYTES = 1_048_576;
let folder: string;
let image: { path: string; format: string; diskBytes: number };
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'collective-image-'));
  const raw = join(folder, 'disk.raw');
  await writeFile(raw, Buffer.alloc(DISK_BYTES, 'abc'));
  image = { path: join(folder, 'disk.qcow2'), format: 'qcow2', diskBytes: DISK_BYTES };
  execFileSync('qemu-img', ['convert', '-O', 'qcow2', raw, image.path]);
});
afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

/** Processes that have the image open, found by their arguments. */
const servers = async (): Promise<number> => {
  const found = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  return found.filter((pid) => {
    try {
      const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
      return words[0] === 'qemu-nbd' && words.includes(image.path);
    } catch {
      return false;
    }
  }).length;
};

describe('an image that is no raw file', () => {
  it('is read through a server that stays while clients come and go, and ends when it is closed', async () => {
    const server = await ImageServer.open(image);
    for (const byteOffset of [0, 4096]) {
      const bytes = await openImageBytes(server.source);
      const target = Buffer.alloc(3000);
      await bytes.read(target, byteOffset * 3);
      expect(target.equals(Buffer.alloc(3000, 'abc'))).toBe(true);
      await bytes.close();
    }
    expect(await servers()).toBe(1);
    await server.close();
    expect(await servers()).toBe(0);
  });

  const built = new URL('../../dist/publish/image-bytes.js', import.meta.url);
  it.runIf(existsSync(built))('leaves no process behind when its reader is killed', async () => {
    const code = `const { ImageServer } = await import(${JSON.stringify(pathToFileURL(built.pathname).href)});
      await ImageServer.open(${JSON.stringify(image)}); process.stdout.write('ready'); setInterval(() => {}, 1000);`;
    const reader = spawn(process.execPath, ['--input-type=module', '-e', code], {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, TMPDIR: folder },
    });
    await new Promise((resolve) => reader.stdout.once('data', resolve));
    expect(await servers()).toBe(1);
    reader.kill('SIGKILL');
    await vi.waitFor(async () => expect(await servers()).toBe(0), { timeout: 30_000, interval: 20 });
  });
});
