/**
 * The boot trace of a user disk by the command line, with real (tiny) guests: what a boot here reads of it is asked for on another transceiver of the
 * person before the guest there has run an instruction; and the files of neither side show it.
 */
import { readdir, readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { decodeSnapshotManifest, openEnvelope, PAYLOAD_TYPES } from '@collective/shared';
import { ControlClient } from '@collective/transceiver';
import { runOrThrow } from '../support/child.js';
import { Person } from '../support/collective.js';
import { onConsole } from '../support/console-shell.js';
import { eventually } from '../support/eventually.js';
import { BUILD, ROOT } from '../support/paths.js';
import { RepositoryFixture } from './repository-fixture.js';

const START = ['start', 'tiny', '--accel', 'tcg'];
const AND_WAIT = ['--wait-for', 'TINY READY', '--wait-seconds', '240'];
const TRACE = 'machines/tiny/traces/user.private';
/** The boot is over 20 s after its last new block. */
const OVER_MS = 200_000;

let fixture: RepositoryFixture;
let pat: Person;
let second: Person;

beforeAll(async () => {
  const image = path.join(BUILD, 'images', 'tiny');
  await runOrThrow('bash', [path.join(ROOT, 'images', 'tiny', 'build.sh'), image], { timeoutMs: 280_000 });
  fixture = await RepositoryFixture.open();
  pat = await Person.temporary();
  second = await Person.temporary();
  await pat.login(await fixture.server.invite('pat', 'publisher'), 'pat');
  await fixture.server.allow('pat', 'tiny');
  await pat.json(['publish', 'tiny', '--machine', path.join(image, 'appliance.json'), '--no-boot-test']);
});
afterAll(async () => {
  for (const each of [pat, second, fixture]) await each[Symbol.asyncDispose]();
});

/** The chunk that the newest snapshot names. */
const named = async (): Promise<string | undefined> => {
  const users = path.join(fixture.folder, 'users');
  const files = (await readdir(users, { recursive: true })).filter((name) => /\/[0-9]+\/manifest$/.test(name));
  const all = await Promise.all(
    files.map(async (name) => {
      const { payload } = openEnvelope(await readFile(path.join(users, name)), { payloadType: PAYLOAD_TYPES.snapshot });
      return decodeSnapshotManifest(payload);
    }),
  );
  const newest = all.sort((a, b) => a.number - b.number).at(-1);
  return newest?.disks.find(({ name }) => name === 'user')?.trace;
};

it('a boot leaves a sealed trace, which goes with the next snapshot', async () => {
  await pat.json([...START, ...AND_WAIT]);
  const write = 'head -c 300000 /dev/urandom >/home/file; sync; echo writ""ten';
  await onConsole(pat, 'tiny', { command: write, expected: /written/ });
  await pat.json(['stop', 'tiny']);
  // What a boot wrote itself it need not have from anywhere: the next one reads it.
  await rm(path.join(pat.home, TRACE), { force: true });
  await pat.json([...START, ...AND_WAIT]);
  await onConsole(pat, 'tiny', { command: 'cat /home/file >/dev/null; echo re""ad', expected: /read/ });
  const box = await eventually('the trace', OVER_MS, async () =>
    readFile(path.join(pat.home, TRACE)).catch(() => undefined),
  );
  expect(box.includes(Buffer.from('CTR'))).toBe(false);
  await pat.json(['snapshots', 'take', 'tiny']);
  await pat.json(['stop', 'tiny']);
  await eventually('a snapshot names it', OVER_MS, named);
});

it('on another transceiver its blocks are asked for while the guest stands still', async () => {
  await second.login(fixture.adminLink.replace(/\.invite\..*$/, ''), 'pat');
  await second.json(START);
  const record = await readFile(path.join(second.home, 'machines/tiny/machine.json'), 'utf8');
  const { pid } = (JSON.parse(record) as { readonly qemu: { readonly pid: number } }).qemu;
  process.kill(pid, 'SIGSTOP');
  try {
    expect((await readFile(path.join(second.home, TRACE))).length).toBeGreaterThan(88);
    const blockd = await ControlClient.connect(path.join(second.home, 'run/blockd.sock'));
    try {
      // The file alone has nineteen blocks.
      await eventually('private blocks are in the cache', 120_000, async () => {
        const { private: own } = await blockd.request('status', {});
        return (own?.cache.filled ?? 0) > 15 ? true : undefined;
      });
    } finally {
      blockd.close();
    }
  } finally {
    process.kill(pid, 'SIGCONT');
  }
  await second.json(['stop', 'tiny', '--force']);
});
