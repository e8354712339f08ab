/**
 * The same with the real appliance and the whole product in front of it: Debian loses the link while its kernel starts, by
 * silence, and again after login, by closed connections. Its journal says whether it noticed; its clock is right afterwards.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openHome, SupervisorClient } from '@collective/transceiver';
import { GuestShell } from '../kills/guest-shell.js';
import { runOrThrow } from '../support/child.js';
import { Person, Repository, repositoryCommand } from '../support/collective.js';
import { eventually } from '../support/eventually.js';
import { Link } from '../support/link.js';
import { BUILD, ROOT } from '../support/paths.js';
import { awakeMs, crowding } from '../support/promise-time.js';
import { diskErrors } from './disk-errors.js';
import { Probes, type Answers } from './probes.js';

const NAME = 'debian-server';
/** A minute in the long version; the main job's test (test/end-to-end) has one of a minute as well. */
const OUTAGE_MS = process.env['OUTAGES'] === 'full' ? 60_000 : 10_000;
const BOOT_MS = 600_000;
const ANSWER_MS_MAX = 1_000;
const GOES_ON_MS_MAX = 3_000;
const CLOCK_MS_MAX = 2_000;
/** Boot loader, kernel and initrd are 15 MB of what is fetched, the rest of the boot is twice as much: at 18 MB the kernel reads its root. */
const KERNEL_RUNS_BYTES = 18e6;

let folder: string;
let repository: Repository;

beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'debian-outages-'));
  const out = path.join(BUILD, 'images', NAME);
  await runOrThrow('bash', [path.join(ROOT, 'images', NAME, 'build.sh'), out], { timeoutMs: 900_000 });
  await repositoryCommand(['init', path.join(folder, 'repository')]);
  repository = await Repository.serve(path.join(folder, 'repository'));
  await using publisher = await Person.temporary();
  await publisher.login(await repository.invite('publisher', 'publisher'), 'publisher');
  await repository.allow('publisher', NAME);
  await publisher.json(['publish', NAME, '--machine', path.join(out, 'appliance.json'), '--no-boot-test'], {
    timeoutMs: 600_000,
  });
}, 1_800_000);

afterAll(async () => {
  await repository[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

type Lived = {
  readonly answers: Answers;
  readonly commandMs: number;
  readonly goesOnAfterMs: number;
  readonly crowded: number;
};

/** The link goes away, stays away, and comes back; resolves when the machine runs again. */
const liveThrough = async (person: Person, link: Link, kind: 'reset' | 'silence'): Promise<Lived> => {
  const home = await openHome(person.home);
  const client = await SupervisorClient.connect(home);
  try {
    const machine = (await client.request('status', {})).machines[0]?.machine ?? '';
    const crowded = crowding();
    if (kind === 'reset') link.down();
    else link.silence();
    const cutAtMs = performance.now();
    await using probes = await Probes.begin(home, machine);
    await client.waitForState(machine, ({ name }) => name === 'paused', AbortSignal.timeout(120_000));
    const askedAtMs = awakeMs();
    const { machines } = (await person.json(['status'])) as unknown as {
      readonly machines: readonly { readonly state: string; readonly pausedWhy?: string }[];
    };
    const commandMs = Math.round(awakeMs() - askedAtMs);
    expect(machines[0]).toMatchObject({ state: 'paused', pausedWhy: expect.stringMatching(/block|failed/) as unknown });
    await eventually('the outage is over', OUTAGE_MS + 60_000, async () => {
      const { state } = (await client.request('status', {})).machines[0] ?? { state: undefined };
      expect(state).toMatchObject({ name: 'paused', cause: 'disk' });
      return performance.now() - cutAtMs >= OUTAGE_MS ? true : undefined;
    });
    const answers = await probes.end();
    const running = client.waitForState(machine, ({ name }) => name === 'running', AbortSignal.timeout(120_000));
    link.up();
    const backAtMs = awakeMs();
    await running;
    const goesOnAfterMs = Math.round(awakeMs() - backAtMs);
    return { answers, commandMs, goesOnAfterMs, crowded: Math.max(crowded, crowding()) };
  } finally {
    client.close();
  }
};

const judge = ({ answers, commandMs, goesOnAfterMs, crowded }: Lived): void => {
  expect(answers.statusMs, 'status').toBeLessThan(ANSWER_MS_MAX * crowded);
  expect(answers.displayMs, 'the display').toBeLessThan(ANSWER_MS_MAX * crowded);
  expect(answers.screendumpMs, 'a picture of the screen').toBeLessThan(ANSWER_MS_MAX * crowded);
  expect(commandMs, 'collective status').toBeLessThan(ANSWER_MS_MAX * crowded);
  expect(goesOnAfterMs, 'going on').toBeLessThan(GOES_ON_MS_MAX * crowded);
};

test('Debian lives through an outage in its kernel, and another after login', async () => {
  await using link = await Link.open({ toPort: repository.port, profile: 'lan' });
  await using person = await Person.temporary();
  await person.login(await repository.invite('paula', 'user', { appliances: [NAME], throughPort: link.port }), 'paula');
  await person.json(['start', NAME]);
  await using console = person.spawn(['console', NAME]);
  await eventually('the kernel reads its root', BOOT_MS, async () => {
    const { blockd } = (await person.json(['status'])) as { readonly blockd?: { readonly fetchedBytes?: number } };
    return (blockd?.fetchedBytes ?? 0) > KERNEL_RUNS_BYTES ? true : undefined;
  });
  expect(console.stdout).not.toMatch(/login: /);
  const inKernel = await liveThrough(person, link, 'silence');
  globalThis.console.log('in the kernel, by silence:', JSON.stringify(inKernel));
  await console.waitFor(/login: /, BOOT_MS);
  const guest = await GuestShell.open(person.home, NAME, BOOT_MS);

  /** How far the guest's clock is from ours; how long the question took bounds the error. */
  const clockOffMs = async (): Promise<number> => {
    const beforeMs = Date.now();
    const guestMs = Number(await guest.check('date +%s%3N'));
    const afterMs = Date.now();
    return guestMs < beforeMs ? beforeMs - guestMs : Math.max(0, guestMs - afterMs);
  };
  const clockIsRight = async (): Promise<number> => {
    let offMs = Number.POSITIVE_INFINITY;
    await eventually('the clock of the guest is right', BOOT_MS, async () => {
      offMs = await clockOffMs();
      return offMs < CLOCK_MS_MAX ? true : undefined;
    }).catch((error: unknown) => {
      throw new Error(`the guest's clock is ${offMs} ms off`, { cause: error });
    });
    return offMs;
  };
  const offAfterKernelMs = await clockIsRight();

  // Work that reads what has never been read, and writes: it is in the middle of both when the link goes.
  await guest.check(
    "mount -o remount,rw / || true; systemd-run --unit=work --collect bash -c 'find /usr -xdev -type f -print0 | sort -z | xargs -0 sha256sum >/run/sums; for i in $(seq 200); do echo $i >>/home/log; done; sync; touch /run/done'",
  );
  await eventually('the work reads', BOOT_MS, async () =>
    (await guest.run('test -e /run/sums')).code === 0 ? true : undefined,
  );
  const afterLogin = await liveThrough(person, link, 'reset');
  globalThis.console.log('after login, by reset:', JSON.stringify(afterLogin));
  const offAfterLoginMs = await clockIsRight();
  await eventually('the work is done', BOOT_MS, async () =>
    (await guest.run('test -e /run/done')).code === 0 ? true : undefined,
  );
  // The packages' own checksums are the judge of what was read.
  expect(
    await guest.check(
      'cd / && cat /var/lib/dpkg/info/*.md5sums | md5sum -c --quiet --ignore-missing 2>&1 | head; tail -n 1 /home/log',
    ),
  ).toMatch(/^200\s*$/);
  const journal = await guest.check('journalctl -b --no-pager -o short-monotonic; dmesg');
  expect(journal).toContain('Linux version');
  expect(diskErrors(journal)).toEqual([]);
  globalThis.console.log(
    `clock off by at most ${offAfterKernelMs} ms after the kernel's pause, ${offAfterLoginMs} ms after the other`,
  );
  for (const lived of [inKernel, afterLogin]) judge(lived);
  await person.json(['stop', NAME]);
}, 3_000_000);
