import { EventEmitter } from 'node:events';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { openHome, type Home } from '../home.js';
import { SupervisorKeeper } from './supervisor-keeper.js';

let folder: string;
let home: Home;

beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'keeper-'));
  home = await openHome(path.join(folder, 'home'), { XDG_RUNTIME_DIR: folder });
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const addRecord = async (): Promise<void> => {
  await mkdir(path.join(home.machinesDirectory, 'one'), { recursive: true });
  await writeFile(path.join(home.machinesDirectory, 'one', 'machine.json'), '{}');
};

class FakeClient extends EventEmitter<{ close: [] }> {
  closed = false;
  readonly asked: unknown[] = [];
  request = (...words: unknown[]): Promise<object> => {
    this.asked.push(words);
    return Promise.resolve({});
  };
  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.emit('close');
  }
}

it('nothing is started while there is no machine, and a start makes it look again', async () => {
  const opened: FakeClient[] = [];
  const open = vi.fn(async () => {
    const client = new FakeClient();
    opened.push(client);
    return client as never;
  });
  const keeper = new SupervisorKeeper(home, { open, retryMs: 1 });
  await addRecord();
  keeper.wake();
  await vi.waitFor(() => expect(opened).toHaveLength(1), { timeout: 20_000 });
  await keeper.close();
  expect(opened[0]?.closed).toBe(true);
});

it('a supervisor that dies while a machine is there is opened again, also after an attempt that failed', async () => {
  await addRecord();
  const opened: FakeClient[] = [];
  let calls = 0;
  const open = vi.fn(async () => {
    calls += 1;
    if (calls === 2) throw new Error('not yet');
    const client = new FakeClient();
    opened.push(client);
    return client as never;
  });
  const keeper = new SupervisorKeeper(home, { open, retryMs: 1 });
  await vi.waitFor(() => expect(opened).toHaveLength(1), { timeout: 20_000 });
  opened[0]?.close();
  await vi.waitFor(() => expect(opened).toHaveLength(2), { timeout: 20_000 });
  await keeper.close();
  expect(calls).toBe(3);
});

it('a supervisor that ends after its last machine is left alone', async () => {
  await addRecord();
  const opened: FakeClient[] = [];
  const open = vi.fn(async () => {
    const client = new FakeClient();
    opened.push(client);
    return client as never;
  });
  const keeper = new SupervisorKeeper(home, { open, retryMs: 1 });
  await vi.waitFor(() => expect(opened).toHaveLength(1), { timeout: 20_000 });
  await rm(path.join(home.machinesDirectory, 'one'), { recursive: true });
  opened[0]?.close();
  await keeper.close();
  expect(open).toHaveBeenCalledTimes(1);
});
