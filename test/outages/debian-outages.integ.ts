/**
 * The same with the real appliance and the whole product in front of it: Debian loses the link while its kernel starts, by
 * silence, and again after login, by closed connections. Its journal says whether it noticed; its clock is right afterwards.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { GuestShell } from '../kills/guest-shell.js';
import { bytesFetched, DEBIAN, DEBIAN_OPEN_MS, DebianRepository } from '../support/debian.js';
import { eventually } from '../support/eventually.js';
import { Link } from '../support/link.js';
import { expectPromised } from '../support/promise-time.js';
import { expectNoDiskErrors } from './disk-errors.js';
import { liveThrough, type Lived } from './live-through.js';

/** A minute in the long version; the main job's test (test/end-to-end) has one of a minute as well. */
const OUTAGE_MS = process.env['OUTAGES'] === 'full' ? 60_000 : 10_000;
const BOOT_MS = 600_000;
const ANSWER_MS_MAX = 1_000;
const GOES_ON_MS_MAX = 3_000;
const CLOCK_MS_MAX = 2_000;
/** Boot loader, kernel and initrd are 15 MB of what is fetched, the rest of the boot is twice as much: at 18 MB the kernel reads its root. */
const KERNEL_RUNS_BYTES = 18e6;

let debian: DebianRepository;

beforeAll(async () => {
  debian = await DebianRepository.open();
}, DEBIAN_OPEN_MS);

afterAll(async () => {
  await debian[Symbol.asyncDispose]();
});

const judge = ({ answers, commandMs, goesOnAfterMs, before, after }: Lived): void => {
  expectPromised('status', answers.statusMs, ANSWER_MS_MAX, before, after);
  expectPromised('the display', answers.displayMs, ANSWER_MS_MAX, before, after);
  expectPromised('a picture of the screen', answers.screendumpMs, ANSWER_MS_MAX, before, after);
  expectPromised('collective status', commandMs, ANSWER_MS_MAX, before, after);
  expectPromised('going on', goesOnAfterMs, GOES_ON_MS_MAX, before, after);
};

test('Debian lives through an outage in its kernel, and another after login', async () => {
  await using link = await Link.open({ toPort: debian.repository.port, profile: 'lan' });
  await using person = await debian.person('paula', link);
  await person.json(['start', DEBIAN]);
  await using console = person.spawn(['console', DEBIAN]);
  await eventually('the kernel reads its root', BOOT_MS, async () =>
    (await bytesFetched(person)) > KERNEL_RUNS_BYTES ? true : undefined,
  );
  expect(console.stdout).not.toMatch(/login: /);
  const inKernel = await liveThrough(person, link, { kind: 'silence', outageMs: OUTAGE_MS });
  globalThis.console.log('in the kernel, by silence:', JSON.stringify(inKernel));
  await console.waitFor(/login: /, BOOT_MS);
  const guest = await GuestShell.open(person.home, DEBIAN, BOOT_MS);

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
  const afterLogin = await liveThrough(person, link, { kind: 'reset', outageMs: OUTAGE_MS });
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
  expectNoDiskErrors(await guest.check('journalctl -b --no-pager -o short-monotonic; dmesg'));
  globalThis.console.log(
    `clock off by at most ${offAfterKernelMs} ms after the kernel's pause, ${offAfterLoginMs} ms after the other`,
  );
  for (const lived of [inKernel, afterLogin]) judge(lived);
  await person.json(['stop', DEBIAN]);
}, 3_000_000);
