/**
 * Boot traces by the command line, with real (tiny) guests: the first boot anywhere is told to the repository, the next one has its blocks fetched ahead of
 * the guest, and who does not want to tell does not.
 */
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { decodeBootTrace } from '@collective/shared';
import { ControlClient } from '@collective/transceiver';
import { runOrThrow } from '../support/child.js';
import { Person } from '../support/collective.js';
import { eventually } from '../support/eventually.js';
import { BUILD, ROOT } from '../support/paths.js';
import { RepositoryFixture } from './repository-fixture.js';

const START = ['start', 'tiny', '--accel', 'tcg'];
const AND_WAIT = ['--wait-for', 'TINY READY', '--wait-seconds', '240'];
/** The boot is over 20 s after its last new block, and what it left is looked for every 30 s. */
const TOLD_MS = 200_000;

let fixture: RepositoryFixture;
let ada: Person;
let ben: Person;

beforeAll(async () => {
  const image = path.join(BUILD, 'images', 'tiny');
  await runOrThrow('bash', [path.join(ROOT, 'images', 'tiny', 'build.sh'), image], { timeoutMs: 280_000 });
  fixture = await RepositoryFixture.open();
  ada = await Person.temporary();
  ben = await Person.temporary();
  await ada.login(await fixture.server.invite('ada', 'publisher'), 'ada');
  await fixture.server.allow('ada', 'tiny');
  await ada.json(['publish', 'tiny', '--machine', path.join(image, 'appliance.json'), '--no-boot-test']);
  await ben.login(await fixture.server.invite('ben', 'user', { appliances: ['tiny'] }), 'ben');
});
afterAll(async () => {
  await ada[Symbol.asyncDispose]();
  await ben[Symbol.asyncDispose]();
  await fixture[Symbol.asyncDispose]();
});

const votes = async (): Promise<string[]> =>
  (await readdir(path.join(fixture.folder, 'appliances/tiny/1/traces/system')).catch(() => [])).filter(
    (name) => name !== 'use', // of sessions (docs/formats/use.md)
  );
const tracesOf = async (person: Person): Promise<string[]> =>
  (await readdir(path.join(person.home, 'machines/tiny/traces'))).filter((name) => !name.endsWith('.private')).sort();

const qemuOf = async (person: Person): Promise<number> => {
  const record = await readFile(path.join(person.home, 'machines/tiny/machine.json'), 'utf8');
  return (JSON.parse(record) as { readonly qemu: { readonly pid: number } }).qemu.pid;
};

it('a boot is told to the repository once it is over', async () => {
  await ada.json([...START, ...AND_WAIT]);
  await eventually('a vote', TOLD_MS, async () => ((await votes()).length === 1 ? true : undefined));
  expect(await tracesOf(ada)).toEqual([]);
  await ada.json(['stop', 'tiny', '--force']);
});

it('the next boot has its blocks fetched while its guest stands still; who does not tell does not', async () => {
  expect(await ben.json(['settings', '--tell-traces', 'off'])).toMatchObject({ tellTraces: false });
  await ben.json(START);
  const qemu = await qemuOf(ben);
  process.kill(qemu, 'SIGSTOP');
  try {
    expect(await tracesOf(ben)).toEqual(['system']);
    const { touches } = decodeBootTrace(await readFile(path.join(ben.home, 'machines/tiny/traces/system')));
    expect(touches.length).toBeGreaterThan(20);
    const blockd = await ControlClient.connect(path.join(ben.home, 'run/blockd.sock'));
    try {
      await eventually('the blocks of the trace', 120_000, async () => {
        const { cache, fetch } = await blockd.request('status', {});
        // Where equal blocks lie in several places there are fewer.
        return cache.filled > touches.length * 0.9 && fetch.queued.trace + fetch.outstanding.trace === 0
          ? true
          : undefined;
      });
    } finally {
      blockd.close();
    }
  } finally {
    process.kill(qemu, 'SIGCONT');
  }
  await eventually('the trace of this boot', TOLD_MS, async () =>
    (await tracesOf(ben)).includes('system.recorded') ? true : undefined,
  );
  await eventually('its end', TOLD_MS, async () =>
    (await tracesOf(ben)).includes('system.recorded') ? undefined : true,
  );
  expect(await votes()).toHaveLength(1);
  await ben.json(['stop', 'tiny', '--force']);
});
