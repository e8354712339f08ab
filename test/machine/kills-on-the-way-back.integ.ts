/**
 * kill -9 of supervisor and block daemon while the one that was killed before is on its way back: started, not yet served, about to attach its
 * disks. Each time the guest, which writes and compares all the time, goes on by itself in the same QEMU.
 *
 * The kills suite (test/kills) waits after each kill until the guest goes on, so it does not hit these moments. KILLS_SEED says which.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { Random } from '../simulation/random.js';
import { eventually, type MachineLab, withLab } from './machine-lab.js';

const ROUNDS = Number(process.env['KILLS_ROUNDS'] ?? 8);
const SEED = Number(process.env['KILLS_SEED'] ?? 1);
/** A daemon that was killed serves again, and its disks are attached, within this time. */
const BACK_MS = 1_500;
const GOES_ON_MS = 120_000;

/** Each round writes a file of its own content to the user disk, drops it from memory and compares; and reads the system disk. */
const CHECK_FOR_EVER = [
  'i=0; while true; do i=$((i+1))',
  '(echo $i; dd if=/dev/urandom bs=4096 count=16 2>/dev/null) >/tmp/w && cp /tmp/w /home/w && sync && echo 3 >/proc/sys/vm/drop_caches && cmp /tmp/w /home/w || echo BA""D $i',
  'dd if=/dev/vda of=/dev/null bs=65536 skip=$((i * 37 % 700)) count=2 2>/dev/null || echo BA""D read $i',
  'echo ro""und=$i; done',
].join('; ');

const PROGRAMS = { blockd: '/dist/blockd/main.js', supervisor: '/dist/supervisor/main.js' } as const;

/** False when there is none just now. */
const kill = async (lab: MachineLab, who: keyof typeof PROGRAMS): Promise<boolean> => {
  const line = (await lab.processes()).find((each) => each.includes(PROGRAMS[who]));
  if (line === undefined) return false;
  await lab.kill(Number(line.split(' ')[0])).catch(() => undefined);
  return true;
};

test(`supervisor and block daemon are killed again on their way back, ${ROUNDS} times (KILLS_SEED=${SEED}): the guest goes on each time`, () =>
  withLab(async (lab) => {
    const random = new Random(SEED);
    await lab.start('one');
    let console = await lab.console('one');
    await console.sees(/TINY READY/);
    const { qemuPid } = await lab.status('one');
    console.type(CHECK_FOR_EVER);
    await console.sees(/round=2\r/);
    const killed = { blockd: 0, supervisor: 0 };
    for (let round = 1; round <= ROUNDS; round += 1) {
      const steps: string[] = [];
      const step = async (who: keyof typeof PROGRAMS): Promise<void> => {
        const isKilled = await kill(lab, who);
        if (isKilled) killed[who] += 1;
        steps.push(`${who} ${isKilled ? 'killed' : 'is away'}`);
        const waitMs = random.int(BACK_MS);
        await delay(waitMs);
        steps.push(`${waitMs} ms`);
      };
      await step('blockd');
      await step('supervisor');
      await lab.reconnect();
      if (random.chance(0.5)) await step(random.pick(['blockd', 'supervisor']));
      await lab.reconnect();
      await eventually('the machine is there', async () => (await lab.state('one')).name !== 'preparing');
      const told = `round ${round}: ${steps.join(', ')}`;
      console = await lab.console('one');
      // What a supervisor that lived on has kept of before does not count.
      const fromNow = await lab.console('one', { tailBytes: 0 });
      await fromNow.sees(/round=\d+\r/, 3, GOES_ON_MS).catch(async (error: unknown) => {
        throw new Error(`${told}: ${JSON.stringify(await lab.status('one'))}`, { cause: error });
      });
      await console.sees(/round=\d+\r/, 3, GOES_ON_MS);
      expect(console.text, told).not.toContain('BAD');
      expect(await lab.status('one'), told).toMatchObject({ state: { name: 'running' }, restarts: 0, qemuPid });
    }
    expect(killed.blockd).toBeGreaterThan(0);
    expect(killed.supervisor).toBeGreaterThan(0);
  }));
