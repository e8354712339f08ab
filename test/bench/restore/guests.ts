/** The two guests that `bench restore` can start: Debian, and for trying the benchmark the tiny one. Each fills its user disk and reads it back. */
import path from 'node:path';
import { GuestShell } from '../../kills/guest-shell.js';
import { runOrThrow } from '../../support/child.js';
import type { Person } from '../../support/collective.js';
import { ConsoleShell } from '../../support/console-shell.js';
import { BUILD, ROOT } from '../../support/paths.js';

const STEP_MS = 900_000;
const DATA = '/home/data';

export type BenchGuest = {
  readonly appliance: string;
  readonly diskBytes: number;
  readonly dataBytes: number;
  /** What `start --wait-for` waits for. */
  readonly prompt: string;
  /** Writes the data, which does not compress, into files on the user disk, durably; gives their checksum. */
  readonly fill: (person: Person) => Promise<string>;
  /** Reads all of it from the disk; gives the checksum. */
  readonly readAll: (person: Person) => Promise<string>;
};

const fillScript = (mebibytes: number): string =>
  `dd if=/dev/urandom of=${DATA} bs=1048576 count=${mebibytes} 2>/dev/null && sync && ${readScript}`;
const readScript = `echo 3 >/proc/sys/vm/drop_caches; md5sum ${DATA} | cut -d' ' -f1`;

const onDebian = async (person: Person, script: string): Promise<string> =>
  (await (await GuestShell.open(person.home, 'debian-server', STEP_MS)).check(script, STEP_MS)).trim();
const onTiny = async (person: Person, script: string): Promise<string> =>
  new ConsoleShell(person, 'tiny').ask(script, { timeoutMs: STEP_MS });

const guestOf = (
  on: typeof onDebian,
  { mebibytes, ...rest }: Omit<BenchGuest, 'fill' | 'readAll' | 'dataBytes'> & { readonly mebibytes: number },
): BenchGuest => ({
  ...rest,
  dataBytes: mebibytes << 20,
  fill: async (person) => on(person, fillScript(mebibytes)),
  readAll: async (person) => on(person, readScript),
});

export const DEBIAN = guestOf(onDebian, {
  ...{ appliance: 'debian-server', diskBytes: 2 ** 30, prompt: 'login', mebibytes: 200 },
});
export const TINY = guestOf(onTiny, { appliance: 'tiny', diskBytes: 64 << 20, prompt: 'TINY READY', mebibytes: 16 });

/** Builds the appliance when it is missing; gives its recipe. */
export const buildRecipe = async ({ appliance }: BenchGuest): Promise<string> => {
  const out = path.join(BUILD, 'images', appliance);
  await runOrThrow('bash', [path.join(ROOT, 'images', appliance, 'build.sh'), out], { timeoutMs: STEP_MS });
  return path.join(out, 'appliance.json');
};
