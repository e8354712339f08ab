/**
 * kill -9 of block daemon, agent, supervisor and repository server, one or two at once, while a Debian guest installs packages
 * and fio writes and verifies: the guest goes on after each, and afterwards nothing is lost, mixed or wrong. Everything is
 * real and driven by the command line; the judges are fio, dpkg, e2fsck, and the md5sums of what is in the packages.
 *
 * KILLS=n kills, KILLS_SEED=s their order and fio's; KILLS_REPORT=file gets the counts (soak). A seed replays who is
 * killed in which order after which pause, not the instruction that it hits.
 */
import { writeFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { run } from '../support/child.js';
import { eventually } from '../support/eventually.js';
import { Random } from '../simulation/random.js';
import { killPoints, VICTIMS, type Victim } from './kill-plan.js';
import type { GuestShell } from './guest-shell.js';
import { FIELD_BYTES, KillsLab } from './kills-lab.js';
import { fileSystemIsClean, installedFilesAreRight, sectorsAreWhole } from './outside-check.js';
import { Victims } from './victims.js';
import { fioPass, fioSeedBytes, PACKAGE_SETS, Workload } from './workload.js';

const number = (name: string, otherwise: number): number => {
  const value = Number(process.env[name] ?? otherwise);
  if (!Number.isInteger(value) || value < 0) throw new Error(`${name} is not a whole number`);
  return value;
};
const KILLS = number('KILLS', 50);
const SEED = number('KILLS_SEED', 1);
/** The many packages of the long run take longer than 50 kills do. */
const SETS = KILLS > 50 ? PACKAGE_SETS : PACKAGE_SETS.slice(0, 2);
/** Generous: the machine may be used by others. A step that hangs fails by its own name long before. */
const KILL_MS = 60_000;

export type KillCounts = Record<Victim, number>;

const GOES_ON_MS = 120_000;
const WRITES_SEEN = 5;

const DISK_TROUBLE =
  /I\/O error|blk_update_request|Buffer I\/O|EXT4-fs (error|warning)|JBD2: .*error|task .* blocked for more than|virtio.*timeout|Remounting filesystem read-only/i;

/** Five writes of the guest's heart, spread over time: more than what was under way when it was hit. */
const keepsWriting = async (lab: KillsLab, after: string): Promise<void> => {
  const seen = new Set([await lab.lastWriteMs()]);
  const first = performance.now();
  await eventually(`the guest goes on writing after ${after}`, GOES_ON_MS, async () => {
    seen.add(await lab.lastWriteMs());
    return seen.size > WRITES_SEEN && performance.now() - first > 500 ? true : undefined;
  });
};

/** Asking the guest itself how apt and fio are costs it more than a heartbeat. */
const isLookedInto = (killed: number): boolean => killed % 5 === 0;

const installedFromShelf = async (guest: GuestShell, shelfContents: string): Promise<string[]> => {
  const shelf = new Set(shelfContents.split('\n').map((line) => line.split('  ')[0]));
  const text = await guest.check("dpkg-query -W -f '${db:Status-Abbrev}\\t${Package}\\n'");
  const rows = text.split('\n').map((line) => line.split('\t'));
  return rows.flatMap(([status = '', name = '']) => (status.startsWith('ii') && shelf.has(name) ? [name] : []));
};

it(
  `${KILLS} kills of block daemon, agent, supervisor and server (KILLS_SEED=${SEED}): apt and fio in the guest go on, file systems are clean, what was installed and written is right`,
  async () => {
    const random = new Random(SEED);
    const began = performance.now();
    const say = (text: string): void =>
      console.log(`kills, ${((performance.now() - began) / 1000).toFixed(0)} s: ${text}`);
    await using lab = await KillsLab.open(SEED);
    const counts: KillCounts = { blockd: 0, agent: 0, supervisor: 0, server: 0 };
    let killed = 0;
    let duringFio = 0;
    /** Until what was killed was back, and from then until the guest had written and flushed anew. */
    const spent = { backMs: 0, goesOnMs: 0 };
    const report = async (more: object = {}): Promise<void> => {
      const { KILLS_REPORT } = process.env;
      if (KILLS_REPORT !== undefined)
        await writeFile(KILLS_REPORT, JSON.stringify({ seed: SEED, killed, duringFio, counts, spent, ...more }));
    };
    let workload: Workload | undefined;
    try {
      const guest = await lab.start();
      say('the guest has booted');
      workload = await Workload.prepare(guest, SEED, SETS);
      await workload.begin();
      const victims = new Victims(lab.person, lab.repository);
      const points = killPoints(random);
      let isFioRunning = false;
      let slowestMs = 0;
      while (killed < KILLS) {
        // The first half hits the first installation; the second half fio, and the installations after it.
        if (killed === KILLS >> 1) {
          await workload.fioHasBegun();
          isFioRunning = true;
        }
        const point = points.next().value;
        await delay(point.afterMs);
        const at = performance.now();
        const who = point.victims.join(' and ');
        await victims.kill(point.victims);
        const backAt = performance.now();
        const what = `kill ${killed + 1}, of ${who}`;
        await keepsWriting(lab, what);
        if (isLookedInto(killed)) isFioRunning = (await workload.goesOn(what)).isFioRunning;
        slowestMs = Math.max(slowestMs, performance.now() - at);
        spent.backMs += Math.round(backAt - at);
        spent.goesOnMs += Math.round(performance.now() - backAt);
        killed += 1;
        duringFio += isFioRunning ? 1 : 0;
        for (const victim of point.victims) counts[victim] += 1;
        await report();
        if (killed % 10 === 0) say(`${killed} kills, ${JSON.stringify(await workload.done())}`);
      }
      const done = await workload.finish();
      say(
        `${killed} kills ${JSON.stringify(counts)}, ${duringFio} of them during fio, the slowest was over after ${Math.round(slowestMs)} ms; ${JSON.stringify(done)}`,
      );
      expect(done.installs).toBeGreaterThanOrEqual(1);
      expect(done.fioPasses).toBeGreaterThanOrEqual(1);
      expect(duringFio).toBeGreaterThanOrEqual(KILLS >> 1);
      for (const victim of VICTIMS) expect(counts[victim]).toBeGreaterThanOrEqual(Math.floor(KILLS / 6));

      // What the guest itself says.
      expect(await guest.check('dpkg --audit')).toBe('');
      const names = await installedFromShelf(guest, lab.shelfContents);
      const verify = `sync; echo 3 >/proc/sys/vm/drop_caches; dpkg --verify ${names.join(' ')}`;
      expect(await guest.check(verify, 300_000)).toBe('');
      expect(await guest.check('journalctl -b -k --no-pager; dmesg')).not.toMatch(DISK_TROUBLE);
      await lab.stop();
      say('the guest has stopped');

      // What lies on its disks.
      const root = await lab.readDisk('root');
      await fileSystemIsClean(root, 1 << 20);
      await fileSystemIsClean(await lab.readDisk('user'));
      const files = await installedFilesAreRight(root, lab.shelfContents);
      const field = await lab.readDisk('field');
      const scratch = await lab.readDisk('scratch');
      const sectors = await sectorsAreWhole(field, lab.field);
      expect(sectors.written + sectors.untouched).toBe(FIELD_BYTES / 512);
      const scratchSectors = await sectorsAreWhole(scratch, undefined);
      const seedHex = fioSeedBytes(done.lastFioSeed).toString('hex');
      const words = fioPass({ field, scratch }, String(done.lastFioSeed), seedHex).split(' ');
      const verified = await run('fio', [...words, '--verify_only'], { cwd: lab.folder });
      if (verified.code !== 0)
        throw new Error(`fio --verify_only: ${verified.stdout.slice(-3000)}\n${verified.stderr.slice(-3000)}`);
      expect(files.packages).toBeGreaterThanOrEqual(30);
      expect(sectors.written).toBeGreaterThan(0);
      say(`right: ${JSON.stringify({ files, sectors, scratchSectors })}`);
      await report({ passed: true, slowestMs: Math.round(slowestMs), ...done, files, sectors });
    } catch (error) {
      await report({ passed: false });
      console.error(`KILLS_SEED=${SEED}, after ${killed} kills\n${await lab.logs()}`);
      console.error(await workload?.logs().catch(() => 'the guest says nothing'));
      throw error;
    }
  },
  1_800_000 + KILLS * KILL_MS,
);
