/**
 * How long suspend and resume of a real guest take, from the request to the supervisor until the machine is suspended, or runs again: a tiny
 * guest as it booted, and one with 256 MiB of memory that is noise, which the memory image must hold. Reported only.
 */
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { MachineLab } from '../../machine/machine-lab.js';
import { informs, interval, median, type BenchCase } from '../bench-result.js';
import { undisturbed } from '../undisturbed.js';

const MACHINE = 'one';
const MEMORY_BYTES = 512 << 20;
const READY = /TINY READY/;
const FILL =
  'mount -t tmpfs -o size=400m none /mnt 2>/dev/null || mkdir -p /mnt; dd if=/dev/urandom of=/mnt/big bs=1048576 count=256 2>/dev/null; echo fil""led';

export const suspendCases = async (quick: boolean, log: (line: string) => void): Promise<BenchCase[]> => {
  await using lab = await MachineLab.open();
  await lab.start(MACHINE, { memoryBytes: MEMORY_BYTES });
  await (await lab.console(MACHINE)).sees(READY);
  const cases: BenchCase[] = [];
  for (const what of ['as booted', '256 MiB of noise'] as const) {
    if (what !== 'as booted') {
      const console = await lab.console(MACHINE);
      console.type(FILL);
      await console.sees(/filled/);
    }
    const suspends: number[] = [];
    const resumes: number[] = [];
    let imageBytes = 0;
    for (let round = 0; round < (quick ? 2 : 5); round += 1) {
      const [suspendS, resumeS] = await undisturbed(log, async () => {
        let askedAtMs = performance.now();
        await lab.client.request('suspend', { machine: MACHINE });
        const suspended = (performance.now() - askedAtMs) / 1_000;
        const { blocks } = await stat(path.join(lab.home.machinesDirectory, MACHINE, 'memory/ram'));
        imageBytes = blocks * 512;
        askedAtMs = performance.now();
        await lab.resume(MACHINE);
        await lab.reaches(MACHINE, 'running');
        return [suspended, (performance.now() - askedAtMs) / 1_000] as const;
      });
      suspends.push(suspendS);
      resumes.push(resumeS);
      log(`${what}: suspended in ${suspendS.toFixed(2)} s, resumed in ${resumeS.toFixed(2)} s`);
    }
    const note = (values: readonly number[]): string => `${interval(values)}, memory image ${imageBytes >> 20} MiB`;
    cases.push(
      informs(`suspend, ${what}`, median(suspends), 's', note(suspends)),
      informs(`resume, ${what}`, median(resumes), 's', note(resumes)),
    );
  }
  return cases;
};
