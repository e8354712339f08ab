/**
 * Versions of a real (tiny) guest that bring a user disk and drop it again, by the command line: the disk is saved from its first start on, is
 * in every later snapshot, and is there again when an older version is started, here and on another transceiver. What a version wrote while
 * the repository was away is saved as its own, also when the next one runs by then.
 */
import { copyFile, mkdtemp, readFile, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { PAYLOAD_TYPES, decodeSnapshotManifest, openEnvelope, type SnapshotManifest } from '@collective/shared';
import { runOrThrow } from '../support/child.js';
import { Person } from '../support/collective.js';
import { onConsole as askConsole } from '../support/console-shell.js';
import { eventually } from '../support/eventually.js';
import { BUILD, ROOT } from '../support/paths.js';
import { RepositoryFixture } from './repository-fixture.js';

const READY = 'TINY READY';
let fixture: RepositoryFixture;
let person: Person;
let second: Person;
let folder: string;

beforeAll(async () => {
  const image = path.join(BUILD, 'images', 'tiny');
  await runOrThrow('bash', [path.join(ROOT, 'images', 'tiny', 'build.sh'), image], { timeoutMs: 280_000 });
  folder = await mkdtemp(path.join(os.tmpdir(), 'user-disks-'));
  for (const name of ['system.raw', 'user.raw']) await symlink(path.join(image, name), path.join(folder, name));
  await copyFile(path.join(image, 'appliance.json'), path.join(folder, 'one.json'));
  const extra = Buffer.alloc(1 << 20);
  extra.write('BEGINNING');
  await writeFile(path.join(folder, 'extra.raw'), extra);
  const recipe = JSON.parse(await readFile(path.join(folder, 'one.json'), 'utf8')) as { disks: unknown[] };
  recipe.disks.push({ name: 'extra', kind: 'user', bus: 'virtio', blockBytes: 16_384, file: 'extra.raw' });
  await writeFile(path.join(folder, 'two.json'), JSON.stringify(recipe));
  fixture = await RepositoryFixture.open();
  person = await Person.temporary();
  second = await Person.temporary();
  await person.login(await fixture.server.invite('pat', 'publisher'), 'pat');
  await fixture.server.allow('pat', 'tiny');
});
afterAll(async () => {
  for (const each of [person, second, fixture]) await each[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

const publish = async (recipe: string): Promise<void> => {
  await person.json(['publish', 'tiny', '--machine', path.join(folder, recipe), '--no-boot-test']);
};
const start = async (who: Person, reference: string): Promise<void> => {
  await who.json(['start', reference, '--accel', 'tcg', '--wait-for', READY, '--wait-seconds', '240']);
};
const stop = async (who: Person): Promise<void> => {
  await who.json(['stop', 'tiny']);
};
/** Types a command and waits for what it prints; the pattern must not be in the command. */
const onConsole = async (who: Person, command: string, expected: RegExp): Promise<void> =>
  askConsole(who, 'tiny', { command, expected });
const isSaved = async (who: Person): Promise<void> => {
  await eventually('everything is saved', 240_000, async () => {
    const { machines } = (await who.json(['status'])) as unknown as {
      readonly machines: readonly { readonly data?: { readonly unsavedBytes: number; readonly activity: string } }[];
    };
    const data = machines[0]?.data;
    return data?.unsavedBytes === 0 && data.activity === 'idle' ? true : undefined;
  });
};
/** Of the machine's subscription, in order, as they lie in the repository; what the server takes away meanwhile is not there. */
const manifests = async (): Promise<readonly SnapshotManifest[]> =>
  eventually('the manifests can be read', 60_000, async () =>
    manifestsNow().catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined;
      throw error;
    }),
  );
const manifestsNow = async (): Promise<readonly SnapshotManifest[]> => {
  const users = path.join(fixture.folder, 'users');
  const files = (await readdir(users, { recursive: true })).filter((name) => /\/[0-9]+\/manifest$/.test(name));
  const all = await Promise.all(
    files.map(async (name) => {
      const bytes = await readFile(path.join(users, name));
      return decodeSnapshotManifest(openEnvelope(bytes, { payloadType: PAYLOAD_TYPES.snapshot }).payload);
    }),
  );
  return all.sort((a, b) => a.number - b.number);
};
const newest = async (): Promise<SnapshotManifest> => {
  const last = (await manifests()).at(-1);
  if (last === undefined) throw new Error('nothing is saved');
  return last;
};
const extraOf = ({ disks }: SnapshotManifest): string | null | undefined =>
  disks.find(({ name }) => name === 'extra')?.root;
const readExtra = 'echo "extra is $(head -c 9 /dev/vdc)"';

it('a disk that version 2 brings is saved from its first start on', async () => {
  await publish('one.json');
  await start(person, 'tiny');
  await onConsole(person, 'echo one >/home/file; sync; echo syn""ced', /synced/);
  await stop(person);
  await isSaved(person);
  expect(extraOf(await newest())).toBeUndefined();
  await publish('two.json');
  await start(person, 'tiny');
  await onConsole(person, `cat /home/file; ${readExtra}`, /one[^]*extra is BEGINNING/);
  await onConsole(person, 'echo WRITTEN-2 >/dev/vdc; sync; echo syn""ced2', /synced2/);
  await person.json(['snapshots', 'take', 'tiny']);
  expect(await newest()).toMatchObject({ writtenBy: { version: 2 } });
  expect(extraOf(await newest())).toBeDefined();
  await stop(person);
  await isSaved(person);
});

it('version 3 drops it: snapshots go on while it runs, and carry the disk along', async () => {
  const before = extraOf(await newest());
  await publish('one.json');
  await start(person, 'tiny');
  await onConsole(
    person,
    'ls /dev/vdc; cat /home/file; echo three >/home/file; sync; echo syn""ced3',
    /No such[^]*synced3/,
  );
  await person.json(['snapshots', 'take', 'tiny']);
  expect(await newest()).toMatchObject({ writtenBy: { version: 3 } });
  expect(extraOf(await newest())).toBe(before);
  await stop(person);
  await isSaved(person);
  await person.json(['reset', 'tiny']);
});

it('without the repository version 2 and then 3 run: each is saved as what it wrote, and the older one is pinned', async () => {
  await fixture.server.process.stop('SIGKILL');
  const before = (await manifests()).length;
  try {
    await start(person, 'tiny@2');
    await onConsole(person, readExtra, /extra is WRITTEN-2/);
    await onConsole(person, 'echo OFFLINE-2 >/dev/vdc; sync; echo syn""ced4', /synced4/);
    await stop(person);
    await start(person, 'tiny@3');
    await onConsole(person, 'echo four >/home/file; sync; echo syn""ced5', /synced5/);
  } finally {
    await fixture.server.restart();
  }
  await person.json(['snapshots', 'take', 'tiny']);
  await eventually('both are saved', 240_000, async () =>
    (await newest()).writtenBy.version === 3 && (await manifests()).length > before ? true : undefined,
  );
  const added = (await manifests()).slice(before);
  expect([...new Set(added.map(({ writtenBy }) => writtenBy.version))]).toEqual([2, 3]);
  const last2 = added.filter(({ writtenBy }) => writtenBy.version === 2).at(-1);
  expect(extraOf(added.at(-1) as SnapshotManifest)).toBe(extraOf(last2 as SnapshotManifest));
  await stop(person);
  await isSaved(person);
  await eventually('it is pinned', 240_000, async () => {
    const reply = await person.json(['snapshots', 'tiny']);
    const rows = reply['snapshots'] as readonly { readonly number: number; readonly pinned: boolean }[];
    return rows.find(({ number }) => number === last2?.number)?.pinned === true ? true : undefined;
  });
});

it('another transceiver has the disk when it starts the older version', async () => {
  await second.login(fixture.adminLink.replace(/\.invite\..*$/, ''), 'pat');
  await start(second, 'tiny@2');
  await onConsole(second, `cat /home/file; ${readExtra}`, /four[^]*extra is OFFLINE-2/);
  await stop(second);
  await isSaved(second);
});
