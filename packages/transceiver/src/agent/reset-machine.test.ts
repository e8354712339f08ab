/** What a reset throws away and what it keeps: most of all of a disk that is ephemeral here and the person's elsewhere. */
import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DiskMap, type Digest } from '@collective/shared';
import { beforeEach, expect, it, onTestFinished } from 'vitest';
import { BackupFile, type BackupDisk } from '../backup/backup-file.js';
import { BaseFolder, initialState } from '../backup/base-file.js';
import { openHome, type Home } from '../home.js';
import { readJsonLines, writeJsonLine } from '../machine/json-lines.js';
import { field } from '../machine/qmp-client.js';
import { SUPERVISOR_PROTOCOL } from '../supervisor/supervisor-protocol.js';
import { resetMachine } from './reset-machine.js';
import { Subscription } from './subscription.js';

const digest = (digit: string): Digest => digit.repeat(64) as Digest;
const shape = { diskBytes: 1 << 20, blockBytes: 4_096 };
let home: Home;
let extraBase: Digest;

/** A supervisor that has no machine. */
const supervisor = async (): Promise<void> => {
  const server = net.createServer((socket) => {
    readJsonLines(socket, {
      lineBytesMax: 1 << 20,
      onValue: (value) => {
        const id = field(value, 'id');
        if (field(value, 'method') === 'discard')
          writeJsonLine(socket, { id, error: { code: 'not-found', message: 'none', data: {} } });
        else writeJsonLine(socket, { id, result: { pid: 1, protocol: SUPERVISOR_PROTOCOL, machines: [] } });
      },
    });
  });
  await new Promise<void>((resolve) => server.listen(home.supervisorSocket, resolve));
  onTestFinished(() => void server.close());
};

const overlay = (disk: string, ...more: string[]): string =>
  join(home.machinesDirectory, 'tiny', 'overlays', disk, ...more);

/** Layers of `user` and of the ephemeral `extra` and `scratch`; a snapshot of the person's `extra` has come from elsewhere. */
beforeEach(async () => {
  const folder = await mkdtemp(join(tmpdir(), 'collective-reset-'));
  onTestFinished(async () => rm(folder, { recursive: true, force: true }));
  home = await openHome(join(folder, 'h'), { XDG_RUNTIME_DIR: folder });
  await supervisor();
  const subscription = await Subscription.open(home.machinesDirectory, 'tiny');
  for (const [name, kind] of [
    ['user', 'user'],
    ['extra', 'ephemeral'],
    ['scratch', 'ephemeral'],
  ] as const)
    await subscription.keptDisk(
      { description: { name, kind, bus: 'virtio', root: null, ...shape }, map: DiskMap.empty(shape) } as never,
      1,
    );
  for (const name of ['user', 'extra', 'scratch', 'system']) {
    await mkdir(overlay(name, 'layers', 'one'), { recursive: true });
    await writeFile(overlay(name, 'layers', 'one', 'data'), name);
    await writeFile(overlay(name, 'overlay.json'), '{}');
  }
  const bases = await BaseFolder.open(overlay('extra'));
  const state = initialState(shape, false);
  const file = { format: 1, subscription: 'a'.repeat(32), number: 3, ...shape, root: state.build().root } as const;
  const maps = [await bases.putMap(state.changesSince(undefined))];
  extraBase = (await bases.putBase({ ...file, maps, base: null, objects: [] })).name;
  const disk = { isAttached: true, bus: 'virtio', base: null, ...shape } as const;
  const disks: BackupDisk[] = [
    { name: 'user', ...disk, committed: null },
    { name: 'extra', ...disk, committed: { root: file.root, base: extraBase }, mustBegin: true },
  ];
  await BackupFile.create(join(home.machinesDirectory, 'tiny'), {
    ...{ format: 1, subscription: 'a'.repeat(32), appliance: 'tiny', isRegistered: true, periodSeconds: 30, disks },
    ...{ writer: { appliance: 'tiny', version: 1, manifest: digest('4') }, toPin: [], head: null, objects: [] },
    ...{ mustResend: false, mustCommit: false, lease: null, pending: null, next: [], apart: null },
  });
});

it('what is only here goes, the person’s disk stays as it is', async () => {
  await resetMachine(home, 'tiny');
  expect((await readdir(overlay(''))).sort()).toEqual(['extra', 'user']);
  expect(await readFile(overlay('user', 'layers', 'one', 'data'), 'utf8')).toBe('user');
  expect(await readdir(overlay('user'))).toContain('overlay.json');
});

// Seen in review: what the ephemeral disk held stayed until the next start, because the backup knows a disk of that name.
it('of a disk that must begin the ephemeral layers go, and the base over which the person’s begins stays; again is the same', async () => {
  for (let times = 0; times < 2; times += 1) await resetMachine(home, 'tiny');
  expect((await readdir(overlay('extra'))).sort()).toEqual(['bases', 'maps']);
  const bases = await BaseFolder.open(overlay('extra'));
  const { file } = await bases.base(extraBase);
  expect((await bases.state(file)).build().root).toBe(file.root);
  const state = (await BackupFile.open(join(home.machinesDirectory, 'tiny')))?.state;
  expect(state?.disks[1]).toMatchObject({ mustBegin: true, committed: { base: extraBase } });
});
